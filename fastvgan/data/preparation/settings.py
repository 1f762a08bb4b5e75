"""Settings of `prepare`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fastvgan.errors import UserError
from fastvgan.settings import Settings

# The targets of --to that a setting has an effect on.
_TARGETS = {
    "channels": ("shards",),
    "codec": ("clips", "tars"),
    "gop": ("clips", "tars"),
    "shard_size": ("shards", "tars"),
}


class PrepareConfig(Settings):
    """Check a folder of clips once, and write the files that training reads."""

    to: Literal["manifest", "clips", "shards", "tars"] = "manifest"
    """`manifest`: only a list of the clips, which stay where they are. `clips`: video files of constant rate with a key
    frame every --gop frames. `shards`: decoded frames, the fastest to train on (needs --height and --width). `tars`:
    video files as by `clips`, in tar files of the WebDataset layout."""
    layout: Literal["auto", "videos", "frames", "strips"] = "auto"
    """Content of the folder: video files, folders and zip files of pictures, or pictures that are strips of frames."""
    split_file: Path | None = None
    """Use only the clips that this file lists, one path per line (UCF-101's trainlist01.txt)."""
    strip_frames: int = Field(0, ge=0, le=10**6)
    """Frames per strip, if they are not square."""
    fps: float | None = Field(None, ge=0.001, le=1000)
    """Frames per second of the written clips; by default each clip's own rate, or 25 if it is unknown."""
    height: int | None = Field(None, ge=1, le=8192)
    """Scale to just cover this height and --width; by default frames keep their size."""
    width: int | None = Field(None, ge=1, le=8192)
    """See --height."""
    channels: Literal[1, 3] = 3
    """Channels of shards: 3, or 1 for grey."""
    codec: Literal["vp9", "h264"] = "vp9"
    """Codec of written video files; DALI decodes VP9 on a CPU, and both on a GPU."""
    gop: int = Field(12, ge=1, le=10000)
    """Frames from one key frame to the next in written video files: smaller values seek faster and take more space."""
    shard_size: int = Field(256, ge=1, le=10**6)
    """Approximate size of a shard or a tar, in MiB."""
    min_frames: int = Field(2, ge=1, le=10**6)
    """Clips with fewer frames are rejected."""
    tolerant: bool = False
    """Use damaged files too: frames in which FFmpeg conceals errors, and all frames before damage that it cannot
    conceal."""
    max_bad: float = Field(0.5, ge=0, le=1)
    """Write nothing if more than this share of the clips is rejected."""
    follow_links: bool = False
    """Follow symbolic links, even out of the folder."""
    keep_free: float = Field(1.0, ge=0, le=1e9)
    """GiB of the disk that must stay free."""
    workers: int = Field(0, ge=0, le=1024)
    """Files that are processed at the same time; 0 for the number of processors."""

    @model_validator(mode="after")
    def _check_combination(self) -> "PrepareConfig":
        if (self.height is None) != (self.width is None):
            raise UserError("pass --height and --width together")
        if self.to == "manifest" and (self.fps or self.height):
            raise UserError("--fps, --height and --width change clips; pass --to clips, --to shards or --to tars")
        if self.to == "shards" and self.height is None:
            raise UserError("--to shards writes frames of one size; pass --height and --width")
        for name, targets in _TARGETS.items():
            value = getattr(self, name)
            if self.to not in targets and value != type(self).model_fields[name].default:
                others = " or ".join(f"--to {target}" for target in targets)
                typed = f"--{name.replace('_', '-')} {value}"
                raise UserError(f"{typed} has no effect with --to {self.to}; leave it out, or pass {others}")
        return self
