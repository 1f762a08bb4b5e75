"""What a step begins with and returns."""

from typing import NamedTuple

import torch

from fastvgan.models.warp import GeneratorOutput


class StepResult(NamedTuple):
    """Scalars of one step, float32 tensors () on the device.

    Attributes:
        d_loss, g_loss: losses of both networks.
        d_real, d_fake: mean probability of being real and matching that D gives real and generated clips; with a paired
            objective, of being the real one of a pair.
        diversity: how much generated clips differ (see `fastvgan.losses.diversity`); clips of one condition only if
            that term has a weight.
        r1, r2, gp: gradient penalties on real clips, on generated clips, and between them; NaN in steps without them.
        d_contrast, g_contrast: cross entropies of a clip's own condition among wrong ones, of real and of generated
            clips; NaN without that term.
        d_grad_norm, g_grad_norm: norms of the gradients.
        skipped: 1 if a gradient or a loss was not finite, so that an update was skipped; else 0.
        d_sign, augment: mean sign of D's logits on real clips, and the probability of augmentations that follows it;
            NaN with a fixed probability.
    """

    d_loss: torch.Tensor
    g_loss: torch.Tensor
    d_real: torch.Tensor
    d_fake: torch.Tensor
    diversity: torch.Tensor
    r1: torch.Tensor
    r2: torch.Tensor
    gp: torch.Tensor
    d_contrast: torch.Tensor
    g_contrast: torch.Tensor
    d_grad_norm: torch.Tensor
    g_grad_norm: torch.Tensor
    skipped: torch.Tensor
    d_sign: torch.Tensor
    augment: torch.Tensor


D_SCALARS = ("d_loss", "d_real", "d_fake", "r1", "r2", "gp", "d_contrast", "d_sign", "d_grad_norm")
G_SCALARS = ("g_loss", "diversity", "g_contrast", "g_grad_norm", "skipped", "augment")


class StepStart(NamedTuple):
    """What the two updates of a step share.

    Attributes:
        before: bytes of all buffers before the step, uint8 tensors.
        drawn: the generated clips with their autograd graph; None if a batch is processed in parts.
    """

    before: list[torch.Tensor]
    drawn: GeneratorOutput | None
