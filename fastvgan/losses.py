"""The objectives, as plain functions of logits.

Each gives the discriminator's loss from logits on real and generated clips, and the generator's from logits on
generated ones. Logits are those of one discriminator, (N,), or (N, P) for P frames of each clip, or (N, P, K) under K
conditions per clip; means are over all of them. All results are scalars in float32.
"""

from collections.abc import Callable, Sequence
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
        The mean over the pairs, 0 without any, a scalar in float32.
    """
    even = len(clips) // 2 * 2

    def apart(x):  # a sum in one pass, where abs, float, flatten and mean are four
        difference = x[:even:2] - x[1:even:2]
        precise = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(difference, 1, list(range(1, x.dim())), dtype=precise)

    values = clips[:1].numel() / max(noise[:1].numel(), 1)  # of a clip, for one of its noise
    ratios = (apart(clips) / apart(noise)).clamp(max=target * values)
    return ratios.sum().float() / (values * max(len(ratios), 1))


def feature_diversity(
    seen: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    everywhere: Callable[[torch.Tensor], torch.Tensor] = lambda mean: mean,
) -> torch.Tensor:
    """How much clips of one condition differ in each feature of discriminators, up to `targets`; for G to maximise.

    Pixels differ where a digit lies elsewhere; this is for features that do not tell where something is. Yang et al.
    2019 (Diversity-Sensitive Conditional GAN, section 3.1) leave open in which space clips are compared. Each feature
    has a target of its own, so that one in which clips differ too much makes up for none.

    Args:
        seen: (N, F) of each of D discriminators, clips 0 and 1 being of one condition, clips 2 and 3 of one, and so on.
        targets: (F,) for each of them, the mean absolute difference beyond which more is worth nothing, as
            `mean_differences` of real clips; where it is 0 nothing is known, and that feature counts for nothing.
        everywhere: makes of the mean over these pairs that over those of all processes, which says whether a target is
            reached.

    Returns:
        Of each discriminator the mean share of the target that its features reach, added up: from 0, as of a single
        clip, to D; a scalar in float32.
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
    """The mean absolute difference of each feature over all pairs of clips that are of one condition.

    Args:
        seen: (N, F). alike: bool (N, N), symmetric, which clips are of one condition.

    Returns:
        (F,) of seen's dtype; zeros where no two clips are of one condition.
    """
    pairs = alike.triu(1).to(seen.dtype)
    apart = (seen[:, None] - seen).abs()  # (N, N, F)
    return torch.einsum("ij,ijf->f", pairs, apart) / pairs.sum().clamp_min(1)


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
