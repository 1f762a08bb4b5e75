"""Locations and properties of clips' frames, which `fastvgan.data.media.frames` reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

KINDS = ("video", "tar", "frames", "zip", "strip", "animation")
MOST_FRAMES = 10**7  # largest number of frames per clip; it bounds memory
LARGEST_SIDE = 8192  # pixels; a tiny file can declare frames that fill the memory
FARTHEST = 2**62  # largest time in a stream's units, so that differences fit into 64 bits
_SLIMMEST = 64  # largest ratio of a frame's sides


@dataclass(frozen=True)
class Media:
    """The frames of one clip.

    kind: "video" (a video file), "tar" (a video file in a tar), "frames" (a folder of pictures), "zip" (pictures in a
        zip file), "strip" (one picture of all frames side by side or one below the other), "animation" (an animated
        WebP or PNG file, or a TIFF file of several pages).
    path: The file or folder; for "video" and "tar" a URL that fsspec opens if it is not on this machine.
    member: For "tar", the file's name in the tar; for "zip", the folder in the zip, "" for its root; for "video" and
        "animation", the file's name in the zip if `path` is a zip file.
    span: For "tar", the first byte of the file and its number of bytes.
    strip_frames: For "strip", the number of frames; 0 for square frames.
    within: For "frames", the resolved path of a folder that links must not lead out of; None follows all links.
    """

    kind: str
    path: "Path | str"
    member: str = ""
    span: tuple[int, int] | None = None
    strip_frames: int = 0
    within: Path | None = None


class Probe(NamedTuple):
    """Properties of a clip, found by decoding it from end to end.

    frames: Number of frames.
    height: Height as shown, in pixels.
    width: Width as shown, in pixels.
    codec: FFmpeg's or Pillow's name of the codec.
    fps: Mean frames per second; None if no times are known, or if it rounds to 0.
    steady: Whether all frames have the same duration.
    rotation: Counter-clockwise rotation that the file asks for, in degrees.
    pts: int64 (frames,), presentation times in the stream's time base; None if they do not rise.
    keys: Indices of key frames, for seeking.
    colours: "bt709" or "bt2020" if the file declares it, else "".
    stream: Number of the film among the file's video streams.
    mirrored: Whether the file asks for mirroring from left to right before the rotation.
    square_pixels: Whether frames are shown in the proportions in which they are stored.
    interlaced: Whether FFmpeg's filter bwdif makes each frame of two fields.
    transparent: Whether pixels may be transparent; they become black.
    """

    frames: int
    height: int
    width: int
    codec: str
    fps: float | None = None
    steady: bool = True
    rotation: int = 0
    pts: "np.ndarray | None" = None
    keys: tuple[int, ...] = ()
    colours: str = ""
    stream: int = 0
    mirrored: bool = False
    square_pixels: bool = True
    interlaced: bool = False
    transparent: bool = False


class BadVideo(Exception):
    """A clip without reliable frames; the message is the reason."""

    @property
    def lasts(self) -> bool:
        """Whether the error lasts while the file is unchanged, unlike a read error or a lack of memory."""
        cause = self.__cause__
        if isinstance(cause, BadVideo):
            return cause.lasts
        # Pillow's errors of damage are OSErrors, too, but have no number.
        return not isinstance(cause, MemoryError) and not (isinstance(cause, OSError) and cause.errno)


class Damaged(BadVideo):
    """A file that cannot be decoded; the message is the library's."""


def check_probe(found: Probe) -> None:
    """Refuse a clip that decodes without errors but is unusable.

    Raises:
        BadVideo: It has too many frames, or `cover` refuses their size.
    """
    if found.frames > MOST_FRAMES:
        raise BadVideo(f"has {found.frames} frames, more than the {MOST_FRAMES} that a clip may have")
    cover((found.height, found.width), found.height, found.width)


def cover(shown: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Compute the smallest (height, width) of scaled frames that covers height x width.

    Args:
        shown: Height and width of the frames.
        height: Height to cover.
        width: Width to cover.

    Raises:
        BadVideo: The frames are so slim that the part outside would fill the memory.
    """
    if max(shown) > _SLIMMEST * min(shown):
        raise BadVideo(f"has frames of {shown[1]}x{shown[0]}, one side more than {_SLIMMEST} times the other")
    scale = max(height / shown[0], width / shown[1])
    return max(height, round(shown[0] * scale)), max(width, round(shown[1] * scale))
