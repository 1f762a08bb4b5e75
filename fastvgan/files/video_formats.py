"""Formats of video files and their limits; imports nothing heavy."""

from pathlib import Path
from typing import NamedTuple

from fastvgan.errors import UserError
from fastvgan.machine.optional import check_installed


class Format(NamedTuple):
    """Limits of a format: frames per second, the reason for that limit, and the longest side in pixels."""

    most_fps: float
    why: str
    side: int


LEAST_FPS = 0.01
MOST_PIXELS = 2**28
FORMATS = {
    ".mp4": Format(1000, "", 16384),  # libx264's
    ".gif": Format(50, ", since viewers slow down frames shorter than 2/100 s", 65535),
    ".png": Format(float("inf"), "", 65535),
}


def check_format(path: Path, fps: float) -> None:
    """Check the suffix and the frame rate of a video file.

    Raises:
        UserError: the suffix is not .mp4, .gif or .png, the format does not support the frame rate, or PyAV, which
            writes .mp4, is not installed.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: unsupported video format; pass a .mp4, .gif or .png file")
    if not LEAST_FPS <= fps <= form.most_fps and path.suffix.lower() != ".png":
        raise UserError(
            f"{path}: {fps:g} frames per second; {path.suffix} supports {LEAST_FPS} to {form.most_fps}{form.why}"
        )
    if path.suffix.lower() == ".mp4":
        check_installed("av", "video", f"{path}: .mp4", "write a .gif file")


def check_sides(path: Path, frames: int, height: int, width: int) -> None:
    """Check that a file of this format can hold the frames, and that writing does not take minutes.

    Raises:
        UserError: the frames are too large or too many.
    """
    side = FORMATS[path.suffix.lower()].side
    if max(height, width) <= side and frames * height * width <= MOST_PIXELS:
        return
    raise UserError(
        f"{path}: {frames} frames of {height}x{width} pixels; {path.suffix} is limited to {side} pixels per side and "
        f"{MOST_PIXELS:,} in total; make fewer or shorter videos, or enlarge them less"
    )
