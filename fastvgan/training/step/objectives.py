"""The losses of an objective from all discriminators' logits, for games of single clips and of pairs."""

from functools import partial

import torch

from fastvgan.losses import (
    Objective,
    PairedObjective,
    differences,
    discriminator_loss,
    loss_on_fake,
    loss_on_real,
)
from fastvgan.training.step.passes import RealScores, sum_losses
from fastvgan_kernels.lists import mean_sigmoids


def first_loss(objective: Objective | PairedObjective, real: RealScores) -> torch.Tensor | None:
    """Return the part of D's loss that real clips alone decide, a scalar (); None if the objective compares pairs."""
    if isinstance(objective, PairedObjective):
        return None
    return sum_losses(partial(loss_on_real, objective), real.right, *real.wrong)


def second_loss(objective: Objective | PairedObjective, real: RealScores, on_fake: list[torch.Tensor]) -> torch.Tensor:
    """Return the rest of D's loss, a scalar (), from logits (N, P) of generated clips by each discriminator."""
    if isinstance(objective, PairedObjective):
        return sum_losses(partial(discriminator_loss, objective), real.right, on_fake, *real.wrong)
    return sum_losses(partial(loss_on_fake, objective, matching_aware=bool(real.wrong)), on_fake)


def generator_loss(
    objective: Objective | PairedObjective, on_fake: list[torch.Tensor], on_real: list[torch.Tensor] | None
) -> torch.Tensor:
    """Return G's loss, a scalar ().

    Args:
        objective: the game.
        on_fake: logits (N, P) of generated clips by each discriminator.
        on_real: logits (N, P) of real clips; None for an objective that does not compare pairs.

    Raises:
        ValueError: the objective compares pairs, and `on_real` is None.
    """
    if not isinstance(objective, PairedObjective):
        return sum_losses(objective.generator, on_fake)
    if on_real is None:
        raise ValueError("an objective of pairs needs the logits of real clips")
    return sum_losses(objective.generator, on_fake, on_real)


def mean_probabilities(
    objective: Objective | PairedObjective, on_real: list[torch.Tensor], on_fake: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean probability () of being real that D gives real and generated clips; of pairs, to each of a pair.

    Args:
        objective: the game.
        on_real: logits (N, P) of real clips by each discriminator.
        on_fake: logits (N, P) of generated clips.
    """
    if isinstance(objective, PairedObjective):
        pairs = list(zip(on_real, on_fake, strict=True))
        on_real, on_fake = [differences(r, f) for r, f in pairs], [differences(f, r) for r, f in pairs]
    real, fake = mean_sigmoids([[each.detach() for each in logits] for logits in (on_real, on_fake)]).unbind()
    return real, fake
