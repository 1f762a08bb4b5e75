"""What `prepare` can be told."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fastvgan.errors import UserError
from fastvgan.settings import Settings


class PrepareConfig(Settings):
    """Check a folder of clips once, and write what training needs of it."""

    to: Literal["manifest", "clips", "shards", "tars"] = "manifest"
    """`manifest`: only a list of the clips, which stay where they are. `clips`: video files of constant rate with a key
    frame every --gop frames. `shards`: decoded frames, the fastest to train on (give --height and --width). `tars`:
    such video files in tar files of the WebDataset layout."""
    layout: Literal["auto", "videos", "frames", "strips"] = "auto"
    """What the folder holds: video files, folders and zip files of pictures, or pictures that are strips of frames."""
    split_file: Path | None = None
    """Take only what this file lists, a path a line (UCF-101's trainlist01.txt)."""
    strip_frames: int = Field(0, ge=0, le=10**6)
    """Frames in a strip, where they are not square."""
    fps: float | None = Field(None, ge=0.001, le=1000)
    """Frames a second of what is written; by default each clip's own, and 25 where that is not known."""
    height: int | None = Field(None, ge=1, le=8192)
    """Scale to just cover this height and --width; by default frames keep their size."""
    width: int | None = Field(None, ge=1, le=8192)
    """See --height."""
    channels: Literal[1, 3] = 3
    """Of shards: 3, or 1 for grey."""
    codec: Literal["vp9", "h264"] = "vp9"
    """Of written video files; DALI decodes VP9 on a CPU and both on a GPU."""
    gop: int = Field(12, ge=1, le=10000)
    """Frames from one key frame to the next in written video files: fewer are found faster and take more room."""
    shard_size: int = Field(256, ge=1, le=10**6)
    """MiB of a shard or a tar, about."""
    min_frames: int = Field(2, ge=1, le=10**6)
    """Clips with fewer frames are rejected."""
    tolerant: bool = False
    """Take damaged files too: what FFmpeg mends, and what comes before damage that it cannot mend."""
    max_bad: float = Field(0.5, ge=0, le=1)
    """With more than this share of the clips rejected nothing is written."""
    follow_links: bool = False
    """Read what symbolic links in the folder point to, even outside of it."""
    keep_free: float = Field(1.0, ge=0, le=1e9)
    """GiB of the disk that stay free."""
    workers: int = Field(0, ge=0, le=1024)
    """Files that are worked on at the same time; 0: as many as there are processors."""

    @model_validator(mode="after")
    def _together(self):
        if (self.height is None) != (self.width is None):
            raise UserError("give --height and --width together")
        if self.to == "manifest" and (self.fps or self.height):
            raise UserError("--fps, --height and --width change clips; say what to write by --to clips, shards or tars")
        if self.to == "shards" and self.height is None:
            raise UserError("shards hold frames of one size: give --height and --width")
        return self
