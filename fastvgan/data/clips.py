"""A training set of clips, listed in a manifest or found in a folder."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from fastvgan.data.decoders.choice import choose_decoder
from fastvgan.data.fingerprint import compute_fingerprint
from fastvgan.data.folders.annotations import clean_captions
from fastvgan.data.folders.entry import Entry
from fastvgan.data.folders.layouts import Layout, Scan, scan
from fastvgan.data.folders.manifest import Manifest
from fastvgan.data.folders.survey import check_share, divide, examine, map_in_threads, notes, size_of
from fastvgan.data.media.types import Media, Probe
from fastvgan.data.readers import ClipSet
from fastvgan.data.sampling import WORDS, Cut, Member, Sampler, sample_numbers
from fastvgan.data.source import Clips
from fastvgan.errors import UserError


class Item(NamedTuple):
    """One clip of a set.

    content: Changes with the file's content: its checksum in a manifest, else its size in bytes.
    shown: The frames that samples may show; None for all.
    """

    name: str
    media: Media
    found: Probe
    captions: tuple[str, ...]
    label: str | None
    content: str | int = 0
    shown: range | None = None

    @property
    def frames(self) -> range:
        """The frames that samples may show."""
        return range(self.found.frames) if self.shown is None else self.shown


class Listing(NamedTuple):
    """The usable clips of a set, remarks on the set, and the conditions of a model trained on it."""

    items: list[Item]
    remarks: list[str]
    condition: tuple[str, ...]


class ClipSource:
    """Clips cut at random from the members of a set; see `fastvgan.data.source.Source`.

    If a member is too short, its last frame is repeated and `remarks` names it.

    Args:
        items: The set.
        cut: Size of the clips, and how they are cut.
        remarks: Earlier remarks on the set; those made here follow them.
        decoder: "auto", "pyav", "dali" or "shards".
        device: Device of the batches.
        workers: Number of decoding processes (PyAV) or threads (DALI).
        open_test: Opens the source of the frames that are kept for tests, if there are any.

    Raises:
        UserError: The decoder does not support the set.
    """

    def __init__(
        self,
        items: Sequence[Item],
        cut: Cut,
        remarks: Sequence[str] = (),
        decoder: str = "auto",
        device: "torch.device | str" = "cpu",
        workers: int = 1,
        open_test: "Callable[[], ClipSource] | None" = None,
    ):
        self.open_test = open_test
        self.captions: Sequence[str] = list(dict.fromkeys(caption for item in items for caption in item.captions))
        self.classes: Sequence[str] = sorted({item.label for item in items if item.label is not None})
        self.size = len(items)
        self.fingerprint = compute_fingerprint(map(_facts, items), self.size, self.captions, self.classes)
        self.remarks: Sequence[str] = [*remarks, *(note for item in items if (note := _note_if_short(item, cut)))]
        caption_index = {caption: i for i, caption in enumerate(self.captions)}
        class_index = {label: i for i, label in enumerate(self.classes)}
        members = [
            Member(
                len(item.frames),
                tuple(caption_index[c] for c in item.captions),
                class_index.get(item.label or "", -1),
                item.frames.start,
            )
            for item in items
        ]
        # The captions of one clip are no wrong ones of each other: see `fastvgan.models.vocabulary.WrongCaptions`.
        self.caption_sets: Sequence[Sequence[int]] = sorted(
            {member.captions for member in members if len(member.captions) > 1}
        )
        self.sampler = Sampler(members, cut)
        clips = ClipSet(
            [item.name for item in items], [item.media for item in items], [item.found for item in items], self.sampler
        )
        self._decoder, self.decoder = choose_decoder(decoder, clips, torch.device(device), workers)
        self.shuffles = self._decoder.resident is not None
        self.draws = WORDS if self.shuffles else 0

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Generator[Clips, None, None]:
        """Yield batches; see `fastvgan.data.source.Source.batches`."""
        numbers = sample_numbers(batch_size, start, rank, world_size)
        with closing(self._decoder.batches(seed, numbers)) as batches:
            for clips in batches:
                yield self._drop_missing_conditions(clips)

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Cut clips by random words; see `fastvgan.data.source.Source.draw`.

        Args:
            words: int64 (N, WORDS) in [0, 2**32).
            clips: int64 (N,), indices of the clips to cut.

        Raises:
            ValueError: `clips` is missing, or the clips are not in the device's memory.
        """
        if self._decoder.resident is None or clips is None:
            raise ValueError("draw needs the indices `clips`, and clips in the device's memory; else use batches")
        return self._drop_missing_conditions(self._decoder.resident.draw(words, clips))

    def _drop_missing_conditions(self, clips: Clips) -> Clips:
        return clips._replace(
            caption=clips.caption if self.captions else None, label=clips.label if self.classes else None
        )


