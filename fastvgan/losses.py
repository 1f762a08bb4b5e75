"""The objectives of training and the penalties on D's gradients, as functions of logits.

Logits are those of one discriminator: (N,), or (N, P) for P frames per clip, or (N, P, K) under K conditions per clip.
Losses are means over all of them, scalars in float32.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from fastvgan_kernels import diversity as kernel
from fastvgan_kernels.logistic import logistic


class Objective(NamedTuple):
    """A game whose losses are means over clips: D's on real clips and on clips to reject, G's on generated ones."""

    real: Callable[[torch.Tensor], torch.Tensor]
    fake: Callable[[torch.Tensor], torch.Tensor]
    generator: Callable[[torch.Tensor], torch.Tensor]


class PairedObjective(NamedTuple):
    """A game whose losses compare clip i of the real ones with clip i of the clips to reject.

    Both networks' losses need the logits of both kinds of clips, so D's update has one graph for both, and G's update
    computes logits of real clips, too.

    Attributes:
        discriminator: D's loss from logits of real clips and of clips to reject.
        generator: G's loss from logits of generated clips and of real ones.
    """

    discriminator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    generator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy_real(logits: torch.Tensor) -> torch.Tensor:
    """Return −E[log σ(logits)], the binary cross entropy with target 1, for logits of any shape."""
    return logistic(logits, True)[0]


def cross_entropy_fake(logits: torch.Tensor) -> torch.Tensor:
    """Return −E[log(1 − σ(logits))], the binary cross entropy with target 0, for logits of any shape."""
    return logistic(logits, False)[0]


def minimax_generator(logits: torch.Tensor) -> torch.Tensor:
    """Return E[log(1 − σ(logits))], G's loss in the game of Goodfellow et al. 2014, equation 1; logits of any shape."""
    return -logistic(logits, False)[0]


def hinge_real(logits: torch.Tensor) -> torch.Tensor:
    """Return E[max(0, 1 − logits)], for logits of any shape.

    D's loss on real clips in Lim and Ye 2017 (Geometric GAN) and Miyato et al. 2018 (Spectral Normalization for
    GANs, equation 16).
    """
    return F.relu(1 - _precise(logits)).mean().float()


def hinge_fake(logits: torch.Tensor) -> torch.Tensor:
    """Return E[max(0, 1 + logits)], D's loss on clips to reject beside `hinge_real`; logits of any shape."""
    return F.relu(1 + _precise(logits)).mean().float()


def critic_real(logits: torch.Tensor) -> torch.Tensor:
    """Return −E[logits], for logits of any shape.

    The critic's loss on real clips in Arjovsky et al. 2017 (Wasserstein GAN) and Gulrajani et al. 2017 (Improved
    Training of Wasserstein GANs, equation 3); also G's loss on generated clips there and in the hinge game.
    """
    return -_precise(logits).mean().float()


def critic_fake(logits: torch.Tensor) -> torch.Tensor:
    """Return E[logits], the critic's loss on clips to reject beside `critic_real`; logits of any shape."""
    return _precise(logits).mean().float()


