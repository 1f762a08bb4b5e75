"""From the discriminator's last features to a logit."""

import torch
from torch import nn

from fastvgan.layers import Conv3d
from fastvgan.models.conditions import Condition, ConditionEncoder


class ScoreHead(nn.Module):
    """One convolution over all that is left, and where there is a condition the projection term beside it.

    The projection discriminator is that of Miyato and Koyama 2018: score = f(h) + <e(c), g(h)>. Here g keeps its own
    weights for each place in the feature map, since a motion shows only in where things are.

    Args:
        features: channels of h. size: (T, H, W) of h.
    """

    def __init__(self, config, features: int, size: tuple[int, int, int]):
        super().__init__()
        self.real = Conv3d(features, 1, size, bias=False)
        self.condition = ConditionEncoder(config) if config.condition else None
        if self.condition is not None:
            self.fit = Conv3d(features, self.condition.out_dim, size, bias=False)

    def forward(self, h: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        score = self.real(h).flatten()  # (N,)
        if self.condition is not None:
            fit = self.fit(h).flatten(1)  # (N, E)
            score = score + (fit.float() * self.condition(c).float()).sum(1) / fit.shape[1] ** 0.5
        return score
