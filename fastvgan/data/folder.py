"""A folder of video files as a training set."""

import functools
import itertools
import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fastvgan.data.annotations import Entry, Rejected, find_clips
from fastvgan.data.decode import BadVideo, Probe, probe, read_frames
from fastvgan.data.source import Clips
from fastvgan.errors import UserError

logger = logging.getLogger("fastvgan")


@dataclass(frozen=True)
class _Clip:
    entry: Entry
    found: Probe
    captions: tuple[int, ...]
    label: int


class FolderSource:
    """Clips cut at random out of the video files of a folder; see `fastvgan.data.annotations` for its layouts.

    Every file is decoded once in full, here. What cannot be used is in `rejected`, with its reason, and skipped. A file
    that is too short for a clip takes part, its last frame held; `notes` names it.

    Args:
        folder: searched with all folders below it.
        frames, height, width, channels: size of a clip. A frame is scaled until it just covers height x width, and cut
            at random, at the same place in all frames of a clip.
        stride: every how many frames of the file one is taken.
        require: "text" or "class" leaves out clips without a caption or class, "none" takes all.
        max_bad: with a larger share of unusable files than this the folder is refused.
        workers: processes that decode; 0 decodes in the caller's.

    Raises:
        UserError: the folder is missing, empty, without the captions or classes required, or too bad.
    """

    def __init__(
        self,
        folder: Path,
        frames: int,
        height: int,
        width: int,
        channels: int = 3,
        stride: int = 1,
        require: str = "none",
        max_bad: float = 0.5,
        workers: int = 1,
    ):
        self.shape = (frames, height, width, channels)
        self.stride = stride
        self._workers = workers
        entries, self.rejected = find_clips(folder)
        _check_required(folder, entries, require)
        entries, without = _split(entries, require)
        self.rejected += without
        good, bad = _probe_all(entries)
        self.rejected += bad
        self.notes = [note for entry, found in good if (note := self._short(entry, found))]
        self.remarks = [*(f"{item.name}: {item.reason}; left out" for item in self.rejected), *self.notes]
        _check_share(folder, len(entries), bad, max_bad)
        self.captions = list(dict.fromkeys(caption for entry, _ in good for caption in entry.captions))
        self.classes = sorted({entry.label for entry, _ in good if entry.label is not None})
        caption_index = {caption: i for i, caption in enumerate(self.captions)}
        class_index = {label: i for i, label in enumerate(self.classes)}
        self._clips = [
            _Clip(entry, found, tuple(caption_index[c] for c in entry.captions), class_index.get(entry.label, -1))
            for entry, found in good
        ]
        self.size = len(self._clips)

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Clips]:
        """See `fastvgan.data.source.Source.batches`."""
        loader = DataLoader(
            _Batches(self, batch_size, seed),
            batch_size=None,
            sampler=itertools.count(start),
            num_workers=self._workers,
            prefetch_factor=2 if self._workers else None,
            worker_init_fn=_leave_signals_to_the_trainer,
            pin_memory=torch.cuda.is_available(),
        )
        yield from loader

    def _short(self, entry: Entry, found: Probe) -> str | None:
        needed = (self.shape[0] - 1) * self.stride + 1
        if found.frames >= needed:
            return None
        return f"{entry.name}: too short, {found.frames} frames of {needed}; its last frame is held"

    def draw(self, seed: int, number: int) -> tuple[np.ndarray, int, int]:
        """Sample `number` of a run: the clip, uint8 (T, H, W, C), and its caption's and class's index (-1 for none).

        A file that has become unusable since it was checked is named once and the next one in the shuffle takes its
        place.

        Raises:
            UserError: there is no usable file left.
        """
        epoch, place = divmod(number, self.size)
        order = _shuffle(self.size, seed, epoch)
        for offset in range(self.size):
            clip = self._clips[order[(place + offset) % self.size]]
            rng = np.random.default_rng([seed, number])
            try:
                video = self._cut(clip, rng)
            except BadVideo as error:
                _tell_once(f"{clip.entry.name}: {error}; another clip takes its place")
                continue
            caption = clip.captions[rng.integers(len(clip.captions))] if clip.captions else -1
            return video, caption, clip.label
        raise UserError("not one file of the data folder can be read any more; was it moved?")

    def _cut(self, clip: _Clip, rng: np.random.Generator) -> np.ndarray:
        frames, height, width, channels = self.shape
        start = rng.integers(max(1, clip.found.frames - (frames - 1) * self.stride))
        last = clip.found.frames - 1
        indices = [min(int(start) + i * self.stride, last) for i in range(frames)]
        video = read_frames(clip.entry.path, clip.found, indices, height, width, channels)
        top = rng.integers(video.shape[1] - height + 1)
        left = rng.integers(video.shape[2] - width + 1)
        return video[:, top : top + height, left : left + width]


class _Batches(Dataset):
    """Batch number → Clips, for a DataLoader's workers."""

    def __init__(self, source: FolderSource, batch_size: int, seed: int):
        self._source, self._batch_size, self._seed = source, batch_size, seed

    def __getitem__(self, number: int) -> Clips:
        first = number * self._batch_size
        drawn = [self._source.draw(self._seed, first + i) for i in range(self._batch_size)]
        videos, captions, labels = zip(*drawn, strict=True)
        return Clips(
            torch.from_numpy(np.stack(videos)),
            torch.tensor(captions) if self._source.captions else None,
            torch.tensor(labels) if self._source.classes else None,
        )


def _probe_all(entries: list[Entry]) -> tuple[list[tuple[Entry, Probe]], list[Rejected]]:
    def check(entry):
        try:
            return entry, probe(entry.path)
        except BadVideo as error:
            return Rejected(entry.name, str(error))

    # Threads, not processes: FFmpeg decodes outside Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(tqdm(pool.map(check, entries), "checking files", len(entries), leave=False, unit="file"))
    bad = [result for result in results if isinstance(result, Rejected)]
    return [result for result in results if not isinstance(result, Rejected)], bad


def _split(entries: list[Entry], require: str) -> tuple[list[Entry], list[Rejected]]:
    has = {"text": lambda e: e.captions, "class": lambda e: e.label is not None, "none": lambda e: True}[require]
    word = {"text": "caption", "class": "class", "none": ""}[require]
    return [e for e in entries if has(e)], [Rejected(e.name, f"has no {word}") for e in entries if not has(e)]


def _check_required(folder: Path, entries: list[Entry], require: str) -> None:
    if require == "text" and not any(entry.captions for entry in entries):
        raise UserError(
            f"{folder} has no captions, and the model follows text: put clip.txt beside each clip or captions.csv into "
            "the folder, or train without text by --condition none"
        )
    if require == "class" and not any(entry.label for entry in entries):
        raise UserError(
            f"{folder} has no classes, and the model follows a class: put the clips of each class into a folder of its "
            "own, or train without classes by --condition none"
        )


def _check_share(folder: Path, count: int, bad: list[Rejected], max_bad: float) -> None:
    if len(bad) == count or len(bad) > max_bad * count:
        named = "; ".join(f"{item.name} {item.reason}" for item in bad[:5]) + ("; …" if len(bad) > 5 else "")
        raise UserError(
            f"{len(bad)} of {count} files in {folder} are unusable, more than --max-bad {max_bad:g} allows: {named}"
        )


@functools.lru_cache(2)
def _shuffle(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 1]).permutation(size)


@functools.cache
def _tell_once(sentence: str) -> None:
    logger.warning(sentence)


def _leave_signals_to_the_trainer(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
