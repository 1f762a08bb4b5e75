"""Reading a caller's pictures, such as a first frame, as training reads them: files, PIL images, arrays and tensors.

torch and PyAV are imported only for a picture that needs them, so that a command can refuse a bad one at once.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
from PIL import Image

from fastvgan.data.folders.annotations import SUFFIXES as _VIDEO_SUFFIXES
from fastvgan.data.media import animations
from fastvgan.data.media.frames import probe, read_frames
from fastvgan.data.media.pictures import check_size, pixels, plain, read_picture, turn_upright
from fastvgan.data.media.types import BadVideo, Media, cover
from fastvgan.errors import UserError

if TYPE_CHECKING:
    import torch

ImageInput: TypeAlias = Union[str, os.PathLike, Image.Image, np.ndarray, "torch.Tensor"]
"""A caller's picture; see `read_image`."""

logger = logging.getLogger("fastvgan")

_CHANNELS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}
_FILES = "a PNG, JPEG, BMP, WebP, TIFF, PPM or GIF file"


def read_image(image: ImageInput) -> np.ndarray:
    """Read a picture at full size as training sees it: upright, in 8 bits, with transparent pixels black.

    Args:
        image: One of:
            the path of a PNG, JPEG, BMP, WebP, TIFF, PPM or GIF file; of an animation the first frame is read, with a
            warning;
            a PIL image, which is rotated by its EXIF orientation as a file is; of an animation its current frame;
            an array (H, W) or (H, W, C) with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha), of uint8,
            uint16 or bool, whose largest value is white, or of floats in [0, 1];
            a tensor of the same dtypes, (H, W), (C, H, W) or (H, W, C); it is refused if both the first and the last
            dimension may be the channels.

    Returns:
        uint8 (H, W, 3). `read_image` returns such an array unchanged.

    Raises:
        UserError: The picture is of none of these kinds, cannot be read, is damaged, empty or too large, or has values
            outside the range.
    """
    if isinstance(image, str | os.PathLike):
        name, opened = f"the image {os.fspath(image)}", lambda: _open_file(Path(image))
        remedy = f"pass {_FILES}"
    elif isinstance(image, Image.Image):
        name, opened, remedy = f"the {image.mode} image", lambda: _open_pil(image), "convert it to RGB"
    else:
        array = _array_of(image)
        name, opened = f"the image of shape {array.shape}", lambda: _from_array(array)
        remedy = "pass a picture of another size"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # becomes the error below
            return np.array(plain(opened(), 3))
    except (BadVideo, OSError, MemoryError) as error:
        reason = "memory ran out" if isinstance(error, MemoryError) else getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be used ({reason}); {remedy}") from error


