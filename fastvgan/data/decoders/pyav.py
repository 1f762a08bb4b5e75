"""Frame-exact decoding of every codec and every kind of clip by PyAV, in worker processes."""

from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from fastvgan.data.loading import load_batches
from fastvgan.data.readers import ClipSet, decode_sample, stack_conditions, warn_once
from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors


class PyAVDecoder:
    """Decodes by PyAV; see `fastvgan.data.readers.Decoder`.

    Args:
        clips: The set to decode.
        workers: Number of decoding processes; 0 decodes in the calling process.
    """

    def __init__(self, clips: ClipSet, workers: int = 1):
        self._clips, self._workers = clips, workers
        self.resident = None
        # More threads would decode frames after the last one that is needed.
        self._threads = min(4, max(1, count_processors() // max(1, workers)))

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """Yield a batch per range of sample numbers; see `fastvgan.data.readers.Decoder.batches`."""
        loader = load_batches(_Batches(self._clips, seed, self._threads), self._workers, numbers)
        for made in loader:
            if isinstance(made, UserError):
                raise made
            clips, unreadable = made
            for sentence in unreadable:
                warn_once(sentence)
            yield clips


class _Batches(Dataset[tuple[Clips, list[str]] | UserError]):
    """Maps a range of sample numbers to `Clips`, and a sentence for each unreadable clip, in a DataLoader's workers.

    Errors are returned, since a DataLoader would put its worker's traceback into their sentence.
    """

    def __init__(self, clips: ClipSet, seed: int, threads: int):
        self._clips, self._seed, self._threads = clips, seed, threads

    def __getitem__(self, index: range) -> tuple[Clips, list[str]] | UserError:
        unreadable: list[str] = []
        try:
            samples = [
                decode_sample(self._clips, self._seed, number, unreadable, self._threads, draw)
                for number, draw in zip(index, self._clips.sampler.draws(self._seed, index), strict=True)
            ]
        except UserError as error:
            return error
        videos, draws = zip(*samples, strict=True)
        return Clips(torch.from_numpy(np.stack(videos)), *stack_conditions(draws)), unreadable
