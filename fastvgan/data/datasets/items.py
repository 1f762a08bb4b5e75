"""Items of a dataset: their clip, caption and class, checked and brought into one form."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from fastvgan.data.folders.annotations import CAPTIONS, CLASSES
from fastvgan.errors import UserError
from fastvgan.files.pictures import to_tensor

_KEYS = ("video", "caption", "label")
_FORMS = "a clip, a tuple of a clip, a caption and a class, or a dict with the keys video, caption and label"
# How (T, H, W, C), the sizes of `ClipShape`, are found in the dimensions of an item's clip.
_LAYOUTS = {"(T, H, W, C)": (0, 1, 2, 3), "(C, T, H, W)": (1, 2, 3, 0), "(T, C, H, W)": (0, 2, 3, 1)}


class ClipShape(NamedTuple):
    """The size of a clip: frames, height and width in pixels, and channels (1 or 3)."""

    frames: int
    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.height}x{self.width}x{self.channels} (height x width x channels)"

    @property
    def as_settings(self) -> str:
        """The settings of a model of this size, as keywords."""
        return ", ".join(f"{name}={size}" for name, size in self._asdict().items())


class Item(NamedTuple):
    """An item in parts.

    video: A clip in the form of the dataset, a tensor or an array of four dimensions.
    caption: Its caption, or None.
    label: The index or the name of its class, or None.
    """

    video: torch.Tensor
    caption: str | None = None
    label: int | str | None = None


def name_of(number: int) -> str:
    """Return an item's name in messages, by its index in a map-style dataset or its place in an iterable one."""
    return f"item {number} of the dataset"


def split_item(item: Any, name: str) -> Item:
    """Split an item of a dataset into clip, caption and class.

    Args:
        item: A tensor or an array; a dict with "video" and optionally "caption" and "label"; or a tuple or list whose
            first entry is the clip. A string among the other entries is the caption, a whole number the class; None and
            tensors of floats or of several values, such as the sound of torchvision's datasets, are skipped.
        name: Name of the item in messages, "item 7 of the dataset".

    Raises:
        UserError: The item has another form, or a part that looks like a caption or a class but is not read.
    """
    if isinstance(item, Mapping):
        if "video" not in item:
            keys = ", ".join(map(repr, list(item)[:5])) or "no keys"
            raise UserError(f"{name} is a dict with {keys}, but without 'video'; name its clip so")
        video, caption, label = (item.get(key) for key in _KEYS)
        _check_key(item, name, "caption", CAPTIONS)
        _check_key(item, name, "label", CLASSES)
    elif isinstance(item, tuple | list) and item:
        video, *others = item
        captions = [other for other in others if isinstance(other, str)]
        labels = [other for other in others if _is_whole(other)]
        for other in others:
            if not (isinstance(other, str) or _is_whole(other) or _may_skip(other)):
                raise UserError(f"{name} holds {_kind(other)}, neither a caption nor a class; return {_FORMS}")
        if max(len(captions), len(labels)) > 1:
            raise UserError(f"{name} has more than one caption or class; return {_FORMS}")
        caption, label = next(iter(captions), None), next(iter(labels), None)
    else:
        video, caption, label = item, None, None
    if _is_of_numpy(video, "ndarray"):
        video = _from_array(video, name)
    if not isinstance(video, torch.Tensor):
        raise UserError(f"{name} holds {_kind(video)} instead of a clip (a tensor or an array); return {_FORMS}")
    if caption is not None and not isinstance(caption, str):
        raise UserError(f"the caption of {name} is {_kind(caption)}, not a string; decode it in the dataset")
    if label is not None and _is_whole(label):
        label = int(label)
    elif label is not None and not isinstance(label, str):
        raise UserError(f"the label of {name} is {_kind(label)}, not a whole number or the name of a class")
    return Item(video, caption, label)


