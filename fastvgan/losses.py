"""Adversarial losses and regularisers as functions of logits.

Logits are those of one discriminator: (N,), or (N, P) for P frames per clip, or (N, P, K) for K conditions per clip.
Losses are means over all logits. All results are float32 scalars.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fastvgan_kernels.logistic import logistic


class Objective(NamedTuple):
    """The losses of a game: D's on real clips, D's on clips to reject, and G's on generated clips."""

    real: Callable[[torch.Tensor], torch.Tensor]
    fake: Callable[[torch.Tensor], torch.Tensor]
    generator: Callable[[torch.Tensor], torch.Tensor]


def cross_entropy_real(logits: torch.Tensor) -> torch.Tensor:
    """Return −E[log σ(logits)], the binary cross entropy with target 1, for logits of any shape."""
    return logistic(logits, True)[0]


def cross_entropy_fake(logits: torch.Tensor) -> torch.Tensor:
    """Return −E[log(1 − σ(logits))], the binary cross entropy with target 0, for logits of any shape."""
    return logistic(logits, False)[0]


def minimax_generator(logits: torch.Tensor) -> torch.Tensor:
    """Return E[log(1 − σ(logits))] for logits of any shape: G's loss in Goodfellow et al. 2014, equation 1."""
    return -logistic(logits, False)[0]


OBJECTIVES = {
    "nonsaturating": Objective(cross_entropy_real, cross_entropy_fake, cross_entropy_real),
    "minimax": Objective(cross_entropy_real, cross_entropy_fake, minimax_generator),
}


def contrast(right: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """Return −E[log softmax(right, wrong)₀], the cross entropy of picking a clip's own condition, a scalar.

    This is the contrastive loss of clips and sentences in XMC-GAN (Zhang et al. 2021, equation 5; after InfoNCE, van
    den Oord et al. 2018), except that the negatives are conditions with one wrong part, drawn for each clip, not the
    conditions of the other clips in the batch. The unconditional part of the logits cancels, so the loss does not
    depend on whether a clip looks real.

    Args:
        right: logits (...) under the clips' own conditions.
        wrong: logits (..., K) under K wrong conditions per clip, or (...) under one.
    """
    wrong = wrong if wrong.dim() > right.dim() else wrong[..., None]
    return -torch.cat([right[..., None], wrong], -1).float().log_softmax(-1)[..., 0].mean()


def diversity(clips: torch.Tensor, noise: torch.Tensor, target: float) -> torch.Tensor:
    """Return the ratio of the clips' difference to their noise's difference, at most `target`; G maximises it.

    The regulariser of Yang et al. 2019 (Diversity-Sensitive Conditional GAN, equation 3), with mean absolute
    differences. Without it a generator with informative conditions can learn to ignore its noise.

    Args:
        clips: (N, ...) with pixels in [-1, 1]; clips 0 and 1 share a condition, as do clips 2 and 3, and so on.
        noise: (N, ...) that the clips were made from.
        target: ratio at which a pair's term is clamped.

    Returns:
        The mean over the pairs, a float32 scalar; 0 without pairs.
    """
    even = len(clips) // 2 * 2

    def distances(x: torch.Tensor) -> torch.Tensor:  # one pass; abs, float, flatten and mean would be four
        difference = x[:even:2] - x[1:even:2]
        precise = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(difference, 1, list(range(1, x.dim())), dtype=precise)

    values = clips[:1].numel() / max(noise[:1].numel(), 1)  # pixels per noise value
    ratios = (distances(clips) / distances(noise)).clamp(max=target * values)
    return ratios.sum().float() / (values * max(len(ratios), 1))


def feature_diversity(
    seen: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    everywhere: Callable[[torch.Tensor], torch.Tensor] = lambda mean: mean,
) -> torch.Tensor:
    """Return how much clips of one condition differ in discriminator features, relative to `targets`; G maximises it.

    Pixels differ as soon as a digit moves; this term is for features that do not depend on position. Yang et al. 2019
    (Diversity-Sensitive Conditional GAN, section 3.1) leave the space of the comparison open. Each feature has its own
    target, so that a feature above its target does not compensate for others.

    Args:
        seen: features (N, F) for each of D discriminators; clips 0 and 1 share a condition, as do clips 2 and 3, ….
        targets: mean absolute differences (F,) for each discriminator at which a feature's term is clamped, usually
            `mean_differences` of real clips; features with target 0 are ignored.
        everywhere: averages a mean over the pairs of this process across all processes; the result is compared with
            the targets.

    Returns:
        The mean fraction of the target that features reach, summed over discriminators: a float32 scalar in [0, D].
    """
    total = targets[0].new_zeros(())
    for one, target in zip(seen, targets, strict=True):
        even = len(one) // 2 * 2
        apart = (one[:even:2] - one[1:even:2]).abs().sum(0) / max(even // 2, 1)
        share = apart / target.clamp_min(torch.finfo(torch.float32).tiny)
        share = torch.where(everywhere(apart.detach()) < target, share, 1.0)
        total = total + torch.where(target > 0, share, 0.0).mean()
    return total.float()


def mean_differences(seen: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of each feature over all pairs of clips that share a condition.

    Args:
        seen: features (N, F).
        alike: bool (N, N), symmetric; whether two clips share a condition.

    Returns:
        (F,) with the dtype of `seen`; zeros if no two clips share a condition.
    """
    pairs = alike.triu(1).to(seen.dtype)
    apart = (seen[:, None] - seen).abs()  # (N, N, F)
    return torch.einsum("ij,ijf->f", pairs, apart) / pairs.sum().clamp_min(1)


def gradient_penalty(logits: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Return E[‖∇logit‖²] / 2 over real clips, a float32 scalar: R1 of Mescheder et al. 2018, equation 9.

    Args:
        logits: (N,), computed from `clips`; a logit should depend on other clips by batch statistics at most.
        clips: (N, C, T, H, W), which require gradients.
    """
    (gradient,) = torch.autograd.grad(logits.float().sum(), clips, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


def discriminator_loss(
    objective: Objective, real: torch.Tensor, fake: torch.Tensor, wrong: torch.Tensor | None = None
) -> torch.Tensor:
    """Return D's loss, a scalar, from logits (N, ...) on real, generated, and wrongly conditioned real clips.

    With `wrong` this is the matching-aware loss of Reed et al. 2016 (GAN-CLS), where the two kinds of clips to reject
    have weight 1/2 each.
    """
    return loss_on_real(objective, real, wrong) + loss_on_fake(objective, fake, wrong is not None)


def loss_on_real(objective: Objective, real: torch.Tensor, wrong: torch.Tensor | None = None) -> torch.Tensor:
    """Return the terms of `discriminator_loss` for real clips, a scalar, from logits (N, ...)."""
    return objective.real(real) if wrong is None else objective.real(real) + objective.fake(wrong) / 2


def loss_on_fake(objective: Objective, fake: torch.Tensor, matching_aware: bool = False) -> torch.Tensor:
    """Return the term of `discriminator_loss` for generated clips, a scalar, from logits (N, ...)."""
    return objective.fake(fake) / 2 if matching_aware else objective.fake(fake)