def fit_image(image: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Scale and crop a picture at its centre, as training does with `--crop center`.

    Args:
        image: uint8 (H, W, 3), a result of `read_image`.
        height: Height of the result.
        width: Width of the result.
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 (height, width, channels).
    """
    from fastvgan.data.sampling import centre_offsets  # imports torch

    scaled = pixels(plain(Image.fromarray(image), channels), height, width)
    top, left = centre_offsets(scaled.shape[:2], height, width)
    return scaled[top : top + height, left : left + width].copy()


def _open_file(path: Path) -> Image.Image:
    try:
        path.stat()
    except ValueError as error:  # a null byte
        raise BadVideo(str(error)) from error
    if path.is_dir():
        raise BadVideo("is a folder")
    if not path.is_file():  # opening a pipe could wait forever
        raise BadVideo("is not a regular file")
    with path.open("rb") as file:
        is_gif = file.read(4) == b"GIF8"
        file.seek(0)
        is_animated = animations.is_animated(file)
    if is_gif:
        return _open_gif(path)
    if is_animated:
        first = _check_image(animations.read_first(path))
        _warn_of_animation(path)
        return first
    try:
        return _check_image(read_picture(path))
    except BadVideo as error:
        if path.suffix.lower() in _VIDEO_SUFFIXES:
            raise BadVideo("is a video; `ffmpeg -i VIDEO -frames:v 1 first.png` saves its first frame") from error
        raise


def _open_gif(path: Path) -> Image.Image:
    """The first frame of a GIF file, read by PyAV because training reads GIF files as videos."""
    media = Media("video", path)
    found = probe(media)
    first = Image.fromarray(read_frames(media, found, [0], found.height, found.width, 3)[0])
    if found.frames > 1:
        _warn_of_animation(path)
    return first


def _warn_of_animation(path: Path) -> None:
    logger.warning("the image %s is an animation; using its first frame", path)


def _open_pil(image: Image.Image) -> Image.Image:
    _check_image(image)
    try:
        upright = image.copy()  # decodes an opened file
    except MemoryError:
        raise
    except Exception as error:  # what a damaged or closed file makes Pillow raise is no closed list
        raise BadVideo(str(error) or type(error).__name__) from error
    turn_upright(upright)
    return upright


def _array_of(image: Union[np.ndarray, "torch.Tensor"]) -> np.ndarray:
    """Return an array unchanged, and a tensor as an array with its channels last."""
    if isinstance(image, np.ndarray):
        return image
    import torch

    if not isinstance(image, torch.Tensor):
        raise UserError(
            f"the image is a {type(image).__name__}; pass a path, a PIL image, an array (H, W, C) or a tensor (C, H, W)"
        )
    if image.layout is not torch.strided or image.is_meta or image.is_quantized:
        raise UserError(f"the image is a tensor without plain values ({image.layout}, {image.dtype}); pass a dense one")
    if image.ndim == 3 and image.shape[0] in _CHANNELS:
        if image.shape[2] in _CHANNELS:
            raise UserError(
                f"the image, a tensor of shape {tuple(image.shape)}, may be (C, H, W) or (H, W, C); pass it as an "
                "array, which is (H, W, C)"
            )
        image = image.permute(1, 2, 0)
    if image.is_floating_point() and image.dtype != torch.float64:
        image = image.float()  # NumPy has no bfloat16
    return image.numpy(force=True)


def _from_array(array: np.ndarray) -> Image.Image:
    """Convert an array to the picture that Pillow reads from a PNG file of these values."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in _CHANNELS:
        kinds = ", ".join(f"{count} ({what})" for count, what in _CHANNELS.items())
        raise UserError(
            f"the image has the shape {array.shape}; pass one picture, an array (H, W) or (H, W, C), or a tensor "
            f"(H, W), (C, H, W) or (H, W, C), where C is one of {kinds}"
        )
    height, width, channels = array.shape
    if not height * width:
        raise UserError(f"the image of shape {array.shape} has no pixels; pass one that has some")
    check_size((height, width))
    cover((height, width), height, width)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        # Pillow, which reads the files, rounds 16 bits of grey (see `plain`) and takes the upper 8 of colours.
        array = array.astype(np.uint16) if channels == 1 else (array >> 8).astype(np.uint8)
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype.kind == "f":
        array = _floats_to_bytes(array)
    elif array.dtype != np.uint8:
        raise UserError(f"the image is of {array.dtype}; pass uint8, uint16, bool, or floats in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == 1 else array))


def _floats_to_bytes(array: np.ndarray) -> np.ndarray:
    """Round floats in [0, 1] to uint8; values outside the range are allowed if they round to 0 or 255."""
    array = array if array.dtype.itemsize > 2 else array.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise UserError("the image holds NaN or infinite values; pass floats in [0, 1]")
    if round(low * 255) < 0 or round(high * 255) > 255:
        raise UserError(
            f"the image holds floats from {low:.4g} to {high:.4g}; pass floats in [0, 1]: (x + 1) / 2 of frames in "
            "[-1, 1], x / 255 of values up to 255"
        )
    return np.rint(array * 255).clip(0, 255).astype(np.uint8)


def _check_image(image: Image.Image) -> Image.Image:
    """Return the image if training accepts frames of its size."""
    size = image.height, image.width
    if not min(size):
        raise BadVideo("has no pixels")
    check_size(size)
    cover(size, *size)
    return image
