"""Clips to train on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvgan.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fastvgan.data.clips import Item
    from fastvgan.data.source import Source
    from fastvgan.models.config import ModelConfig
    from fastvgan.training.config import DataConfig

__all__ = ["Source", "open_source"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `prepare` reads its flags before anything imports torch.
    if name == "Source":
        from fastvgan.data.source import Source

        return Source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_source(
    data: "DataConfig", model: "ModelConfig", device: "torch.device | str" = "cpu", split: str = "train"
) -> "Source":
    """The source that a `DataConfig` names, with clips of the size that a `ModelConfig` names.

    Args:
        device: where the clips are wanted.
        split: "train", or, of the digits, "test": those of writers who are not in training, under every caption.

    Raises:
        UserError: the data is missing or empty, too much of it is unreadable, it lacks a condition or a split that is
            asked for, or the decoder asked for cannot serve it.
    """
    if data.data == "digits":
        return _digits(data, model, split)
    if split != "train":
        raise UserError(f"{data.data} has no split {split!r}; take one of train")
    if data.hold_out:
        raise UserError(f"--hold-out keeps captions of the digits out of training; with {data.data}, take --hold-out 0")
    if data.decoder == "digits":
        raise UserError(f"--decoder digits draws the captioned digits, not {data.data}; take another, or --data digits")
    from fastvgan.data.clips import ClipSource, items_of_folder, items_of_manifest
    from fastvgan.data.layouts import Layout
    from fastvgan.data.manifest import find_manifest, read_manifest
    from fastvgan.data.sampling import Cut

    require = next((part for part in ("text", "class") if part in model.condition), "none")
    location = find_manifest(data.data)
    if location is not None:
        items, remarks = items_of_manifest(read_manifest(location, data.root, data.follow_links), require)
    else:
        layout = Layout(follow_links=data.follow_links)
        items, remarks = items_of_folder(Path(data.data), layout, require, data.max_bad, data.tolerant)
    _check_stride(items, data.stride)
    cut = Cut(
        model.frames,
        model.height,
        model.width,
        model.channels,
        data.stride,
        data.max_stride,
        data.crop,
        data.mirror,
    )
    return ClipSource(items, cut, remarks, data.decoder, device, data.workers)


def _check_stride(items: "Sequence[Item]", stride: int) -> None:
    """Refuse a stride that no clip has a second frame at: then all would be still pictures."""
    longest = max(item.found.frames for item in items)
    if longest > 1 and stride >= longest:
        raise UserError(f"--stride {stride}: the longest clip has {longest} frames, so that none would move; take less")


def _digits(data: "DataConfig", model: "ModelConfig", split: str) -> "Source":
    from fastvgan.data.digits import DigitsSource

    if data.decoder not in ("auto", "digits"):
        raise UserError(f"the digits are drawn, not decoded by --decoder {data.decoder}; take --decoder auto")
    if split not in DigitsSource.splits:
        raise UserError(f"the digits have no split {split!r}; take one of {', '.join(DigitsSource.splits)}")
    return DigitsSource(
        model.frames, model.height, model.width, model.channels, split, data.hold_out, data.hold_out_seed
    )
