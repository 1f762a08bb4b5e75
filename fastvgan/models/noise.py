"""The noise of a generator: a function of the clip alone, not of the batch that it is generated in."""

import abc

import torch
from torch import nn

from fastvgan.models.conditions import ConditionEncoder
from fastvgan.random_draws import Draws, Purpose, normals


class NoiseDriven(nn.Module, abc.ABC):
    """A generator whose noise consists of standard normal numbers, arranged as its family needs them.

    Attributes:
        condition: encodes the condition; None in a model without one.
    """

    condition: ConditionEncoder | None

    @abc.abstractmethod
    def noise_size(self, frames: int | None = None) -> int:
        """Return the number of values for a clip of `frames` frames (default: the training length)."""

    @abc.abstractmethod
    def arrange(self, numbers: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Arrange numbers, shape (N, `noise_size(frames)`), as the noise that `forward` takes."""

    def noise(self, clips: int | torch.Tensor, seed: int = 0, frames: int | None = None) -> torch.Tensor:
        """Draw the noise of clips.

        A clip's noise depends on the seed and the clip's number alone. The noise of a longer clip begins with that of a
        shorter one.

        Args:
            clips: numbers of the clips, int64 (N,), or N for clips 0 to N - 1.
            seed: any integer.
            frames: the length, for families that generate clips of any length; default: the training length.

        Returns:
            float32 (N, ...), on the device of `clips`, or on the CPU if that is an int.
        """
        clips = torch.arange(clips) if isinstance(clips, int) else clips
        draws = Draws(seed, {Purpose.NOISE: self.noise_size(frames)}, clips.device)
        return self.arrange(normals(draws(clips)[Purpose.NOISE]), frames)