def items_from_manifest(
    manifest: Manifest, require: Sequence[str] = (), max_bad: float = 0.5
) -> tuple[list[Item], list[str]]:
    """List the clips of a manifest, and a remark for each clip left out, such as one whose file has changed.

    Args:
        manifest: The manifest.
        require: "text" leaves out clips without a caption, "class" those without a class.
        max_bad: The largest share of files that have changed, in [0, 1].

    Raises:
        UserError: A path leads out of the manifest's root, too many files have changed, or no clip has what is
            required.
    """
    good, bad = manifest.divide()
    check_share(Path(manifest.root), len(manifest.records), bad, max_bad)
    items = [
        Item(r.name, media, r.found, clean_captions(r.captions), r.label, r.checksum or r.bytes) for r, media in good
    ]
    if len({item.media.kind == "shard" for item in items}) > 1:
        raise UserError("the manifest lists both shards and files; prepare the data again with one --to")
    items, not_annotated = _keep_annotated(items, require, "the manifest")
    return items, [*(f"{item.name}: {item.reason}; left out" for item in bad), *not_annotated]


def items_from_folder(
    folder: Path, layout: Layout, require: Sequence[str] = (), max_bad: float = 0.5, tolerant: bool = False
) -> tuple[list[Item], list[str]]:
    """Decode each clip of a folder in full, and list the usable ones and remarks on the folder.

    Args:
        folder: The folder.
        layout: How the folder is read.
        require: As in `items_from_manifest`.
        max_bad: The largest share of unusable clips, in [0, 1].
        tolerant: Take frames in which the decoder concealed errors.

    Raises:
        UserError: The folder is missing or empty, lacks the required captions or classes, or has too many unusable
            clips.
    """
    return items_from_scan(folder, scan(folder, layout), require, max_bad, tolerant)


def items_from_scan(
    folder: Path, scanned: Scan, require: Sequence[str] = (), max_bad: float = 0.5, tolerant: bool = False
) -> tuple[list[Item], list[str]]:
    """Like `items_from_folder`, from the result of `scan`."""
    entries, rejected, remarks = scanned
    entries, not_annotated = _keep_annotated(entries, require, str(folder))
    good, bad = divide(map_in_threads(lambda entry: examine(entry, tolerant), entries, "checking files"))
    check_share(folder, len(entries), bad, max_bad)
    items = [
        Item(c.entry.name, c.entry.media, c.probe, c.entry.captions, c.entry.label, size_of(c.entry)) for c in good
    ]
    left_out = [f"{item.name}: {item.reason}; left out" for item in [*rejected, *bad]]
    return items, [*remarks, *left_out, *not_annotated, *(note for clip in good for note in notes(clip))]


_Annotated = TypeVar("_Annotated", Item, Entry)


def _keep_annotated(items: list[_Annotated], require: Sequence[str], where: str) -> tuple[list[_Annotated], list[str]]:
    """Items that have the required caption and class, and a remark for each of the others."""
    remarks: list[str] = []
    for part in require:
        has = [bool(item.captions) if part == "text" else item.label is not None for item in items]
        if not any(has):
            raise UserError(_MISSING[part].format(where=where))
        word = {"text": "caption", "class": "class"}[part]
        remarks += [f"{item.name}: has no {word}; left out" for item, good in zip(items, has, strict=True) if not good]
        items = [item for item, good in zip(items, has, strict=True) if good]
    return items, remarks


_MISSING = {
    "text": "{where} has no captions, but the model is conditioned on text: add clip.txt beside each clip or a "
    "captions.csv in the folder, or train with --condition none",
    "class": "{where} has no classes, but the model is conditioned on the class: put the clips of each class in a "
    "separate folder, or train with --condition none",
}


def _facts(item: Item) -> list[Any]:
    """Everything that training depends on, except where the file is and how it is read."""
    found = item.found
    facts = [item.name, item.content, found.frames, found.height, found.width, item.captions, item.label]
    return facts if item.shown is None else [*facts, item.shown.start, item.shown.stop]


def _note_if_short(item: Item, cut: Cut) -> str | None:
    needed = (cut.frames - 1) * cut.stride + 1
    if len(item.frames) >= needed:
        return None
    return f"{item.name}: too short, {len(item.frames)} of {needed} frames; its last frame is repeated"
