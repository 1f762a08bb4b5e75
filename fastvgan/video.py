"""Writing clips: as video files, and as grids of many with captions."""

import math
import textwrap
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fastvgan.errors import UserError

_LEAST = 96  # pixels a side that a clip in a grid is enlarged to
_BACKGROUND, _INK = 24, (230, 230, 230)
_LINE, _GAP = 12, 4


def write_video(path: Path, frames: "np.ndarray | torch.Tensor", fps: float = 8) -> None:
    """Write one clip, uint8 (T, H, W, C) with C = 1 or 3, to .mp4 (H.264), .gif, or .png (frames side by side).

    The file appears whole or not at all.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    frames = _rgb(frames)
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    if path.suffix.lower() == ".png":
        write_still(path, np.concatenate(list(frames), axis=1))
    elif path.suffix.lower() in writers:
        with _whole(path) as temporary:
            writers[path.suffix.lower()](temporary, frames, fps)
    else:
        raise UserError(f"{path}: videos are written as .mp4, .gif or .png; name one of these")


def write_still(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 (H, W, 3), whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with _whole(path) as temporary:
        Image.fromarray(picture).save(temporary)


def grid(
    videos: "np.ndarray | torch.Tensor", labels: list[str] | None = None, columns: int | None = None, scale: int = 0
) -> np.ndarray:
    """Many clips as one: uint8 (N, T, H, W, C) to (T, H', W', 3), row by row, each with its label below.

    Args:
        columns: how many side by side; about as many as there are rows unless told.
        scale: pixels a side for each pixel; 0 enlarges small clips to 96 pixels or more.
    """
    videos = enlarge(_rgb(videos), scale)
    n, frames, height, width, _ = videos.shape
    columns = columns or math.ceil(math.sqrt(n))
    texts = [_wrap(label, width + _GAP) for label in labels] if labels else []
    below = _LINE * max((len(text) for text in texts), default=0) + _GAP
    rows = math.ceil(n / columns)
    cell = (height + below, width + 2 * _GAP)
    canvas = Image.new("RGB", (columns * cell[1], rows * cell[0] + _GAP), (_BACKGROUND,) * 3)
    places = [(_GAP + i // columns * cell[0], _GAP + i % columns * cell[1]) for i in range(n)]
    for (top, left), text in zip(places, texts, strict=False):
        _draw(canvas, text, left - _GAP // 2, top + height + 1)
    result = np.repeat(np.array(canvas)[None], frames, 0)
    for (top, left), video in zip(places, videos, strict=True):
        result[:, top : top + height, left : left + width] = video
    return result


def strip_grid(videos: "np.ndarray | torch.Tensor", labels: list[str] | None = None, scale: int = 0) -> np.ndarray:
    """Clips as a still picture: uint8 (N, T, H, W, C) to (H', W', 3); a row a clip, label left, time to the right.

    Of more than 16 frames, 16 are shown at even distances.
    """
    videos = _rgb(videos)
    shown = np.unique(np.linspace(0, videos.shape[1] - 1, 16).round().astype(int))
    videos = enlarge(videos[:, shown], scale or math.ceil(64 / min(videos.shape[2:4])))
    n, frames, height, width, _ = videos.shape
    margin = 120 if labels else 0
    canvas = Image.new("RGB", (margin + frames * (width + 1), n * (height + 1)), (_BACKGROUND,) * 3)
    for i, label in enumerate(labels or ()):
        _draw(canvas, _wrap(label, margin), _GAP, i * (height + 1) + _GAP)
    result = np.array(canvas)
    for i, video in enumerate(videos):
        for t, frame in enumerate(video):
            top, left = i * (height + 1), margin + t * (width + 1)
            result[top : top + height, left : left + width] = frame
    return result


def _rgb(videos) -> np.ndarray:
    videos = np.asarray(videos)
    return np.repeat(videos, 3, -1) if videos.shape[-1] == 1 else videos


def enlarge(videos: "np.ndarray | torch.Tensor", scale: int = 0) -> np.ndarray:
    """Each pixel of clips (..., H, W, C) as scale x scale pixels; 0 makes the shorter side 96 pixels or more."""
    videos = np.asarray(videos)
    scale = scale or math.ceil(_LEAST / min(videos.shape[-3:-1]))
    return videos.repeat(scale, -3).repeat(scale, -2)


def _wrap(label: str, width: int) -> list[str]:
    letters = max(4, width // 6)  # Pillow's own font at size 11 is about 6 pixels a letter
    return textwrap.wrap(label, letters, max_lines=3, placeholder="…") or [""]


def _draw(canvas: Image.Image, text: list[str], left: int, top: int) -> None:
    font = ImageFont.load_default(11)
    for i, line in enumerate(text):
        ImageDraw.Draw(canvas).text((left, top + i * _LINE), line, _INK, font)


def _write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    _, height, width, _ = frames.shape
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # yuv420p takes even sizes
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "16"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: np.ndarray, fps: float) -> None:
    # One palette for all frames, so that a still background does not flicker.
    palette = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(255, dither=Image.Dither.NONE)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)


@contextmanager
def _whole(path: Path):
    """A temporary file beside `path` that takes its place when all went well."""
    temporary = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        if not path.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it first")
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
