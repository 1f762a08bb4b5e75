"""Reading a caller's pictures, such as a first frame, as training reads them: files, PIL images, arrays and tensors.

torch and PyAV are imported only for a picture that needs them, so that a command can refuse a bad one at once; numpy is
needed for no picture but a caller's array.
"""

import logging
import math
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from PIL import Image

from fastvgan.data.folders.annotations import SUFFIXES as _VIDEO_SUFFIXES
from fastvgan.data.media import animations
from fastvgan.data.media.frames import probe, read_frames
from fastvgan.data.media.pictures import check_size, plain, read_picture, scale, turn_upright
from fastvgan.data.media.types import BadVideo, Media, cover
from fastvgan.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

ImageInput: TypeAlias = Union[str, os.PathLike, Image.Image, "np.ndarray", "torch.Tensor"]
"""A caller's picture; see `read_image`."""

logger = logging.getLogger("fastvgan")

_CHANNELS = {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGB and alpha"}
_FILES = "a PNG, JPEG, BMP, WebP, TIFF, PPM or GIF file"


def read_image(image: ImageInput) -> Image.Image:
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
        A picture of mode RGB, which `read_image` returns unchanged.

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
        name, opened = f"the image of shape {tuple(array.shape)}", lambda: _from_array(array)
        remedy = "pass a picture of another size"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # becomes the error below
            return plain(opened(), 3)
    except (BadVideo, OSError, MemoryError) as error:
        reason = "memory ran out" if isinstance(error, MemoryError) else getattr(error, "strerror", None) or error
        raise UserError(f"{name} cannot be used ({reason}); {remedy}") from error


def fit_image(image: Image.Image, height: int, width: int, channels: int) -> "torch.Tensor":
    """Scale and crop a picture at its centre, as training does with `--crop center`.

    Args:
        image: A picture (H, W) of mode RGB, a result of `read_image`.
        height: Height of the result.
        width: Width of the result.
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 (height, width, channels).
    """
    from fastvgan.data.sampling import centre_offsets  # imports torch
    from fastvgan.files.pictures import to_pixels

    scaled = scale(plain(image, channels), height, width)
    top, left = centre_offsets((scaled.height, scaled.width), height, width)
    return to_pixels(scaled.crop((left, top, left + width, top + height)))


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


def _array_of(image: Union["np.ndarray", "torch.Tensor"]) -> Union["np.ndarray", "torch.Tensor"]:
    """Return an array unchanged, and a tensor with its channels last."""
    if _is_array(image):
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
    return image


def _is_array(image: object) -> bool:
    numpy = sys.modules.get("numpy")  # a caller with an array has imported it
    return numpy is not None and isinstance(image, numpy.ndarray)


def _from_array(array: Union["np.ndarray", "torch.Tensor"]) -> Image.Image:
    """Convert an array or a tensor to the picture that Pillow reads from a PNG file of these values."""
    from fastvgan.files.pictures import to_picture

    shape = tuple(array.shape) + (1,) * (array.ndim == 2)
    if len(shape) != 3 or shape[2] not in _CHANNELS:
        kinds = ", ".join(f"{count} ({what})" for count, what in _CHANNELS.items())
        raise UserError(
            f"the image has the shape {shape}; pass one picture, an array (H, W) or (H, W, C), or a tensor "
            f"(H, W), (C, H, W) or (H, W, C), where C is one of {kinds}"
        )
    height, width, _ = shape
    if not height * width:
        raise UserError(f"the image of shape {shape} has no pixels; pass one that has some")
    check_size((height, width))
    cover((height, width), height, width)
    return to_picture(_to_bytes(_to_tensor(array).reshape(shape)))


def _to_tensor(array: Union["np.ndarray", "torch.Tensor"]) -> "torch.Tensor":
    """Convert an array of a supported dtype to a tensor, and move a tensor to the CPU."""
    import torch

    from fastvgan.files.pictures import to_tensor

    if not isinstance(array, torch.Tensor):
        kind, size = array.dtype.kind, array.dtype.itemsize
        if kind == "f" and size > 8:
            array = array.astype("float64")  # torch has no longer floats
        elif kind != "f" and (kind, size) not in (("u", 1), ("u", 2), ("b", 1)):
            raise _refuse_dtype(array.dtype)
    return to_tensor(array)


def _to_bytes(values: "torch.Tensor") -> "torch.Tensor":
    """Convert values (H, W, C) of a supported dtype to uint8."""
    import torch

    if values.dtype == torch.uint8:
        return values
    if values.dtype == torch.uint16:
        # As Pillow reads files, rounding 16 bits of grey (see `plain`) and taking the upper 8 of colours.
        wide = values.int()
        return ((wide + 128) // 257 if values.shape[2] == 1 else wide >> 8).to(torch.uint8)
    if values.dtype == torch.bool:
        return values.to(torch.uint8) * 255
    if values.is_floating_point():
        return _floats_to_bytes(values)
    raise _refuse_dtype(values.dtype)


def _refuse_dtype(dtype: object) -> UserError:
    name = str(dtype).removeprefix("torch.")
    return UserError(f"the image is of {name}; pass uint8, uint16, bool, or floats in [0, 1]")


def _floats_to_bytes(values: "torch.Tensor") -> "torch.Tensor":
    """Round floats in [0, 1] to uint8; values outside the range are allowed if they round to 0 or 255."""
    values = values if values.element_size() > 2 else values.float()
    low, high = (value.item() for value in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("the image holds NaN or infinite values; pass floats in [0, 1]")
    if round(low * 255) < 0 or round(high * 255) > 255:
        raise UserError(
            f"the image holds floats from {low:.4g} to {high:.4g}; pass floats in [0, 1]: (x + 1) / 2 of frames in "
            "[-1, 1], x / 255 of values up to 255"
        )
    return (values * 255).round().clamp(0, 255).byte()


def _check_image(image: Image.Image) -> Image.Image:
    """Return the image if training accepts frames of its size."""
    size = image.height, image.width
    if not min(size):
        raise BadVideo("has no pixels")
    check_size(size)
    cover(size, *size)
    return image
