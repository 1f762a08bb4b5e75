"""Decoding by PyAV in worker processes: every codec and every kind of clip, frame by frame exact."""

import signal
from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fastvgan.data.readers import ClipSet, conditions, sample, warn_once
from fastvgan.data.source import Clips
from fastvgan.machine.threads import count_processors


class PyAVDecoder:
    """See `fastvgan.data.readers.Decoder`.

    Args:
        workers: processes that decode; 0 decodes in the caller's.
    """

    def __init__(self, clips: ClipSet, workers: int = 1):
        self._clips, self._workers = clips, workers
        self.resident = None
        # More decode frames in vain, beyond a clip's last one.
        self._threads = min(4, max(1, count_processors() // max(1, workers)))

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """See `fastvgan.data.readers.Decoder.batches`."""
        loader = DataLoader(
            _Batches(self._clips, seed, self._threads),
            batch_size=None,
            sampler=numbers,
            num_workers=self._workers,
            prefetch_factor=2 if self._workers else None,
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        for clips, unreadable in loader:
            for sentence in unreadable:
                warn_once(sentence)
            yield clips


class _Batches(Dataset):
    """Sample numbers → Clips, and a sentence for each clip that could not be read, for a DataLoader's workers."""

    def __init__(self, clips: ClipSet, seed: int, threads: int):
        self._clips, self._seed, self._threads = clips, seed, threads

    def __getitem__(self, numbers: range) -> tuple[Clips, list[str]]:
        unreadable: list[str] = []
        samples = [
            sample(self._clips, self._seed, number, unreadable, self._threads, draw)
            for number, draw in zip(numbers, self._clips.sampler.draws(self._seed, numbers), strict=True)
        ]
        videos, draws = zip(*samples, strict=True)
        return Clips(torch.from_numpy(np.stack(videos)), *conditions(draws)), unreadable


def _leave_signals_to_the_trainer(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
