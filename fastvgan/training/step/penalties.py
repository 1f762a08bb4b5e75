"""The penalties on D's gradients in a step: their weights, their random draws, and what they are computed from."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from fastvgan.losses import finite_difference_penalty, gradient_penalty, unit_gradient_penalty
from fastvgan.models.config import ModelConfig
from fastvgan.models.discriminators import sum_logits
from fastvgan.random_draws import Draws, Purpose, normals, uniforms
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.schedule import between
from fastvgan.training.step.scalar import DeviceScalar

Score = Callable[[torch.Tensor], list[torch.Tensor]]
"""Computes each discriminator's logits (N, P) of clips (N, C, T, H, W)."""


class Penalty(NamedTuple):
    """A penalty's value, a scalar () without a gradient, and its weighted value, which D's loss includes.

    In a step without the penalty the value is NaN and the cost None.
    """

    value: torch.Tensor
    cost: torch.Tensor | None


class Perturbation:
    """Moves clips by Gaussian noise.

    Args:
        model: the clips' sizes.
        seed: the run's seed.
        purpose: the purpose of the draws.
        scale: standard deviation of the noise.
        device: device of the noise.
    """

    def __init__(self, model: ModelConfig, seed: int, purpose: Purpose, scale: float, device: torch.device):
        self._size = model.frames, model.height, model.width, model.channels
        self._purpose, self.scale = purpose, scale
        self._draws = Draws(seed, {purpose: math.prod(self._size)}, device)

    def __call__(self, clips: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """Return moved clips (N, C, T, H, W) of the dtype of `clips`, by the draws for samples, int64 (N,)."""
        noise = normals(self._draws(samples)[self._purpose])
        # In the clips' memory format.
        noise = noise.view(len(samples), *self._size).permute(0, 4, 1, 2, 3)
        return torch.add(clips, noise.to(clips.dtype), alpha=self.scale)


class ClipPenalty:
    """R1 or R2: a penalty on the gradient of D's logits at clips, exact or by finite differences.

    With finite differences D scores the clips a second time, moved by Gaussian noise, in a separate pass: its batch
    statistics are those of the moved clips alone.

    Args:
        weights: the penalty's weight before and after the burn-in; 0 and 0 for no penalty.
        every: steps between penalties, by which the weight is multiplied: the lazy regularisation of Karras et al. 2020
            (StyleGAN2).
        perturbation: moves clips for finite differences; None for exact gradients.
        device: device of the weight.

    Attributes:
        is_on: whether there is such a penalty.
    """

    def __init__(
        self, weights: tuple[float, float], every: int, perturbation: Perturbation | None, device: torch.device
    ):
        self._weights, self._every, self._perturbation = weights, every, perturbation
        self.is_on = any(weights)
        self._weight = DeviceScalar(weights[0] * every, device)

    def set_progress(self, progress: float) -> None:
        """Set the weight to that after a share of the burn-in."""
        self._weight.set(between(*self._weights, progress) * self._every)

    def prepare(self, clips: torch.Tensor) -> torch.Tensor:
        """Return clips (N, C, T, H, W) in float32 or better, without their graph, as D must score them."""
        # Under autocast generated clips have few digits, which a pass of D without autocast does not accept.
        clips = clips.detach().to(torch.promote_types(clips.dtype, torch.float32))
        return clips.requires_grad_() if self._perturbation is None else clips

    def __call__(
        self, logits: list[torch.Tensor], clips: torch.Tensor, samples: torch.Tensor | None, score: Score
    ) -> Penalty:
        """Compute the penalty.

        Args:
            logits: of the clips by each discriminator, (N, P).
            clips: result of `prepare`, (N, C, T, H, W).
            samples: number of each clip in the run, int64 (N,); finite differences need it.
            score: computes logits of moved clips, under the same conditions.
        """
        combined = sum_logits(logits)
        if self._perturbation is None:
            value = gradient_penalty(combined, clips)
        else:
            moved = self._perturbation(clips, _known(samples))
            value = finite_difference_penalty(combined, sum_logits(score(moved)), self._perturbation.scale)
        return Penalty(value.detach(), self._weight.tensor * value)


class Penalties:
    """All penalties of a run.

    Args:
        model: sizes of the clips.
        config: the weights and how to compute the penalties.
        device: device of the draws and weights.

    Attributes:
        r1: the penalty on real clips.
        r2: the penalty on generated clips.
        gp: weight of the penalty on the lines between them; 0 for none.
        is_exact: whether R1 and R2 are exact, by a second derivative.
    """

    def __init__(self, model: ModelConfig, config: TrainingConfig, device: torch.device):
        self.is_exact, self.gp, self._every = config.penalty == "exact", config.gp, config.r1_every

        def make(weight: float, final: float | None, purpose: Purpose) -> ClipPenalty:
            perturbation = None
            if weight and not self.is_exact:
                perturbation = Perturbation(model, config.seed, purpose, config.difference_scale, device)
            return ClipPenalty((weight, weight if final is None else final), self._every, perturbation, device)

        self.r1 = make(config.r1, config.r1_final, Purpose.REAL_PERTURBATION)
        self.r2 = make(config.r2, config.r2_final, Purpose.FAKE_PERTURBATION)
        self._shares = Draws(config.seed, {Purpose.INTERPOLATION: 1}, device)

    def are_due(self, number: int) -> bool:
        """Whether step `number` has R1 or R2."""
        return (self.r1.is_on or self.r2.is_on) and number % self._every == 0

    def set_progress(self, progress: float) -> None:
        """Set the weights of R1 and R2 to those after a share of the burn-in."""
        self.r1.set_progress(progress)
        self.r2.set_progress(progress)

    def interpolate(self, real: torch.Tensor, fake: torch.Tensor, samples: torch.Tensor | None) -> torch.Tensor:
        """Draw a point on the line between each real clip and the generated clip of the same index.

        This is x̂ in algorithm 1 of Gulrajani et al. 2017 (Improved Training of Wasserstein GANs).

        Args:
            real: clips (N, C, T, H, W).
            fake: generated clips (N, C, T, H, W).
            samples: number of each clip in the run, int64 (N,).

        Returns:
            (N, C, T, H, W), which requires a gradient.
        """
        shares = uniforms(self._shares(_known(samples))[Purpose.INTERPOLATION]).to(real.dtype)
        mixed = torch.lerp(fake.detach().to(real.dtype), real.detach(), shares[:, :, None, None, None])
        return mixed.requires_grad_()

    def between(self, logits: list[torch.Tensor], clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the gradient penalty of Gulrajani et al. 2017.

        Args:
            logits: of `clips` by each discriminator, (N, P).
            clips: result of `interpolate`, (N, C, T, H, W).

        Returns:
            Its value, without a gradient, and its weighted value, scalars ().
        """
        value = unit_gradient_penalty(sum_logits(logits), clips)
        return value.detach(), self.gp * value


def _known(samples: torch.Tensor | None) -> torch.Tensor:
    if samples is None:
        raise ValueError("the inputs have no sample numbers, from which these penalties draw their random numbers")
    return samples
