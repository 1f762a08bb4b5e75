"""A generator's noise: each clip's own, whatever other clips are made with it."""

import abc

import torch
from torch import nn

from fastvgan.random_draws import Draws, Purpose, normals


class NoiseDriven(nn.Module, abc.ABC):
    """A generator whose noise is standard normal numbers, arranged in the way of its family."""

    @abc.abstractmethod
    def noise_size(self, frames: int | None = None) -> int:
        """How many numbers a clip of `frames` frames (default: the training length) takes."""

    @abc.abstractmethod
    def arrange(self, numbers: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Numbers (N, `noise_size(frames)`) as `forward` takes them."""

    def noise(self, clips: int | torch.Tensor, seed: int = 0, frames: int | None = None) -> torch.Tensor:
        """The noise of these clips.

        A clip's noise is a function of seed and clip number alone, and that of a longer clip begins with that of a
        shorter one.

        Args:
            clips: numbers of the clips, int64 (N,), or N for clips 0 to N - 1. seed: of all of them.
            frames: length, for families that make clips of any length; default: the training length.

        Returns:
            float32 (N, ...), on the device of `clips`, or on the CPU.
        """
        clips = torch.arange(clips) if isinstance(clips, int) else clips
        draws = Draws(seed, {Purpose.NOISE: self.noise_size(frames)}, clips.device)
        return self.arrange(normals(draws(clips)[Purpose.NOISE]), frames)
