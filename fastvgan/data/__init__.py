"""Training data: clips of a folder or a manifest, or the built-in captioned digits."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvgan.errors import UserError
from fastvgan.machine.optional import check_installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fastvgan.data.clips import Item, Listing
    from fastvgan.data.datasets import ClipShape, DatasetSource
    from fastvgan.data.source import Clips, Source
    from fastvgan.models.config import ModelConfig
    from fastvgan.runs.config import DataConfig

__all__ = ["ClipShape", "Clips", "DatasetSource", "Source", "list_clips", "open_source"]

IN_PYTHON = "python:"
"""Prefix of the name, in a configuration, of data that is an object in Python; the name of its class follows."""


def __getattr__(name: str) -> Any:
    # Imported on first use: `prepare` parses its flags before torch is imported.
    if name in ("Clips", "Source"):
        from fastvgan.data import source

        return getattr(source, name)
    if name in ("ClipShape", "DatasetSource"):
        from fastvgan.data import datasets

        return getattr(datasets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_source(
    data: "DataConfig",
    model: "ModelConfig",
    device: "torch.device | str" = "cpu",
    split: str = "train",
    listing: "Listing | None" = None,
) -> "Source":
    """Open the source that `data` names, with clips of the size that `model` takes.

    Args:
        data: Which clips, and how they are cut and decoded.
        model: Size of the clips, and the condition that they must have.
        device: Device of the batches.
        split: "train" or "test". The test clips of the digits are drawn by other writers and under every caption; those
            of other data are the frames that `data.test_share` keeps.
        listing: Result of `list_clips`, if it is known already.

    Raises:
        UserError: The data is missing or empty, too much of it is unreadable, it lacks the condition or the split, or
            the decoder does not support it.
    """
    if data.data in ("digits", "stacked-digits"):
        if data.decoder not in ("auto", "digits"):
            raise UserError(
                f"--decoder {data.decoder} does not apply to the digits, which are drawn; use --decoder auto"
            )
        return (_open_digits if data.data == "digits" else _open_stacked_digits)(data, model, split)
    if split not in ("train", "test") or (split == "test" and not data.test_share):
        known = "use 'train' or 'test'" if data.test_share else "the only split is 'train' unless --test-share is given"
        raise UserError(f"{data.data} has no split {split!r}; {known}")
    from fastvgan.data.clips import ClipSource
    from fastvgan.data.sampling import Cut
    from fastvgan.data.windows import split_frames

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
        data.reverse,
    )
    if not data.test_share:
        return ClipSource(items, cut, remarks, data.decoder, device, data.workers)
    train, test, short = split_frames(items, cut, data.test_share)
    open_test = partial(ClipSource, test, cut, (), data.decoder, device, data.workers)
    if split == "test":
        return open_test()
    return ClipSource(train, cut, [*remarks, *short], data.decoder, device, data.workers, open_test)


def list_clips(data: "DataConfig", condition: "Sequence[str] | None" = None) -> "Listing":
    """List the clips of a manifest or a folder (not the digits). Each clip of a folder is decoded in full.

    Args:
        data: The folder or manifest, and how it is read.
        condition: Conditions of the model, as in `ModelConfig`; None chooses by the clips and adds a remark.

    Raises:
        UserError: The data is missing or empty, too much of it is unreadable, it lacks the condition, or the packages
            that decode it are not installed.
    """
    if data.data.startswith(IN_PYTHON):
        raise UserError(
            f"the data {data.data!r} was an object in Python; pass it to fastvgan.Trainer, or other clips by --data"
        )
    if data.hold_out:
        raise UserError(f"--hold-out applies only to the digits; with --data {data.data} use --hold-out 0")
    if data.captions != "fixed":
        raise UserError(
            f"--captions {data.captions} applies only to the digits; with --data {data.data} use --captions fixed"
        )
    if data.decoder == "digits":
        raise UserError(f"--decoder digits does not decode {data.data}; use another --decoder, or --data digits")
    for module in ("av", "numpy"):
        check_installed(module, "video", f"--data {data.data}", "leave --data out to train on the digits")
    from fastvgan.data.clips import Listing, items_from_manifest, items_from_scan
    from fastvgan.data.fitting import fit_condition
    from fastvgan.data.folders.layouts import Layout, scan
    from fastvgan.data.folders.leftovers import own_manifest_remarks
    from fastvgan.data.folders.manifest import find_manifest, read_manifest
    from fastvgan.data.share import choose_share

    location, folder = find_manifest(data.data), Path(data.data)
    if location is not None:
        manifest = read_manifest(location, data.root, data.follow_links)
        clips, make_items = manifest.records, partial(items_from_manifest, manifest, max_bad=data.max_bad)
        choice = own_manifest_remarks(folder, manifest)
    else:
        scanned = scan(folder, Layout(follow_links=data.follow_links))
        clips = scanned.entries
        make_items = partial(items_from_scan, folder, scanned, max_bad=data.max_bad, tolerant=data.tolerant)
        choice = []
    if condition is None:
        part, remark = fit_condition(clips)
        condition, choice = () if part == "none" else (part,), [*choice, remark]
    require = [part for part in ("text", "class") if part in condition]
    items, remarks = make_items(require=require)
    if data.share < 1:
        chosen = choose_share(len(items), data.share, data.share_seed)
        choice.append(f"--share {data.share:g}: {len(chosen):,} of {len(items):,} clips")
        items = [items[i] for i in chosen]
    _check_stride(items, data.stride)
    return Listing(items, [*choice, *remarks], tuple(condition))


def _check_stride(items: "Sequence[Item]", stride: int) -> None:
    """Refuse a stride at which no clip has a second frame: all samples would be still pictures."""
    longest = max(item.found.frames for item in items)
    if longest > 1 and stride >= longest:
        raise UserError(
            f"--stride {stride} leaves one frame per clip, since the longest has {longest}; use a smaller --stride"
        )


def _open_stacked_digits(data: "DataConfig", model: "ModelConfig", split: str) -> "Source":
    from fastvgan.data.digits import DigitsSource
    from fastvgan.data.digits.stacked import StackedDigitsSource

    if model.condition:
        raise UserError("the stacked digits have no conditions; use --condition none")
    if model.channels != 3:
        raise UserError("the stacked digits are three digits in three channels; use --channels 3")
    others = {"test-share": data.test_share, "hold-out": data.hold_out, "mirror": data.mirror}
    others |= {"reverse": data.reverse, "share": data.share < 1, "captions free": data.captions == "free"}
    for name, is_used in others.items():
        if is_used:
            raise UserError(f"--{name} does not apply to the stacked digits; leave it out")
    if split not in DigitsSource.splits:
        raise UserError(f"the stacked digits have no split {split!r}; use one of {', '.join(DigitsSource.splits)}")
    return StackedDigitsSource(model.frames, model.height, model.width, split)


def _open_digits(data: "DataConfig", model: "ModelConfig", split: str) -> "Source":
    from fastvgan.data.digits import DigitsSource, Variant

    if data.test_share:
        raise UserError("--test-share does not apply to the digits, which have test clips already; leave it out")
    if split not in DigitsSource.splits:
        raise UserError(f"the digits have no split {split!r}; use one of {', '.join(DigitsSource.splits)}")
    if data.mirror:
        raise UserError(
            "--mirror does not apply to the digits, most of which are not digits when mirrored; leave it out"
        )
    return DigitsSource(
        *(model.frames, model.height, model.width, model.channels, split, data.hold_out, data.hold_out_seed),
        Variant(data.reverse, data.share, data.share_seed, data.captions == "free"),
    )
