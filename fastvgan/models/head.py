"""From a discriminator's last features to a logit."""

from typing import NamedTuple

import torch
from torch import nn

from fastvgan.layers import Conv3d
from fastvgan.models.conditions import Condition, ConditionEncoder


class Projected(NamedTuple):
    """What a head keeps of a clip, from which logits under any number of conditions follow.

    real: (N, P), how real the clip is at each of P places in time. fit: (N, P, E), or None where the model has no
    condition. features: (N, F, T, H, W), what both were made of.
    """

    real: torch.Tensor
    fit: torch.Tensor | None
    features: torch.Tensor

    def seen(self) -> torch.Tensor:
        """What the clip shows, wherever it shows it: each feature's largest value, the mean over time.

        (N, F), float32 or better.
        """
        precise = torch.promote_types(self.features.dtype, torch.float32)
        return self.features.amax((3, 4)).to(precise).mean(2)


class ScoreHead(nn.Module):
    """One convolution over all that is left, and where there is a condition the projection term beside it.

    The projection discriminator is that of Miyato and Koyama 2018: score = f(h) + <e(c), g(h)>. Here g keeps its own
    weights for each place in the feature map, since a motion shows only in where things are, unless it is to see the
    same shape wherever it is: then g sees the largest value of each feature. Where the feature map has more frames than
    the head sees at once, each of them has a score of its own.

    Args:
        features: channels of h. size: (t, H, W), the places that the head sees at once; H and W are those of h.
        anywhere: a condition is looked for wherever it shows, in one frame at a time.
    """

    def __init__(self, config, features: int, size: tuple[int, int, int], anywhere: bool = False):
        super().__init__()
        self.anywhere = anywhere
        self.real = Conv3d(features, 1, size, bias=False)
        self.condition = ConditionEncoder(config) if config.condition else None
        if self.condition is not None:
            self.fit = Conv3d(features, self.condition.out_dim, 1 if anywhere else size, bias=False)

    def forward(self, h: torch.Tensor) -> Projected:
        """h (N, F, T, H, W) to what `score` takes, of P = T - t + 1 places in time."""
        real = self.real(h).flatten(1)  # (N, P)
        if self.condition is None:
            return Projected(real, None, h)
        seen = h.amax((3, 4), keepdim=True) if self.anywhere else h
        return Projected(real, self.fit(seen).flatten(2).transpose(1, 2), h)  # (N, P), (N, P, E), (N, F, T, H, W)

    def score(self, projected: Projected, c: Condition | None = None) -> torch.Tensor:
        """Logits (N, P), or (N, P, K) for K conditions per clip: float32 or better, without conditions as computed."""
        real, fit = projected[:2]
        if fit is None:
            return real
        # Under autocast a product of the two would have two or three digits, of which several logits differ in one.
        precise = torch.promote_types(real.dtype, torch.float32)
        real = real.to(precise)
        with torch.autocast(fit.device.type, enabled=False):
            encoded = self.condition(c)  # (N, E) or (N, K, E)
            each = encoded if encoded.dim() == 3 else encoded[:, None]
            fits = fit.to(precise) @ each.transpose(1, 2) / fit.shape[-1] ** 0.5  # (N, P, K)
        score = real[..., None] + fits
        return score if encoded.dim() == 3 else score[..., 0]
