"""Write clips to video files, one by one or as grids with captions."""

import functools
import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont

from fastvgan.errors import UserError
from fastvgan.files.atomic import whole
from fastvgan.files.pictures import to_picture, to_pixels, to_tensor
from fastvgan.files.video_formats import check_format, check_sides
from fastvgan.machine.memory import check_memory

if TYPE_CHECKING:
    import numpy as np

_LEAST = 96  # pixels a side that a clip in a grid is enlarged to
_LEAST_STILL, _SHOWN = 64, 16  # the same in a picture of frames, and how many frames it shows
_BACKGROUND, _INK = 24, (230, 230, 230)
_LINE, _GAP = 14, 4
_MOST_SECONDS = 655  # of a frame of a .gif


def write_video(path: Path, frames: "np.ndarray | torch.Tensor", fps: float = 8) -> None:
    """Write one clip atomically to .mp4 (H.264), .gif, or .png (all frames side by side).

    Args:
        path: file to write.
        frames: uint8 (T, H, W, C) with C = 1 or 3.
        fps: frames per second.

    Raises:
        UserError: the format does not support the suffix, rate or size, a .gif stands still for more than 655 seconds,
            PyAV, which writes .mp4, is not installed, or the file cannot be written.
    """
    check_format(path, fps)
    frames = _rgb(frames)
    if path.suffix.lower() == ".png":
        write_still(path, torch.cat(list(frames), 1))
        return
    length, height, width, _ = frames.shape
    check_sides(path, length, height, width)
    with whole(path) as temporary:
        {".mp4": _write_mp4, ".gif": _write_gif}[path.suffix.lower()](temporary, frames, fps)


def write_still(path: Path, picture: "np.ndarray | torch.Tensor") -> None:
    """Write an image, uint8 (H, W, 3), atomically.

    Raises:
        UserError: the file cannot be written.
    """
    with whole(path) as temporary:
        to_picture(to_tensor(picture)).save(temporary)


