"""Ways to get a batch's frames: `pyav`, `dali` and `shards`, behind one interface, and the choice among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from fastvgan.data.media import Media, Probe
from fastvgan.data.sampling import Draw, Sampler
from fastvgan.data.source import Clips

if TYPE_CHECKING:
    from fastvgan.data.decoders.resident import ResidentClips


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

    resident: "ResidentClips | None"
    """The clips, where they are held on the device and a step cuts them there; None where they are decoded ahead."""

    def batches(self, seed: int, numbers: Iterator[range]) -> Iterator[Clips]:
        """A batch, uint8 (N, T, H, W, C), for each range of sample numbers.

        A clip that cannot be read any more is named once, and the next one of the shuffle takes its place.

        Raises:
            UserError: no clip can be read any more.
        """
        ...


def conditions(draws: Sequence[Draw]) -> tuple[torch.Tensor, torch.Tensor]:
    """The caption and class indices of a batch, int64 (N,) each."""
    return torch.tensor([draw.caption for draw in draws]), torch.tensor([draw.label for draw in draws])
