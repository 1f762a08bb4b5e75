"""Decoding by PyAV in worker processes: every codec and every kind of clip, frame by frame exact."""

import functools
import logging
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fastvgan.data.decoders import ClipSet, conditions
from fastvgan.data.frames import read_frames
from fastvgan.data.media import BadVideo
from fastvgan.data.sampling import Draw
from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.threads import count_processors

logger = logging.getLogger("fastvgan")


class PyAVDecoder:
    """See `fastvgan.data.decoders.Decoder`.

    Args:
        workers: processes that decode; 0 decodes in the caller's.
    """

    def __init__(self, clips: ClipSet, workers: int = 1):
        self._clips, self._workers = clips, workers
        self.resident = None
        # More decode frames in vain, beyond a clip's last one.
        self._threads = min(4, max(1, count_processors() // max(1, workers)))

    def batches(self, seed: int, numbers: Iterator[range]) -> Iterator[Clips]:
        """See `fastvgan.data.decoders.Decoder.batches`."""
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
                tell_once(sentence)
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


def sample(
    clips: ClipSet, seed: int, number: int, unreadable: list[str], threads: int = 1, drawn: Draw | None = None
) -> tuple[np.ndarray, Draw]:
    """Sample `number` of a run, uint8 (T, H, W, C), and how it was drawn.

    Args:
        unreadable: takes a sentence for each clip that could not be read, and whose place another took.
        threads: as of `decode`. drawn: the sample, where it is drawn already.

    Raises:
        UserError: there is no usable clip left.
    """
    said = ""
    for draw in clips.sampler.candidates(seed, number, drawn):
        try:
            return decode(clips, draw, threads), draw
        except BadVideo as error:
            said = f"{clips.names[draw.clip]}: {error}"
            unreadable.append(f"{said}; another clip takes its place")
    raise UserError(f"not one clip of the data can be read any more ({said}); was it moved?")


def decode(clips: ClipSet, draw: Draw, threads: int = 1) -> np.ndarray:
    """One sample's frames, uint8 (T, H, W, C).

    Args:
        threads: that decode frames of a file at the same time.

    Raises:
        BadVideo: its clip cannot be read.
    """
    cut = clips.sampler.cut
    media, found = clips.media[draw.clip], clips.found[draw.clip]
    video = read_frames(media, found, list(draw.indices), cut.height, cut.width, cut.channels, threads)
    top, left = draw.offsets(video.shape[1:3], cut.height, cut.width)
    video = video[:, top : top + cut.height, left : left + cut.width]
    return video[:, :, ::-1] if draw.mirror else video


@functools.cache
def tell_once(sentence: str) -> None:
    """Warn, but not twice of the same."""
    logger.warning(sentence)


def _leave_signals_to_the_trainer(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
