"""A set of clips as a training set: from a manifest, or from a folder that is looked through here and now."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch

from fastvgan.data.decoders.choice import choose
from fastvgan.data.fingerprint import fingerprint_of
from fastvgan.data.folders.layouts import Layout, Scan, scan
from fastvgan.data.folders.manifest import Manifest
from fastvgan.data.folders.survey import check_share, divide, examine, notes, side_by_side, size_of
from fastvgan.data.media.types import Media, Probe
from fastvgan.data.readers import ClipSet
from fastvgan.data.sampling import WORDS, Cut, Member, Sampler, sample_numbers
from fastvgan.data.source import Clips
from fastvgan.errors import UserError


class Item(NamedTuple):
    """One clip of a set.

    content: what tells its file from another of the same name: the checksum in its manifest, else the size in bytes.
    """

    name: str
    media: Media
    found: Probe
    captions: tuple[str, ...]
    label: str | None
    content: str | int = 0


class Listing(NamedTuple):
    """The clips of a set that take part, what is to be said of them, and what a model of them follows."""

    items: list[Item]
    remarks: list[str]
    condition: tuple[str, ...]


class ClipSource:
    """Clips cut at random out of the members of a set; see `fastvgan.data.source.Source`.

    A member that is too short for a clip takes part, its last frame held; `remarks` names it.

    Args:
        items: the set. cut: size of clips, and how they are cut out. remarks: of what came before, in front of ours.
        decoder: "auto", "pyav", "dali" or "shards". device: where batches are wanted. workers: that decode.

    Raises:
        UserError: the decoder cannot serve the set.
    """

    def __init__(
        self,
        items: Sequence[Item],
        cut: Cut,
        remarks: Sequence[str] = (),
        decoder: str = "auto",
        device: "torch.device | str" = "cpu",
        workers: int = 1,
    ):
        self.captions = list(dict.fromkeys(caption for item in items for caption in item.captions))
        self.classes = sorted({item.label for item in items if item.label is not None})
        self.size = len(items)
        self.fingerprint = fingerprint_of(map(_facts, items), self.size, self.captions, self.classes)
        self.remarks = [*remarks, *(note for item in items if (note := _short(item, cut)))]
        caption_index = {caption: i for i, caption in enumerate(self.captions)}
        class_index = {label: i for i, label in enumerate(self.classes)}
        members = [
            Member(
                item.found.frames, tuple(caption_index[c] for c in item.captions), class_index.get(item.label or "", -1)
            )
            for item in items
        ]
        names, media, found = ([getattr(item, key) for item in items] for key in ("name", "media", "found"))
        self.sampler = Sampler(members, cut)
        clips = ClipSet(names, media, found, self.sampler)
        self._decoder, self.decoder = choose(decoder, clips, torch.device(device), workers)
        self.shuffles = self._decoder.resident is not None
        self.draws = WORDS if self.shuffles else 0

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """See `fastvgan.data.source.Source.batches`."""
        numbers = sample_numbers(batch_size, start, rank, world_size)
        with closing(self._decoder.batches(seed, numbers)) as batches:
            for clips in batches:
                yield self._with_what_there_is(clips)

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """See `fastvgan.data.source.Source.draw`.

        Raises:
            ValueError: clips are decoded ahead of time here, or which of them is not said.
        """
        if self._decoder.resident is None or clips is None:
            raise ValueError("draw takes which clips to cut, and serves where the device holds them; else use batches")
        return self._with_what_there_is(self._decoder.resident.draw(words, clips))

    def _with_what_there_is(self, clips: Clips) -> Clips:
        return clips._replace(
            caption=clips.caption if self.captions else None, label=clips.label if self.classes else None
        )


def items_of_manifest(manifest: Manifest, require: str = "none") -> tuple[list[Item], list[str]]:
    """The clips of a manifest, and what is to be said of those left out.

    Args:
        require: "text" or "class" leaves out clips without a caption or class, "none" takes all.

    Raises:
        UserError: a path leads out of the manifest's root, or no clip has what is required.
    """
    items = [
        Item(r.name, manifest.media(r), r.found, r.captions, r.label, r.checksum or r.bytes) for r in manifest.records
    ]
    if len({item.media.kind == "shard" for item in items}) > 1:
        raise UserError("the manifest lists both decoded shards and files; prepare the data anew, in one way")
    return _required(items, require, "the manifest")


def items_of_folder(
    folder: Path, layout: Layout, require: str = "none", max_bad: float = 0.5, tolerant: bool = False
) -> tuple[list[Item], list[str]]:
    """The clips of a folder, each decoded once in full here, and what is to be said of those left out.

    Args:
        require: as of `items_of_manifest`. max_bad: with a larger share of unusable clips the folder is refused.
            tolerant: take frames that the decoder mended.

    Raises:
        UserError: the folder is missing, empty, without the captions or classes required, or too bad.
    """
    return items_of_scan(folder, scan(folder, layout), require, max_bad, tolerant)


def items_of_scan(
    folder: Path, scanned: Scan, require: str = "none", max_bad: float = 0.5, tolerant: bool = False
) -> tuple[list[Item], list[str]]:
    """The same, from what `scan` gave of the folder."""
    entries, rejected, remarks = scanned
    entries, without = _required(entries, require, str(folder))
    good, bad = divide(side_by_side(lambda entry: examine(entry, tolerant), entries, "checking files"))
    check_share(folder, len(entries), bad, max_bad)
    items = [
        Item(c.entry.name, c.entry.media, c.probe, c.entry.captions, c.entry.label, size_of(c.entry)) for c in good
    ]
    out = [f"{item.name}: {item.reason}; left out" for item in [*rejected, *bad]]
    return items, [*remarks, *out, *without, *(note for clip in good for note in notes(clip))]


def _required(items: list, require: str, where: str) -> tuple[list, list[str]]:
    """Those of entries or items that have what is required, and a remark for each of the others."""
    if require == "none":
        return items, []
    has = [bool(item.captions) if require == "text" else item.label is not None for item in items]
    if not any(has):
        raise UserError(_LACKS[require].format(where=where))
    word = {"text": "caption", "class": "class"}[require]
    without = [f"{item.name}: has no {word}; left out" for item, good in zip(items, has, strict=True) if not good]
    return [item for item, good in zip(items, has, strict=True) if good], without


_LACKS = {
    "text": "{where} has no captions, and the model follows text: put clip.txt beside each clip or captions.csv into "
    "the folder, or train without text by --condition none",
    "class": "{where} has no classes, and the model follows a class: put the clips of each class into a folder of its "
    "own, or train without classes by --condition none",
}


def _facts(item: Item) -> list:
    """What is trained on of a clip, but for where its file lies and how that is read."""
    found = item.found
    return [item.name, item.content, found.frames, found.height, found.width, item.captions, item.label]


def _short(item: Item, cut: Cut) -> str | None:
    needed = (cut.frames - 1) * cut.stride + 1
    if item.found.frames >= needed:
        return None
    return f"{item.name}: too short, {item.found.frames} frames of {needed}; its last frame is held"
