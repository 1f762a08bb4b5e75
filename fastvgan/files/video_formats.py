"""Which files videos are written to, and what those can hold; without anything that takes time to import."""

from pathlib import Path
from typing import NamedTuple

from fastvgan.errors import UserError


class Format(NamedTuple):
    """Frames a second at most, why no more, and the longest side in pixels."""

    most_fps: float
    why: str
    side: int


LEAST_FPS = 0.01
MOST_PIXELS = 2**28
FORMATS = {
    ".mp4": Format(1000, "", 16384),  # libx264's
    ".gif": Format(50, ", since its times are whole 1/100 s and viewers slow down frames of less than two", 65535),
    ".png": Format(float("inf"), "", 65535),
}


def check_format(path: Path, fps: float) -> None:
    """Refuse a name or a rate that no video is written with.

    Raises:
        UserError: the suffix is another than .mp4, .gif and .png, or the rate is not shown by such a file.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path}: videos are written as .mp4, .gif or .png; name one of these")
    if not LEAST_FPS <= fps <= form.most_fps and path.suffix.lower() != ".png":
        raise UserError(
            f"{path}: {fps:g} frames a second; a {path.suffix} shows {LEAST_FPS} to {form.most_fps}{form.why}"
        )


def check_sides(path: Path, frames: int, height: int, width: int) -> None:
    """Refuse frames that a file of that name cannot hold, or takes minutes to be written with.

    Raises:
        UserError: they are too large, or too many.
    """
    side = FORMATS[path.suffix.lower()].side
    if max(height, width) <= side and frames * height * width <= MOST_PIXELS:
        return
    raise UserError(
        f"{path}: {frames} frames of {height}x{width} pixels; a {path.suffix} may have {side} pixels a side, and "
        f"{MOST_PIXELS:,} in all: make fewer or shorter videos, or enlarge them less"
    )
