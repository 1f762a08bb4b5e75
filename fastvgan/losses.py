"""The objectives, as plain functions of logits.

Each gives the discriminator's loss from logits on real and generated clips, and the generator's from logits on
generated ones. Logits are those of one discriminator, (N,), or (N, P) for P frames of each clip, or (N, P, K) under K
conditions per clip; means are over all of them. All results are scalars in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from fastvgan_kernels.logistic import logistic


class Objective(NamedTuple):
    """A game: what a real clip costs D, what a clip to be rejected costs D, and what a generated one costs G."""

    real: Callable[[torch.Tensor], torch.Tensor]
    fake: Callable[[torch.Tensor], torch.Tensor]
    generator: Callable[[torch.Tensor], torch.Tensor]


def cross_entropy_real(logits: torch.Tensor) -> torch.Tensor:
    """−E[log σ(logits)]: binary cross entropy against the target 1."""
    return logistic(logits, True)[0]


def cross_entropy_fake(logits: torch.Tensor) -> torch.Tensor:
    """−E[log(1 − σ(logits))]: binary cross entropy against the target 0."""
    return logistic(logits, False)[0]


def minimax_generator(logits: torch.Tensor) -> torch.Tensor:
    """E[log(1 − σ(logits))], which G minimises in the game of Goodfellow et al. 2014, equation 1."""
    return -logistic(logits, False)[0]


OBJECTIVES = {
    "nonsaturating": Objective(cross_entropy_real, cross_entropy_fake, cross_entropy_real),
    "minimax": Objective(cross_entropy_real, cross_entropy_fake, minimax_generator),
}


def contrast(right: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """−E[log softmax(right, wrong)₀]: the cross entropy of picking a clip's own condition out of these.

    It is the contrastive loss of a clip and its sentence in XMC-GAN (Zhang et al. 2021, equation 5; after InfoNCE, van
    den Oord et al. 2018), here against conditions that are wrong in one part, drawn for each clip, and not against
    those of the other clips of the batch. A logit's part that no condition enters cancels out, so that nothing in it
    says whether a clip is real.

    Args:
        right: logits (...) under the clips' own conditions. wrong: (..., K), under K wrong ones per clip, or (...).
    """
    wrong = wrong if wrong.dim() > right.dim() else wrong[..., None]
    return -torch.cat([right[..., None], wrong], -1).float().log_softmax(-1)[..., 0].mean()


def diversity(clips: torch.Tensor, noise: torch.Tensor, target: float) -> torch.Tensor:
    """How much clips of one condition differ for the difference of their noise, up to `target`; for G to maximise.

    The term of Yang et al. 2019 (Diversity-Sensitive Conditional GAN, equation 3), in mean absolute differences.
    Without it a generator that is told much can learn to ignore its noise.

    Args:
        clips, noise: (N, ...) each, clips 0 and 1 being of one condition, clips 2 and 3 of one, and so on.
        target: beyond this ratio more difference is worth nothing. Pixels count from -1 to 1.

    Returns:
        The mean over the pairs, a scalar in float32.
    """
    even = len(clips) // 2 * 2

    def apart(x):
        return (x[:even:2] - x[1:even:2]).abs().float().flatten(1).mean(1)

    return (apart(clips) / apart(noise)).clamp(max=target).mean()


def gradient_penalty(logits: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """E[‖∇logit‖²] / 2 over real clips (N, C, T, H, W), a scalar in float32: R1 of Mescheder et al. 2018, equation 9.

    Args:
        logits: (N,) of these clips, which require a gradient. No clip's logit should depend on another's clip by more
            than batch statistics do.
    """
    (gradient,) = torch.autograd.grad(logits.float().sum(), clips, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


def discriminator_loss(
    objective: Objective, real: torch.Tensor, fake: torch.Tensor, wrong: torch.Tensor | None = None
) -> torch.Tensor:
    """D's loss from logits on real clips, generated clips, and real clips under a wrong condition.

    With `wrong` it is the matching-aware loss of Reed et al. 2016 (GAN-CLS): the two kinds of clip to be rejected count
    half each.
    """
    return loss_on_real(objective, real, wrong) + loss_on_fake(objective, fake, wrong is not None)


def loss_on_real(objective: Objective, real: torch.Tensor, wrong: torch.Tensor | None = None) -> torch.Tensor:
    """The part of discriminator_loss that real clips have, under their own and under a wrong condition."""
    return objective.real(real) if wrong is None else objective.real(real) + objective.fake(wrong) / 2


def loss_on_fake(objective: Objective, fake: torch.Tensor, matching_aware: bool = False) -> torch.Tensor:
    """The part of discriminator_loss that generated clips have."""
    return objective.fake(fake) / 2 if matching_aware else objective.fake(fake)
