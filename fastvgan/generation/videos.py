"""Clips as results: save them, show them in a notebook, or pass them on as PIL images, tensors or arrays."""

import base64
import html
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Union, overload

import torch
from PIL import Image

from fastvgan.data.media.image_input import ImageInput, read_image
from fastvgan.errors import UserError
from fastvgan.files import video as video_files
from fastvgan.files import video_formats
from fastvgan.files.pictures import to_picture, to_pixels, to_tensor
from fastvgan.generation.inputs import whole_number
from fastvgan.machine.optional import check_installed

if TYPE_CHECKING:
    import numpy as np

FPS = 8.0  # the default of `fastvgan generate`
_MOST_SHOWN = 16  # clips in a notebook


class _Frames:
    """The frames of one clip or of several, and their conversions."""

    _dimensions: ClassVar[str]  # such as "(T, H, W, C)"

    def __init__(self, frames: "torch.Tensor | np.ndarray", fps: float):
        self.frames = _check_frames(frames, self._dimensions)
        self.fps = fps

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def shape(self) -> torch.Size:
        """The shape of `frames`."""
        return self.frames.shape

    def to_tensor(self) -> torch.Tensor:
        """Return `frames`."""
        return self.frames

    def to_numpy(self) -> "np.ndarray":
        """Return `frames` as an array.

        Raises:
            UserError: numpy is not installed.
        """
        check_installed("numpy", "video", "to_numpy", "use to_tensor")
        return self.frames.numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray":
        array = self.to_numpy()
        return array.astype(dtype or array.dtype, copy=bool(copy))


class Video(_Frames):
    """One clip.

    Args:
        frames: a tensor or an array, uint8 (T, H, W, C) with C = 1 or 3.
        fps: frames per second of files that are written.
        caption: what the clip shows, for a notebook.

    Attributes:
        frames: the frames, uint8 (T, H, W, C) on the CPU.
    """

    _dimensions = "(T, H, W, C)"

    def __init__(self, frames: "torch.Tensor | np.ndarray", fps: float = FPS, caption: str = ""):
        super().__init__(frames, fps)
        self.caption = caption

    def __repr__(self) -> str:
        return f"Video({_describe(self.frames, self.fps)})"

    def save(self, path: str | os.PathLike, fps: float | None = None, scale: int = 0) -> None:
        """Write the clip to a file.

        Args:
            path: .mp4, .gif, or .png for up to 16 of the frames, evenly spaced, side by side.
            fps: frames per second, by default the clip's.
            scale: factor by which pixels are enlarged; 0 enlarges small clips so that they are easy to see.

        Raises:
            UserError: the format does not support the suffix, rate or size, or the file cannot be written.
        """
        Videos(self.frames[None], self.fps).save(path, fps, scale)

    def to_pil(self) -> list[Image.Image]:
        """Return the frames as T images of mode L or RGB."""
        return [to_picture(frame) for frame in self.frames]

    def _repr_html_(self) -> str:
        return Videos(self.frames[None], self.fps, [self.caption])._repr_html_()


