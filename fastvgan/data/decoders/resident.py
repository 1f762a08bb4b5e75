"""Decoded clips in a device's memory, cut out there by a few operations that a CUDA graph can hold."""

import math
from collections.abc import Generator, Iterator, Sequence

import torch

from fastvgan.data.sampling import Sampler
from fastvgan.data.source import Clips
from fastvgan.random_draws import below

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class ResidentClips:
    """All clips of a set, one after the other in one tensor, from which rows of pixels are gathered.

    Args:
        videos: each clip's frames, uint8 (t, h, w, C), no smaller than a clip of `sampler`.
        sampler: of these clips. device: that holds them.
    """

    def __init__(self, videos: Sequence[torch.Tensor], sampler: Sampler, device: torch.device):
        self._sampler, self._device = sampler, device
        cut = self._cut = sampler.cut
        self.nbytes = sum(video.nbytes for video in videos)
        sizes = torch.tensor([video.shape[:3] for video in videos], dtype=torch.int64, device="cpu")
        _, heights, widths = sizes.unbind(1)
        # Rows are gathered in the widest integers that every row of a frame, and every crop, begins at a multiple of.
        crops = [cut.channels] if bool((widths > cut.width).any()) else []
        row = cut.width * cut.channels
        unit = math.gcd(8, row, *(widths * cut.channels).unique().tolist(), *crops)
        # Every place where a row may begin: windows that overlap, of which nothing is copied.
        self._windows = _one_after_the_other(videos, device).view(_INTEGERS[unit]).unfold(0, row // unit, 1)
        self._column = cut.channels // unit
        pitch = widths * cut.channels // unit
        first = (sizes.prod(1).cumsum(0) - sizes.prod(1)) * cut.channels // unit
        beyond = torch.stack([heights - cut.height + 1, widths - cut.width + 1], 1)
        table = torch.cat([torch.stack([first, heights * pitch, pitch], 1), beyond], 1)
        self._is_cropped = bool((beyond > 1).any())
        self._table = table.to(device)  # for each clip: first unit, units of a frame and of a row, possible crops
        self._rows = torch.arange(cut.height, device=device)

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """See `fastvgan.data.readers.Decoder.batches`."""
        for batch in numbers:
            clips = torch.tensor(self._sampler.clips(seed, batch), device=self._device)
            samples = torch.arange(batch.start, batch.stop, device=self._device)
            yield self.draw(self._sampler.words(seed, samples), clips)

    def draw(self, words: torch.Tensor, clips: torch.Tensor) -> Clips:
        """Clips cut as `Sampler.pick` draws it; the host waits for nothing.

        Args:
            words: int64 (N, WORDS) in [0, 2**32). clips: int64 (N,), which of the videos; both on the device.
        """
        cut, picks = self._cut, self._sampler.pick(words, clips)
        row = self._table[clips]  # (N, 5)
        first, frame, pitch = row[:, :3].unbind(1)
        if self._is_cropped:
            top, left = below(picks.crop, row[:, 3:]).unbind(1)
            first = torch.addcmul(first, top, pitch).add_(left, alpha=self._column)
        frames = torch.addcmul(first[:, None], picks.indices, frame[:, None])  # (N, T)
        rows = torch.addcmul(frames[:, :, None], self._rows, pitch[:, None, None])  # (N, T, H)
        video = self._windows[rows].view(torch.uint8).unflatten(3, (cut.width, cut.channels))
        if cut.mirror:
            video = torch.where(picks.mirror.view(-1, 1, 1, 1, 1) > 0, video.flip(3), video)
        return Clips(video, picks.caption, picks.label)


def _one_after_the_other(videos: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """All bytes of uint8 tensors, copied one by one, so that they are in memory but once."""
    made = torch.empty(sum(video.nbytes for video in videos), dtype=torch.uint8, device=device)
    for place, video in zip(made.split([video.nbytes for video in videos]), videos, strict=True):
        place.view(video.shape).copy_(video)
    return made