def relativistic(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Return E[softplus(−(above − below))], the cross entropy of ranking the first clip of each pair above the second.

    D's loss with real clips above generated ones, and G's with generated clips above real ones, in Huang et al. 2024
    (The GAN is dead; long live the GAN! A Modern Baseline GAN, section 2), after Jolicoeur-Martineau 2018 (The
    relativistic discriminator).

    Args:
        above: logits of any shape, or of that shape and K.
        below: logits of that shape, or of that shape and K; each of the K values makes a pair with the other's one.
    """
    return logistic(differences(above, below), True)[0]


def differences(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Return above − below in float32 or better; one of them may have a last dimension of K that the other lacks.

    Args:
        above: logits of any shape, or of that shape and K.
        below: logits of that shape, or of that shape and K.
    """
    above = above[..., None] if above.dim() < below.dim() else above
    below = below[..., None] if below.dim() < above.dim() else below
    return _precise(above) - _precise(below)


def frame_error(frames: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error between frames (N, C, H, W) and given ones, a scalar in float32."""
    return F.mse_loss(_precise(frames), _precise(given)).float()


def _precise(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


OBJECTIVES: dict[str, Objective | PairedObjective] = {
    "nonsaturating": Objective(cross_entropy_real, cross_entropy_fake, cross_entropy_real),
    "minimax": Objective(cross_entropy_real, cross_entropy_fake, minimax_generator),
    "hinge": Objective(hinge_real, hinge_fake, critic_real),
    "wgan-gp": Objective(critic_real, critic_fake, critic_real),
    "relativistic": PairedObjective(relativistic, relativistic),
}


def contrast(right: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """Return −E[log softmax(right, wrong)₀], the cross entropy of selecting a clip's own condition among wrong ones.

    This is the contrastive loss of a clip and its sentence in XMC-GAN (Zhang et al. 2021, equation 5; after InfoNCE,
    van den Oord et al. 2018), but against conditions that are wrong in one part, drawn for each clip, instead of those
    of the other clips in the batch. The part of a logit that does not depend on the condition cancels out, so the loss
    does not depend on whether the clip looks real.

    Args:
        right: logits under the clips' own conditions, of any shape.
        wrong: logits under K wrong conditions per clip, of that shape and K, or under one, of that shape.
    """
    wrong = wrong if wrong.dim() > right.dim() else wrong[..., None]
    return -_precise(torch.cat([right[..., None], wrong], -1)).log_softmax(-1)[..., 0].mean().float()


def diversity(clips: torch.Tensor, noise: torch.Tensor, target: float) -> torch.Tensor:
    """Return the difference of clips relative to that of their noise, up to `target`, for G to maximise.

    This is the term of Yang et al. 2019 (Diversity-Sensitive Conditional GAN, equation 3), in mean absolute
    differences. Without it, a generator with a detailed condition can learn to ignore its noise.

    Args:
        clips: (N, ...) with pixels from -1 to 1. Clips 0 and 1 have one condition, clips 2 and 3 another, and so on.
        noise: of the clips, (N, ...).
        target: the ratio above which more difference has no value.

    Returns:
        The mean over the pairs, or 0 without a pair, a scalar in float32.
    """
    return kernel.diversity(clips, noise, target)


def feature_diversity(
    seen: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    everywhere: Callable[[torch.Tensor], torch.Tensor] = lambda mean: mean,
) -> torch.Tensor:
    """Return the differences of clips in the discriminators' features, up to `targets`, for G to maximise.

    Pixels already differ if a digit is at another place; this term is for features that do not depend on positions.
    Yang et al. 2019 (Diversity-Sensitive Conditional GAN, section 3.1) leave open in which space clips are compared.
    Each feature has its own target, so that a large difference in one cannot compensate for the others.

    Args:
        seen: per discriminator (N, F). Clips 0 and 1 have one condition, clips 2 and 3 another, and so on.
        targets: per discriminator (F,), the mean absolute difference above which more has no value, from
            `mean_differences` of real clips. A feature with target 0 (unknown) adds 0.
        everywhere: averages a mean over these pairs over all processes, to decide whether a target is reached.

    Returns:
        The share of the target that is reached, averaged over features and summed over D discriminators: from 0, for
        instance for a single clip, to D; a scalar in float32.
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
    """Return the mean absolute difference of each feature over all pairs of clips of one condition.

    Args:
        seen: (N, F).
        alike: which clips have the same condition, bool (N, N), symmetric.

    Returns:
        (F,) of seen's dtype; zeros if no two clips have the same condition.
    """
    pairs = alike.triu(1).to(seen.dtype)
    apart = (seen[:, None] - seen).abs()  # (N, N, F)
    return torch.einsum("ij,ijf->f", pairs, apart) / pairs.sum().clamp_min(1)


def mean_over_pairs(means: Sequence[torch.Tensor], alike: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of `mean_differences` of the parts of a batch, weighted by their numbers of pairs.

    Args:
        means: per part (F,).
        alike: per part, as `mean_differences` takes it.

    Returns:
        (F,); zeros if no part has a pair.
    """
    if len(means) == 1:
        return means[0]
    pairs = torch.stack([part.triu(1).sum() for part in alike])
    return (torch.stack([*means]) * pairs[:, None]).sum(0) / pairs.sum().clamp_min(1)


def gradient_penalty(logits: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Return E[‖∇logit‖²] / 2, a scalar in float32: R1 and R2 of Mescheder et al. 2018, equations 9 and 10.

    Args:
        logits: of the clips, (N,). A clip's logit may depend on the other clips through batch statistics alone.
        clips: real clips for R1, generated ones for R2, (N, C, T, H, W), which require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.float().sum(), clips, create_graph=True)
    return _precise(gradient).square().flatten(1).sum(1).mean().float() / 2


def finite_difference_penalty(logits: torch.Tensor, moved: torch.Tensor, scale: float) -> torch.Tensor:
    """Return E[((moved − logits) / scale)²] / 2, an estimate of `gradient_penalty` that needs no second derivative.

    For standard normal noise e, E[(e·∇logit)²] = ‖∇logit‖², so the estimate has no bias as `scale` tends to 0. This is
    the approximated R1 of Lin et al. 2025 (Diffusion Adversarial Post-Training for One-Step Video Generation, section
    3.4), divided by 2·scale² so that a weight means the same for both penalties. If D normalises over the batch, every
    logit depends on all clips: the estimate then adds the squares of all these derivatives, whereas `gradient_penalty`
    adds the logits before it squares.

    Args:
        logits: of clips x, (N,).
        moved: logits of clips x + scale·e, (N,), computed in a pass with separate batch statistics.
        scale: standard deviation of the movement.

    Returns:
        The mean over clips, a scalar in float32.
    """
    return ((moved - logits) / scale).square().mean().float() / 2


def unit_gradient_penalty(logits: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Return E[(‖∇logit‖ − 1)²], a scalar in float32: Gulrajani et al. 2017 (Improved Training of WGANs), equation 3.

    Args:
        logits: of the clips, (N,).
        clips: points on the lines between real and generated clips, (N, C, T, H, W), which require a gradient.
    """
    (gradient,) = torch.autograd.grad(logits.float().sum(), clips, create_graph=True)
    return (torch.linalg.vector_norm(_precise(gradient).flatten(1), dim=1) - 1).square().mean().float()


def discriminator_loss(
    objective: Objective | PairedObjective, real: torch.Tensor, fake: torch.Tensor, wrong: torch.Tensor | None = None
) -> torch.Tensor:
    """Return D's loss from logits, (N,) or as in this module, on real clips, generated clips, and wrong conditions.

    With `wrong`, logits on real clips under a wrong condition, it is the matching-aware loss of Reed et al. 2016
    (GAN-CLS): both kinds of clips to reject have weight 1/2. A paired objective compares a clip's logit under its own
    condition with that of a generated clip, and with those of the same clip under wrong conditions, each with weight
    1/2.
    """
    if isinstance(objective, PairedObjective):
        on_fake = objective.discriminator(real, fake)
        return on_fake if wrong is None else (on_fake + objective.discriminator(real, wrong)) / 2
    return loss_on_real(objective, real, wrong) + loss_on_fake(objective, fake, wrong is not None)


def loss_on_real(objective: Objective, real: torch.Tensor, wrong: torch.Tensor | None = None) -> torch.Tensor:
    """Return the part of discriminator_loss for real clips, from logits (N,) under their own and wrong conditions."""
    return objective.real(real) if wrong is None else objective.real(real) + objective.fake(wrong) / 2


def loss_on_fake(objective: Objective, fake: torch.Tensor, matching_aware: bool = False) -> torch.Tensor:
    """Return the part of discriminator_loss for generated clips, from logits (N,)."""
    return objective.fake(fake) / 2 if matching_aware else objective.fake(fake)
