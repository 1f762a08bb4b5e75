"""Schedules of the learning rates, of the weights that change, and of Adam's second beta."""

import math
from typing import TYPE_CHECKING

from fastvgan.runs.config import TrainingConfig

if TYPE_CHECKING:
    from fastvgan.training.step.adversarial import AdversarialStep


def rate_share(done: int, steps: int, decay: float) -> float:
    """Return the share of the full learning rate in the step after `done`: it falls in the last `decay` of `steps`."""
    falling = decay * steps
    return min(1.0, (steps - done) / falling) if falling else 1.0


def share_passed(done: int, steps: int, share: float) -> float:
    """Return how much of the first `share` of `steps` has passed in the step after `done`, 0 to 1; 1 for no share."""
    first = share * steps
    return min(1.0, done / first) if first else 1.0


def between(first: float, last: float, progress: float) -> float:
    """Return a value that changes from `first` to `last` along half a cosine, after a share `progress` of the time.

    This is the schedule of the penalties' weight and of Adam's second beta in the code of Huang et al. 2024 (R3GAN).
    """
    if first == last or progress <= 0:
        return first
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


LEVELS = 16
"""Values that Adam's second beta takes during the burn-in: a CUDA graph holds one, so each takes its own graphs."""


def beta_level(progress: float) -> int:
    """Return which of the LEVELS values is used after a share `progress` of the burn-in, from 0."""
    return min(int(progress * LEVELS), LEVELS - 1)


def beta_at(first: float, last: float, level: int) -> float:
    """Return the value at a level, `first` at the first level and `last` at the last one."""
    return between(first, last, level / (LEVELS - 1))


def follow_schedules(step: "AdversarialStep", training: TrainingConfig, done: int, steps: int, rate: float) -> None:
    """Set everything in a step that changes during a run.

    Args:
        step: the step to set, which runs next.
        training: the settings of the schedules.
        done: steps before this one.
        steps: steps of the run.
        rate: factor of the learning rates, which rollbacks lower.
    """
    step.set_rates(rate_share(done, steps, training.lr_decay) * rate)
    step.set_diversity(share_passed(done, steps, training.diversity_rise))
    step.set_burn_in(share_passed(done, steps, training.burn_in))
