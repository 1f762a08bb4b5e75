"""Clips to train on."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvgan.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fastvgan.data.clips import Item, Listing
    from fastvgan.data.source import Source
    from fastvgan.models.config import ModelConfig
    from fastvgan.runs.config import DataConfig

__all__ = ["Source", "list_clips", "open_source"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `prepare` reads its flags before anything imports torch.
    if name == "Source":
        from fastvgan.data.source import Source

        return Source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_source(
    data: "DataConfig",
    model: "ModelConfig",
    device: "torch.device | str" = "cpu",
    split: str = "train",
    listing: "Listing | None" = None,
) -> "Source":
    """The source that a `DataConfig` names, with clips of the size that a `ModelConfig` names.

    Args:
        device: where the clips are wanted.
        split: "train", or, of the digits, "test": those of writers who are not in training, under every caption.
        listing: what `list_clips` gives, where that is known already.

    Raises:
        UserError: the data is missing or empty, too much of it is unreadable, it lacks a condition or a split that is
            asked for, or the decoder asked for cannot serve it.
    """
    if data.data == "digits":
        return _digits(data, model, split)
    if split != "train":
        raise UserError(f"{data.data} has no split {split!r}; take one of train")
    from fastvgan.data.clips import ClipSource
    from fastvgan.data.sampling import Cut

    items, remarks, _ = listing or list_clips(data, model.condition)
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


def list_clips(data: "DataConfig", condition: "Sequence[str] | None" = None) -> "Listing":
    """The clips of a manifest, or of a folder, in which each is decoded in full for it; not of the digits.

    Args:
        condition: what a model follows, as in `ModelConfig`; None takes what suits the clips, which a remark says.

    Raises:
        UserError: as of `open_source`.
    """
    if data.hold_out:
        raise UserError(f"--hold-out keeps captions of the digits out of training; with {data.data}, take --hold-out 0")
    if data.decoder == "digits":
        raise UserError(f"--decoder digits draws the captioned digits, not {data.data}; take another, or --data digits")
    from fastvgan.data.clips import Listing, items_of_manifest, items_of_scan
    from fastvgan.data.fitting import fit_condition
    from fastvgan.data.folders.layouts import Layout, scan
    from fastvgan.data.folders.manifest import find_manifest, read_manifest

    location, folder = find_manifest(data.data), Path(data.data)
    if location is not None:
        manifest = read_manifest(location, data.root, data.follow_links)
        clips, items_of = manifest.records, partial(items_of_manifest, manifest)
    else:
        scanned = scan(folder, Layout(follow_links=data.follow_links))
        clips = scanned.entries
        items_of = partial(items_of_scan, folder, scanned, max_bad=data.max_bad, tolerant=data.tolerant)
    said = []
    if condition is None:
        part, remark = fit_condition(clips)
        condition, said = () if part == "none" else (part,), [remark]
    require = next((part for part in ("text", "class") if part in condition), "none")
    items, remarks = items_of(require=require)
    _check_stride(items, data.stride)
    return Listing(items, [*said, *remarks], tuple(condition))


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
