"""The decoders' interface, the set of clips that they decode, and decoding of single samples on the host."""

import functools
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from fastvgan.data.decoders.resident import ResidentClips
from fastvgan.data.media.frames import read_frames
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.sampling import Draw, Sampler
from fastvgan.data.source import Clips
from fastvgan.errors import UserError

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("fastvgan")


@dataclass(frozen=True)
class ClipSet:
    """The clips that a decoder decodes, and the sampler that draws from them.

    names: Name of each clip in messages.
    media: Where each clip's frames are.
    found: What decoding found out about each clip.
    """

    names: Sequence[str]
    media: Sequence[Media]
    found: Sequence[Probe]
    sampler: Sampler


class Decoder(Protocol):
    """Decodes the samples of given numbers into batches."""

    @property
    def resident(self) -> ResidentClips | None:
        """The clips in the device's memory, cut by the training step; None if batches are decoded ahead of it."""
        ...

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """Yield a batch, uint8 (N, T, H, W, C), for each range of sample numbers.

        If a clip has become unreadable, a warning names it once and the next one of the shuffle is used. Closing the
        generator ends the decoding threads and processes.

        Raises:
            UserError: No clip is readable any more.
        """
        ...


def stack_conditions(draws: Sequence[Draw]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the caption indices and the class indices of a batch, both int64 (N,)."""
    return torch.tensor([draw.caption for draw in draws]), torch.tensor([draw.label for draw in draws])


def decode_sample(
    clips: ClipSet, seed: int, number: int, unreadable: list[str], threads: int = 1, first: Draw | None = None
) -> "tuple[np.ndarray, Draw]":
    """Decode one sample of a run; if its clip is unreadable, decode the next one of the shuffle.

    Args:
        clips: The set.
        seed: Seed of the run.
        number: Number of the sample.
        unreadable: A sentence for each unreadable clip is appended to it.
        threads: Number of threads that decode a file.
        first: The sample's draw, if it is known already.

    Returns:
        The frames, uint8 (T, H, W, C), and the draw that they belong to.

    Raises:
        UserError: No clip is readable any more.
    """
    reason = ""
    for draw in clips.sampler.candidates(seed, number, first):
        try:
            return decode_draw(clips, draw, threads), draw
        except BadVideo as error:
            reason = f"{clips.names[draw.clip]}: {error}"
            unreadable.append(f"{reason}; using another clip instead")
    raise UserError(f"not one clip of the data can be read any more ({reason}); was it moved?")


def decode_draw(clips: ClipSet, draw: Draw, threads: int = 1) -> "np.ndarray":
    """Decode the frames of a draw, uint8 (T, H, W, C).

    Args:
        clips: The set.
        draw: A sample of it.
        threads: Number of threads that decode a file.

    Raises:
        BadVideo: The clip cannot be read.
    """
    cut = clips.sampler.cut
    media, found = clips.media[draw.clip], clips.found[draw.clip]
    video = read_frames(media, found, list(draw.indices), cut.height, cut.width, cut.channels, threads)
    top, left = draw.offsets(video.shape[1:3], cut.height, cut.width)
    video = video[:, top : top + cut.height, left : left + cut.width]
    video = video[:, :, ::-1] if draw.mirror else video
    return video[::-1] if draw.reverse else video


@functools.cache
def warn_once(sentence: str) -> None:
    """Log a warning, unless the same one was logged before."""
    logger.warning(sentence)
