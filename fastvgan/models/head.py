"""The head of a discriminator: from its last features to a logit."""

from typing import NamedTuple

import torch
from torch import nn

from fastvgan.layers import Conv3d
from fastvgan.models.conditions import Condition, ConditionEncoder
from fastvgan.models.config import ModelConfig


class Projection(NamedTuple):
    """A head's projections of a clip, from which it computes logits under any number of conditions.

    real: (N, P), how real the clip is at each of P positions in time.
    fit: (N, P, E), whose product with an encoded condition is its score; None in a model without a condition.
    features: (N, F, T, H, W), from which both are computed.
    """

    real: torch.Tensor
    fit: torch.Tensor | None
    features: torch.Tensor

    def pool(self) -> torch.Tensor:
        """Pool the features: their maximum over the frame, averaged over time. Returns (N, F) in float32 or better."""
        precise = torch.promote_types(self.features.dtype, torch.float32)
        return self.features.amax((3, 4)).to(precise).mean(2)


class ScoreHead(nn.Module):
    """One convolution over the whole feature map h, plus a projection term if the model has a condition c.

    The projection discriminator of Miyato and Koyama 2018: score = f(h) + <e(c), g(h)>. By default g has separate
    weights for each position in the feature map, since only positions show a motion. With `anywhere`, g sees the
    maximum of each feature over the frame, and so recognises a shape at any position. If the feature map has more
    frames than the head covers, the head scores each position in time.

    Args:
        config: its `condition` names the parts of c.
        features: channels of h.
        size: (t, H, W) of the convolution; H and W are those of h.
        anywhere: whether the projection term ignores positions; it then sees one frame at a time.
    """

    def __init__(self, config: ModelConfig, features: int, size: tuple[int, int, int], anywhere: bool = False):
        super().__init__()
        self.anywhere = anywhere
        self.real = Conv3d(features, 1, size, bias=False)
        self.condition = ConditionEncoder(config) if config.condition else None
        if self.condition is not None:
            self.fit = Conv3d(features, self.condition.out_dim, 1 if anywhere else size, bias=False)

    def forward(self, h: torch.Tensor) -> Projection:
        """Project h (N, F, T, H, W) for `score`, at P = T - t + 1 positions in time."""
        real = self.real(h).flatten(1)  # (N, P)
        if self.condition is None:
            return Projection(real, None, h)
        seen = h.amax((3, 4), keepdim=True) if self.anywhere else h
        return Projection(real, self.fit(seen).flatten(2).transpose(1, 2), h)  # (N, P), (N, P, E), (N, F, T, H, W)

    def score(self, projection: Projection, c: Condition | None = None) -> torch.Tensor:
        """Compute logits.

        Args:
            projection: the result of `forward`.
            c: the condition of each clip, or K of them; None for a model without one.

        Returns:
            (N, P), or (N, P, K) for K conditions per clip; float32 or better, but in a model without a condition the
            dtype of `projection.real`.
        """
        real, fit = projection[:2]
        if fit is None or self.condition is None:
            return real
        # Under autocast the product would have two or three digits, too few to tell the logits of K conditions apart.
        precise = torch.promote_types(real.dtype, torch.float32)
        real = real.to(precise)
        with torch.autocast(fit.device.type, enabled=False):
            encoded = self.condition(c)  # (N, E) or (N, K, E)
            each = encoded if encoded.dim() == 3 else encoded[:, None]
            fits = fit.to(precise) @ each.transpose(1, 2) / fit.shape[-1] ** 0.5  # (N, P, K)
        score = real[..., None] + fits
        return score if encoded.dim() == 3 else score[..., 0]
