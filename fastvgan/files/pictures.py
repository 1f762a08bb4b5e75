"""Pixels as tensors and as Pillow's images, without numpy, which the plain install lacks."""

import ctypes
from typing import TYPE_CHECKING, Union

import torch
from PIL import Image

if TYPE_CHECKING:
    import numpy as np


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """Convert pixels, uint8 (H, W) or (H, W, C) with C = 1 to 4 on any device, to an image of mode L, LA, RGB or RGBA.

    Raises:
        ValueError: the tensor has another shape or dtype, or no pixels.
    """
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != torch.uint8 or pixels.ndim not in (2, 3) or channels not in modes or not pixels.numel():
        raise ValueError(f"a tensor {pixels.dtype} {tuple(pixels.shape)} is no picture")
    height, width = pixels.shape[:2]
    return Image.frombytes(modes[channels], (width, height), to_bytes(pixels))


def to_bytes(pixels: torch.Tensor) -> bytes:
    """Return the values of pixels, uint8 of any shape on any device, in the order of the dimensions."""
    held = pixels.detach().cpu().contiguous()
    return ctypes.string_at(held.data_ptr(), held.numel())


def to_pixels(picture: Image.Image) -> torch.Tensor:
    """Convert an image of 8 bits per channel to pixels, uint8 (H, W, C)."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, len(picture.getbands()))


def to_tensor(array: Union["np.ndarray", torch.Tensor]) -> torch.Tensor:
    """Return a tensor of any shape on the CPU: of a numpy array, whose dtype torch knows, a copy."""
    if isinstance(array, torch.Tensor):
        return array.detach().cpu()
    # torch.from_numpy refuses negative strides and foreign byte orders, and warns of arrays that cannot be written.
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
