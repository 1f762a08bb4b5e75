"""Forward passes of the two networks in a step, and means and sums of their logits."""

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import nn

from fastvgan.losses import mean_over_pairs
from fastvgan.models import Condition
from fastvgan.models.discriminators import Discriminators
from fastvgan.models.warp import GeneratorOutput
from fastvgan.training.batches import Inputs
from fastvgan_kernels._torch import BatchNorm

if TYPE_CHECKING:
    from fastvgan.models import conv3d, recurrent
    from fastvgan.models.head import Projection

    Generator: TypeAlias = conv3d.Generator | recurrent.Generator
    """A generator of any family."""


class RealScores(NamedTuple):
    """What the discriminators make of real clips.

    Attributes:
        right: logits under the clips' own conditions, one tensor (N, P) per discriminator, for P frames.
        wrong: a tuple with the logits under wrong conditions, (N, P, K); empty without such conditions.
        features: the features that `right` was computed from, one per discriminator.
    """

    right: list[torch.Tensor]
    wrong: tuple[list[torch.Tensor], ...]
    features: "list[Projection]"


def draw(generator: "Generator", z: torch.Tensor, c: Condition | None) -> GeneratorOutput:
    """Generate clips from noise z of shape (N, ...)."""
    return generator.draw(z, c)


def score(discriminator: Discriminators, x: torch.Tensor, c: Condition | None) -> list[torch.Tensor]:
    """Compute each discriminator's logits of clips x of shape (N, C, T, H, W)."""
    return discriminator.score(discriminator.features(x, c), c)


def score_real(discriminator: Discriminators, inputs: Inputs) -> RealScores:
    """Compute each discriminator's logits of real clips under right and wrong conditions."""
    features = discriminator.features(inputs.real, inputs.c)
    right = discriminator.score(features, inputs.c)
    if inputs.wrong is None:
        return RealScores(right, (), features)
    # Only first frames enter before the features; other wrong conditions share those of the right ones.
    wrong_features = discriminator.features(inputs.real, inputs.wrong) if inputs.is_image_wrong else features
    return RealScores(right, (discriminator.score(wrong_features, inputs.wrong),), features)


def sum_losses(loss: Callable[..., torch.Tensor], *logits: list[torch.Tensor]) -> torch.Tensor:
    """Sum a loss of each discriminator's logits.

    Args:
        loss: function of one discriminator's logits that returns a scalar ().
        logits: lists with one tensor of any shape per discriminator, one list per argument of `loss`.

    Returns:
        The sum, a scalar ().
    """
    losses = [loss(*each) for each in zip(*logits, strict=True)]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def score_constant(discriminator: Discriminators, x: torch.Tensor, c: Condition | None) -> list[torch.Tensor]:
    """Compute each discriminator's logits of clips x (N, C, T, H, W), without gradients."""
    with torch.no_grad():
        return score(discriminator, x, c)


def add(terms: Iterable[torch.Tensor | None]) -> torch.Tensor:
    """Add the scalars () that are not None; at least one must not be."""
    return functools.reduce(operator.add, (term for term in terms if term is not None))


def mean_over_parts(parts: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Return the mean of each scalar () over the parts of a batch."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack([torch.stack(scalars) for scalars in parts]).mean(0).unbind()


def update_targets(
    targets: Sequence[torch.Tensor], parts: Sequence[tuple[Sequence[torch.Tensor], torch.Tensor]]
) -> None:
    """Set how much real clips of one condition differ in the features of each discriminator.

    Args:
        targets: per discriminator (F,); they do not change if there are no parts.
        parts: of a batch; for each, `mean_differences` per discriminator (F,), and which clips are alike (N, N).
    """
    for number, target in enumerate(targets if parts else ()):
        target.copy_(mean_over_pairs([means[number] for means, _ in parts], [alike for _, alike in parts]))


def pair_conditions(c: Condition) -> Condition:
    """Repeat every other condition of a batch, so that two neighbouring generated clips share each."""
    return Condition(*(None if x is None else torch.stack([x[::2]] * 2, 1).flatten(0, 1)[: len(x)] for x in c))


def select_rows(inputs: Inputs, rows: slice) -> Inputs:
    """Select clips of a batch with their noise and conditions."""
    c, wrong = inputs.c and inputs.c.rows(rows), inputs.wrong and inputs.wrong.rows(rows)
    samples = None if inputs.samples is None else inputs.samples[rows]
    return Inputs(inputs.real[rows], inputs.z[rows], c, wrong, inputs.is_image_wrong, samples)


@contextlib.contextmanager
def freeze(network: nn.Module) -> Iterator[None]:
    """Compute no gradients of a network's parameters within this context."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Iterable[tuple[torch.Tensor, Condition | None]]) -> None:
    """Set a generator's batch norm statistics to the mean over batches.

    Averaged weights need their own statistics: neither the trained generator's nor an average of those are close.
    These are the standing statistics of Brock et al. 2018 (BigGAN).

    Args:
        network: the averaged generator, in evaluation mode before and after.
        batches: noise (N, ...) and conditions of each batch. After an error in one the statistics are as before.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's setting for the plain mean over all batches
        network.train()
        for z, c in batches:
            network(z, c)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        raise
    finally:
        network.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
