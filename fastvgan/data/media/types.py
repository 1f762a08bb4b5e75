"""Where the frames of a clip are, and what is known of them; `fastvgan.data.media.frames` reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

KINDS = ("video", "tar", "frames", "zip", "strip", "animation")
MOST_FRAMES = 10**7  # of a clip; frames without bound would be memory without bound
FARTHEST = 2**62  # of times in a stream's units; differences of such, too, have 64 bits
_SLIMMEST = 64  # times that one side of a frame may be as long as the other


@dataclass(frozen=True)
class Media:
    """The frames of one clip.

    kind: "video" (a video file), "tar" (a video file in a tar), "frames" (a folder of pictures), "zip" (pictures in a
        zip file), "strip" (one picture of all frames side by side or one below the other), "animation" (a WebP or PNG
        file that moves, a TIFF file of several pages).
    path: the file or folder; a URL of fsspec for the first two kinds where it is not on this machine.
    member: the file's name in the tar; the folder in the zip, "" for its root; of "video" and "animation", the file's
        name where `path` is a zip file that holds it.
    span: of "tar", where the file begins and how long it is, in bytes.
    strip_frames: of "strip", how many frames there are; 0 where they are square.
    within: of "frames", the real place of a folder that pictures must lie in; None takes what links lead to, anywhere.
    """

    kind: str
    path: "Path | str"
    member: str = ""
    span: tuple[int, int] | None = None
    strip_frames: int = 0
    within: Path | None = None


class Probe(NamedTuple):
    """What decoding a clip from end to end found.

    pts: int64 (frames,), presentation time of each frame in the stream's time base, or None where there are none that
        rise. keys: indices of key frames, for seeking. height, width: as shown. fps: mean frames a
        second, or None where no time is known or next to nothing is left. steady: whether all frames last equally
        long. rotation: degrees, counter-clockwise, that the file asks for. colours: "bt709" or "bt2020" where the file
        says so, "" for others. stream: which of the file's video streams it is. mirrored: whether the file asks for
        frames to be mirrored from left to right before they are rotated. square_pixels: whether frames are shown in
        the proportions that they are stored in. interlaced: whether frames are made whole out of two fields each, by
        FFmpeg's filter bwdif. transparent: whether pixels may be transparent, which shows black.
    """

    frames: int
    height: int
    width: int
    codec: str
    fps: float | None = None
    steady: bool = True
    rotation: int = 0
    pts: np.ndarray | None = None
    keys: tuple[int, ...] = ()
    colours: str = ""
    stream: int = 0
    mirrored: bool = False
    square_pixels: bool = True
    interlaced: bool = False
    transparent: bool = False


class BadVideo(Exception):
    """A clip that gives no frames that could be trusted; the message is the reason."""

    @property
    def lasts(self) -> bool:
        """Whether it is so as long as the file is the same; not where it could not be read, or memory ran out."""
        cause = self.__cause__
        if isinstance(cause, BadVideo):
            return cause.lasts
        # Pillow's errors of damage are OSErrors, too, but have no number.
        return not isinstance(cause, MemoryError) and not (isinstance(cause, OSError) and cause.errno)


class Damaged(BadVideo):
    """What begins as it should, or ought to, and cannot be decoded; the message is what the library says."""


def check_probe(found: Probe) -> None:
    """Refuse a clip that decodes well and yet cannot be used.

    Raises:
        BadVideo: it has too many frames, or such as `cover` refuses.
    """
    if found.frames > MOST_FRAMES:
        raise BadVideo(f"has {found.frames} frames, more than the {MOST_FRAMES} that a clip may have")
    cover((found.height, found.width), found.height, found.width)


def cover(shown: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """The height and width to scale frames of `shown` (height, width) to, so that they just cover height x width.

    Raises:
        BadVideo: they are so slim that what lies beyond that size would fill the memory.
    """
    if max(shown) > _SLIMMEST * min(shown):
        raise BadVideo(f"has frames of {shown[1]}x{shown[0]}, one side more than {_SLIMMEST} times the other")
    scale = max(height / shown[0], width / shown[1])
    return max(height, round(shown[0] * scale)), max(width, round(shown[1] * scale))