class Videos(_Frames, Sequence[Video]):
    """Several clips of one size. `videos[i]` is a `Video`, `videos[i:j]` are `Videos`.

    Args:
        frames: a tensor or an array, uint8 (N, T, H, W, C) with C = 1 or 3.
        fps: frames per second of files that are written.
        captions: what each clip shows, for a notebook; N sentences, or none.

    Attributes:
        frames: the frames, uint8 (N, T, H, W, C) on the CPU.
    """

    _dimensions = "(N, T, H, W, C)"

    def __init__(self, frames: "torch.Tensor | np.ndarray", fps: float = FPS, captions: Sequence[str] = ()):
        super().__init__(frames, fps)
        self.captions = list(captions) or [""] * len(frames)
        if len(self.captions) != len(frames):
            raise UserError(f"{len(frames)} clips have {len(self.captions)} captions; pass one for each clip, or none")

    @overload
    def __getitem__(self, index: int) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> "Videos": ...

    def __getitem__(self, index: int | slice) -> "Video | Videos":
        if isinstance(index, slice):
            # torch's slices cannot go backwards, and its lists of indices copy.
            rows = list(range(len(self)))[index] if (index.step or 1) < 0 else index
            return Videos(self.frames[rows], self.fps, self.captions[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return Video(self.frames[index], self.fps, self.captions[index])

    def __iter__(self) -> Iterator[Video]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        clips = f"{len(self)} clip{'s' * (len(self) != 1)}"
        return f"Videos({clips} of {_describe(self.frames[0], self.fps)})" if len(self) else "Videos(0 clips)"

    def save(
        self, path: str | os.PathLike, fps: float | None = None, scale: int = 0, columns: int | None = None
    ) -> None:
        """Write the clips to one file: one clip as it is, several side by side.

        Args:
            path: .mp4, .gif, or .png for up to 16 frames of each clip, evenly spaced, side by side in one row per clip.
            fps: frames per second, by default `fps` of the clips.
            scale: factor by which pixels are enlarged; 0 enlarges small clips so that they are easy to see.
            columns: clips per row of .mp4 and .gif; by default about as many as rows.

        Raises:
            UserError: there are no clips, the format does not support the suffix, rate or size, memory does not
                suffice, or the file cannot be written.
        """
        path, fps = Path(path), self.fps if fps is None else fps
        if not len(self):
            raise UserError(f"{path}: there are no clips to write; make at least one")
        if not isinstance(scale, int) or isinstance(scale, bool) or scale < 0:
            raise UserError(f"scale {scale}: pass 0 or the factor by which pixels are enlarged, a whole number")
        columns = None if columns is None else whole_number("columns", columns)
        video_formats.check_format(path, fps)
        video_files.check_written_size(path, self.shape[:4], columns, scale)
        if path.suffix.lower() == ".png":
            video_files.write_still(path, video_files.strip_grid(self.frames, scale=scale))
        elif len(self) == 1:
            video_files.write_video(path, video_files.enlarge(self.frames[0], scale), fps)
        else:
            video_files.write_video(path, video_files.grid(self.frames, columns=columns, scale=scale), fps)

    def to_pil(self) -> list[list[Image.Image]]:
        """Return the frames of each clip as images of mode L or RGB: N lists of T."""
        return [video.to_pil() for video in self]

    def _repr_html_(self) -> str:
        """Show the clips in a notebook, as animations with their captions."""
        shown = "".join(_figure(video) for video in self[:_MOST_SHOWN])
        more = f"<p>and {len(self) - _MOST_SHOWN} more</p>" if len(self) > _MOST_SHOWN else ""
        return f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{shown}</div>{more}'


Frames: TypeAlias = Union[Video, "np.ndarray", torch.Tensor, Sequence[ImageInput]]
"""A caller's clip; see `write_video`."""


def write_video(path: str | os.PathLike, frames: Frames, fps: float = FPS) -> None:
    """Write one clip to a file, pixel by pixel and atomically.

    Args:
        path: .mp4 (H.264), .gif, or .png for all frames side by side.
        frames: a `Video`; an array or tensor (T, H, W, C); or T pictures of one size, PIL images, arrays (H, W, C) or
            tensors (C, H, W), of uint8 or floats in [0, 1] (see `fastvgan.data.media.image_input.read_image`).
        fps: frames per second.

    Raises:
        UserError: there are no frames, they differ in size or are no pictures, the format does not support the suffix,
            rate or size, or the file cannot be written.
    """
    video_formats.check_format(Path(path), fps)
    video_files.write_video(Path(path), _frames_of(frames), fps)


def _frames_of(frames: Frames) -> torch.Tensor:
    if isinstance(frames, Video):
        return frames.frames
    dimensions = getattr(frames, "ndim", 4)
    if isinstance(frames, Videos) or dimensions == 5:
        raise UserError(
            "the frames are those of several clips; pass one of them, such as videos[0], or use videos.save"
        )
    if isinstance(frames, str) or not isinstance(frames, Sequence) and not hasattr(frames, "ndim") or not dimensions:
        raise UserError(f"the frames are a {type(frames).__name__}; pass a tensor, an array or a list of pictures")
    shape: Any = getattr(frames, "shape", ())
    if not len(frames) or 0 in shape:
        raise UserError("there are no frames to write; pass at least one")
    if len(shape) == 4 and shape[3] in (1, 3) and str(getattr(frames, "dtype", "")).endswith("uint8"):
        array: Any = frames
        return to_tensor(array)
    pictures = [to_pixels(read_image(frame)) for frame in frames]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) > 1:
        (height, width), (other, across) = sorted(tuple(size[:2]) for size in sizes)[:2]
        raise UserError(f"frames of {height}x{width} and {other}x{across} pixels; pass frames of one size")
    return torch.stack(pictures)


def _check_frames(frames: "torch.Tensor | np.ndarray", dimensions: str) -> torch.Tensor:
    if not hasattr(frames, "ndim"):
        raise UserError(f"the frames are a {type(frames).__name__}; pass a tensor or an array, uint8 {dimensions}")
    is_bytes = str(frames.dtype).removeprefix("torch.") == "uint8"
    has_dimensions = frames.ndim == len(dimensions.split(",")) and frames.shape[-1] in (1, 3)
    # Without the number of clips, which may be 0.
    if not is_bytes or not has_dimensions or not all(frames.shape[-4:]):
        raise UserError(
            f"frames of {frames.dtype} and the shape {tuple(frames.shape)}; pass uint8 {dimensions} with C = 1 or 3"
        )
    return to_tensor(frames)


def _describe(frames: torch.Tensor, fps: float) -> str:
    count, height, width, channels = frames.shape
    return f"{count} frames of {height}x{width} pixels, {'grey' if channels == 1 else 'RGB'}, {fps:g} fps"


def _figure(video: Video) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        video.save(path, min(video.fps, video_formats.FORMATS[".gif"].most_fps))
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = html.escape(video.caption)
    image = f'<img src="data:image/gif;base64,{data}" alt="{caption}">'
    return f'<figure style="margin: 0">{image}<figcaption>{caption}</figcaption></figure>'