def grid(
    videos: "np.ndarray | torch.Tensor", labels: list[str] | None = None, columns: int | None = None, scale: int = 0
) -> torch.Tensor:
    """Arrange clips in a grid, row by row.

    Args:
        videos: uint8 (N, T, H, W, C).
        labels: texts below the clips.
        columns: clips per row; by default about as many as rows.
        scale: factor by which pixels are enlarged; 0 enlarges small clips to 96 pixels or more.

    Returns:
        One clip, uint8 (T, H', W', 3).
    """
    videos = enlarge(_rgb(videos), scale)
    n, frames, height, width, _ = videos.shape
    columns = columns or _columns(n)
    texts = [_wrap(label, width + _GAP) for label in labels] if labels else []
    below = _LINE * max((len(text) for text in texts), default=0) + _GAP
    cell = (height + below, width + 2 * _GAP)
    canvas = Image.new("RGB", (columns * cell[1], math.ceil(n / columns) * cell[0] + _GAP), (_BACKGROUND,) * 3)
    places = [(_GAP + i // columns * cell[0], _GAP + i % columns * cell[1]) for i in range(n)]
    for (top, left), text in zip(places, texts, strict=False):
        _draw(canvas, text, left - _GAP // 2, top + height + 1)
    result = to_pixels(canvas).repeat(frames, 1, 1, 1)
    for (top, left), video in zip(places, videos, strict=True):
        result[:, top : top + height, left : left + width] = video
    return result


def grid_size(
    n: int, frames: int, height: int, width: int, columns: int | None = None, scale: int = 0
) -> tuple[int, int]:
    """Return height and width in pixels of the `grid` of n clips, or of the clip itself if n is 1."""
    scale = scale or math.ceil(_LEAST / min(height, width))
    height, width = height * scale, width * scale
    if n == 1:
        return height, width
    columns = columns or _columns(n)
    return math.ceil(n / columns) * (height + _GAP) + _GAP, columns * (width + 2 * _GAP)


def strip_size(n: int, frames: int, height: int, width: int, scale: int = 0) -> tuple[int, int]:
    """Return height and width in pixels of the image that `strip_grid` makes of n clips."""
    scale = scale or math.ceil(_LEAST_STILL / min(height, width))
    return n * (height * scale + 1), min(frames, _SHOWN) * (width * scale + 1)


def check_written_size(path: Path, shape: Sequence[int], columns: int | None = None, scale: int = 0) -> None:
    """Check that clips fit into a file of this format, as `grid` or `strip_grid` lays them out, and into memory.

    Args:
        path: the file, of a format that `check_format` accepts.
        shape: number of clips, frames, height and width.
        columns: as `grid` takes it.
        scale: as they take it.

    Raises:
        UserError: the picture is too large.
    """
    frames = shape[1]
    if path.suffix.lower() == ".png":
        frames, (height, width) = 1, strip_size(*shape, scale=scale)
    else:
        height, width = grid_size(*shape, columns=columns, scale=scale)
    check_sides(path, frames, height, width)
    # The enlarged clips and the grid of them, with three bytes per pixel.
    check_memory(
        2 * 3 * frames * height * width,
        f"{path} of {frames} frames of {height}x{width} pixels",
        "use fewer clips, fewer frames or a smaller scale",
    )


def _columns(n: int) -> int:
    return math.ceil(math.sqrt(n))


def strip_grid(videos: "np.ndarray | torch.Tensor", labels: list[str] | None = None, scale: int = 0) -> torch.Tensor:
    """Arrange the frames of clips in one image: one row per clip, with its label on the left.

    At most 16 frames per clip are shown, evenly spaced.

    Args:
        videos: uint8 (N, T, H, W, C).
        labels: texts beside the clips.
        scale: factor by which pixels are enlarged; 0 enlarges small clips to 64 pixels or more.

    Returns:
        uint8 (H', W', 3).
    """
    videos = _rgb(videos)
    shown = sorted({round(i * (videos.shape[1] - 1) / (_SHOWN - 1)) for i in range(_SHOWN)})
    videos = enlarge(videos[:, shown], scale or math.ceil(_LEAST_STILL / min(videos.shape[2:4])))
    n, frames, height, width, _ = videos.shape
    margin = 120 if labels else 0
    canvas = Image.new("RGB", (margin + frames * (width + 1), n * (height + 1)), (_BACKGROUND,) * 3)
    for i, label in enumerate(labels or ()):
        _draw(canvas, _wrap(label, margin - _GAP), _GAP, i * (height + 1) + _GAP)
    result = to_pixels(canvas)
    for i, video in enumerate(videos):
        for t, frame in enumerate(video):
            top, left = i * (height + 1), margin + t * (width + 1)
            result[top : top + height, left : left + width] = frame
    return result


def _rgb(videos: "np.ndarray | torch.Tensor") -> torch.Tensor:
    videos = to_tensor(videos)
    return videos.repeat_interleave(3, -1) if videos.shape[-1] == 1 else videos


def enlarge(videos: "np.ndarray | torch.Tensor", scale: int = 0) -> torch.Tensor:
    """Repeat pixels of clips, shape (..., H, W, C), scale x scale times; 0 makes the shorter side 96 pixels or more."""
    videos = to_tensor(videos)
    scale = scale or math.ceil(_LEAST / min(videos.shape[-3:-1]))
    return videos.repeat_interleave(scale, -3).repeat_interleave(scale, -2)


def _wrap(label: str, width: int) -> list[str]:
    """Break a label into at most three lines of at most `width` pixels."""
    font, lines = _font(), [""]
    for letters in range(max(4, width // 3), 3, -1):  # few letters are narrower than 3 pixels
        lines = textwrap.wrap(label, letters, max_lines=3, placeholder="…") or [""]
        if all(font.getlength(line) <= width for line in lines):
            break
    return lines


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)  # at size 11 it has no space between a digit and an m


def _draw(canvas: Image.Image, text: list[str], left: int, top: int) -> None:
    font = _font()
    for i, line in enumerate(text):
        ImageDraw.Draw(canvas).text((left, top + i * _LINE), line, _INK, font)


def _write_mp4(path: Path, frames: torch.Tensor, fps: float) -> None:
    from fastvgan.files.encoding import encode  # imports PyAV, which only .mp4 needs

    encode(path, frames.numpy(), fps)


def _write_gif(path: Path, frames: torch.Tensor, fps: float) -> None:
    # One palette for all frames, so that a still background does not flicker.
    palette = to_picture(frames.flatten(0, 1)).quantize(255, dither=Image.Dither.NONE)
    pictures = [to_picture(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # Times are whole 1/100 s; rounding each start, not each duration, keeps errors from adding up.
    begins = [round(100 * i / fps) for i in range(len(pictures) + 1)]
    durations = [10 * (end - begin) for begin, end in itertools.pairwise(begins)]
    _check_durations(pictures, durations, fps)
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _check_durations(pictures: Sequence[Image.Image], durations: Sequence[int], fps: float) -> None:
    """Check how long a .gif stands still: Pillow joins equal frames, and a frame has 16 bits for its 1/100 s."""
    groups = itertools.groupby(zip(pictures, durations, strict=True), key=lambda each: each[0].tobytes())
    longest = max(sum(duration for _, duration in group) for _, group in groups) / 1000
    if longest > _MOST_SECONDS:
        raise UserError(
            f"{fps:g} frames per second: a .gif shows equal frames for at most {_MOST_SECONDS} seconds together, and "
            f"this clip stands still for {longest:g}; pass a higher rate, or write .mp4"
        )
