"""What all decoders share: their interface, the set of clips that they decode, and samples one by one on the host."""

import functools
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from fastvgan.data.decoders.resident import ResidentClips
from fastvgan.data.media.frames import read_frames
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.sampling import Draw, Sampler
from fastvgan.data.source import Clips
from fastvgan.errors import UserError

logger = logging.getLogger("fastvgan")


@dataclass(frozen=True)
class ClipSet:
    """What a decoder decodes: where each clip is, what is known of it, and the sampler that draws from them.

    names: what messages call each clip.
    """

    names: Sequence[str]
    media: Sequence[Media]
    found: Sequence[Probe]
    sampler: Sampler


class Decoder(Protocol):
    """Turns samples' numbers into batches."""

    @property
    def resident(self) -> ResidentClips | None:
        """The clips, where the device holds them and a step cuts them there; None where they are decoded ahead."""
        ...

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """A batch, uint8 (N, T, H, W, C), for each range of sample numbers; closing ends all that decodes.

        A clip that cannot be read any more is named once, and the next one of the shuffle takes its place.

        Raises:
            UserError: no clip can be read any more.
        """
        ...


def conditions(draws: Sequence[Draw]) -> tuple[torch.Tensor, torch.Tensor]:
    """The caption and class indices of a batch, int64 (N,) each."""
    return torch.tensor([draw.caption for draw in draws]), torch.tensor([draw.label for draw in draws])


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
def warn_once(sentence: str) -> None:
    """Warn, but not twice of the same."""
    logger.warning(sentence)
