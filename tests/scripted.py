"""Tiny networks in TorchScript files: detectors as users provide them, and files that are none."""

import warnings

import torch
from torch import nn


def save_scripted(module, path):
    """Save a module with torch.jit.script; return the path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(path)
    return path


class I3DLike(nn.Module):
    """The signature of the community's I3D file: only called in the published way it returns its 6 features."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.linear = nn.Linear(12, 6)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            self.linear.weight.copy_(torch.randn(6, 12, generator=generator))
            self.linear.bias.zero_()

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False):
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = torch.nn.functional.interpolate(x, [x.shape[2], 4, 4])
        pooled = torch.nn.functional.adaptive_avg_pool3d(x, [1, 2, 2]).flatten(1)
        features = self.linear(pooled)
        if return_features:
            return features
        return features.softmax(1)


class Means(nn.Module):
    """A generic detector: each colour's mean over a clip, and its mean square."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean(dim=(2, 3, 4)), x.square().mean(dim=(2, 3, 4))], 1)


class Flat(nn.Module):
    """A detector whose features are its inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


class Squeezed(nn.Module):
    """Returns no dimension of the batch for a single clip, as many networks do by mistake."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(3, 4)).flatten(1).squeeze()


class Unpooled(nn.Module):
    """Returns a map instead of features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=2)


class Pair(nn.Module):
    """Returns a tuple."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.flatten(1), x.flatten(1)


class Infinite(nn.Module):
    """Returns infinite features for all clips but black ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        brightest = x.amax(dim=(1, 2, 3, 4))
        return (1 / (brightest <= -1).float())[:, None].repeat(1, 2)


class FixedSize(nn.Module):
    """Takes frames of 8x8 only."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean(dim=(1, 2)).flatten(1))


class NeedsMore(nn.Module):
    """Needs a second argument."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * mask


class Counts(nn.Module):
    """Takes a list of numbers, not clips."""

    def forward(self, x: list[int]) -> int:
        return len(x)


class Whole(nn.Module):
    """Returns whole numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).long()


class Probabilities(nn.Module):
    """A classifier that returns probabilities."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3, 4)).softmax(1)