def find_shape(item: Any) -> ClipShape:
    """Find the size of a dataset's first item; the channels are the dimension of 1 or 3.

    Raises:
        UserError: The item has another form, or not four dimensions, or none that can be channels.
    """
    name = name_of(0)
    video = split_item(item, name).video
    _check_dimensions(video, name)
    for places in _LAYOUTS.values():
        shape = ClipShape(*(video.shape[place] for place in places))
        if shape.channels in (1, 3):
            return shape
    raise UserError(
        f"{name} has the shape {tuple(video.shape)} without 1 or 3 channels; return clips of {_join(_LAYOUTS)}"
    )


def to_clip(video: torch.Tensor, shape: ClipShape, name: str) -> torch.Tensor:
    """Convert a clip to uint8.

    Args:
        video: (T, H, W, C), (C, T, H, W) or (T, C, H, W), uint8 or floating in [0, 1].
        shape: The size that it must have.
        name: Name of the item in messages.

    Returns:
        uint8 (T, H, W, C), on the CPU.

    Raises:
        UserError: The clip has another size, dtype or range.
    """
    _check_dimensions(video, name)
    for places in _LAYOUTS.values():
        if tuple(video.shape[place] for place in places) == shape:
            return _to_bytes(video, name).permute(places).cpu()
    raise UserError(
        f"{name} has the shape {tuple(video.shape)}, but the model takes {shape}; cut and resize clips in the dataset, "
        "or pass other frames, height, width and channels"
    )


def _to_bytes(video: torch.Tensor, name: str) -> torch.Tensor:
    if video.dtype == torch.uint8:
        return video
    if not video.is_floating_point():
        kind = str(video.dtype).removeprefix("torch.")
        raise UserError(f"{name} is of {kind}; return uint8, or floats from 0 to 1")
    low, high = video.min().item(), video.max().item()
    if not (low >= 0 and high <= 1):  # also for NaN
        raise UserError(f"{name} has values from {low:g} to {high:g}; return floats from 0 to 1, or uint8")
    return video.float().mul(255).round().to(torch.uint8)


def _check_dimensions(video: torch.Tensor, name: str) -> None:
    if video.dim() != 4:
        raise UserError(f"{name} has the shape {tuple(video.shape)}; return clips of {_join(_LAYOUTS)}")


def _is_whole(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim == 0 and not value.is_floating_point() and value.dtype != torch.bool
    if _is_of_numpy(value, "ndarray", "generic"):
        return value.ndim == 0 and value.dtype.kind in "iu"
    return isinstance(value, int) and not isinstance(value, bool)


def _may_skip(value: Any) -> bool:
    """Whether an entry of a tuple is certainly neither a caption nor a class, but missing or the sound of a film."""
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and (value.is_floating_point() or value.numel() != 1)
    if _is_of_numpy(value, "ndarray"):
        return value.ndim > 0 and (value.dtype.kind == "f" or value.size != 1)
    return value is None


def _check_key(item: Mapping[Any, Any], name: str, key: str, others: Iterable[str]) -> None:
    """Refuse a dict that has a caption or class under another key than `key`, and none under it."""
    found = next((other for other in others if item.get(other) is not None), key)
    if item.get(key) is None and found != key:
        raise UserError(f"{name} has the key {found!r}, which is not read; name it {key!r}, or leave it out")


def _is_of_numpy(value: Any, *names: str) -> bool:
    """Return whether a value is of one of numpy's classes; the plain install has no numpy."""
    numpy = sys.modules.get("numpy")  # a dataset with arrays has imported it
    return numpy is not None and isinstance(value, tuple(getattr(numpy, name) for name in names))


def _from_array(array: Any, name: str) -> torch.Tensor:
    try:
        return to_tensor(array)
    except TypeError as error:
        raise UserError(f"{name} is an array of {array.dtype}; return uint8, or floats from 0 to 1") from error


def _kind(value: Any) -> str:
    return f"a value of the type {type(value).__name__}"


def _join(names: Any) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
