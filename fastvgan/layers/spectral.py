"""Spectral normalisation: each weight of a network is divided by its largest singular value.

Layers keep their class, their arguments and their kernels; they read the normalised weight. `iterate` takes one step of
the power iteration, so that the caller decides when, and a network may run several times between two steps.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastvgan.layers import deferred

_EPS = 1e-12  # torch.nn.utils.parametrizations.spectral_norm's
_FIRST_STEPS = 15  # the same


class SpectralNorm(nn.Module):
    """The weight divided by an estimate of its largest singular value, σ = uᵀWv, with the weight as a matrix W.

    W has one row per output channel. A weight that is zero at construction, such as the last one of a residual block,
    has no direction to normalise; it is divided by max(1, σ), so that it grows freely up to a singular value of 1. The
    gradient includes that of σ, of every order. Under autocast, σ and the quotient are in the weight's own dtype.

    Args:
        weight: the weight, floating-point (rows, ...) with at least two dimensions.

    Attributes:
        is_bound: whether the weight is divided by max(1, σ).

    The buffers `_u` (rows,) and `_v` (columns,) are those of torch.nn.utils.parametrizations.spectral_norm; `iterate`
    updates them in place.

    Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, equation 8 and
    Algorithm 1. Division by max(1, σ): Gouk et al., "Regularisation of neural networks by enforcing Lipschitz
    continuity", 2021, equation 15.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        # New weights are random, so a constant vector is as good a start as a random one.
        self.register_buffer("_u", weight.new_full((rows,), rows**-0.5).detach())
        self.register_buffer("_v", weight.new_full((columns,), columns**-0.5).detach())
        self.is_bound = not bool(weight.any())
        self.iterate(weight, _FIRST_STEPS)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalised weight, of the shape (rows, ...) and memory format of `weight`."""
        with torch.autocast(weight.device.type, enabled=False):
            sigma = self.sigma(weight)
            return weight / (sigma.clamp_min(1.0) if self.is_bound else sigma)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the weight to store when a user assigns one: the same, of any shape, as torch's spectral_norm does."""
        return weight

    def sigma(self, weight: Tensor) -> Tensor:
        """Return the estimate () of the largest singular value of a weight (rows, ...)."""
        return torch.dot(self._u, torch.mv(_matrix(weight), _order_as_matrix(self._v, weight)))

    @torch.no_grad()
    def iterate(self, weight: Tensor, steps: int = 1) -> None:
        """Take steps of the power iteration for a weight of any shape, in the order of torch's spectral_norm."""
        matrix = _matrix(weight)
        with torch.autocast(weight.device.type, enabled=False):
            for _ in range(steps):
                _point(self._u, torch.mv(matrix, _order_as_matrix(self._v, weight)))
                _point(self._v, _order_as_weight(torch.mv(matrix.mT, self._u), weight))


def _matrix(weight: Tensor) -> Tensor:
    """The weight as a matrix with input channels innermost, which is a view of a weight in channels-last memory."""
    return weight.movedim(1, -1).flatten(1)


def _order_as_matrix(v: Tensor, weight: Tensor) -> Tensor:
    return v.view(weight.shape[1:]).movedim(0, -1).flatten()


def _order_as_weight(v: Tensor, weight: Tensor) -> Tensor:
    return v.view(*weight.shape[2:], weight.shape[1]).movedim(-1, 0).flatten()


def _point(vector: Tensor, towards: Tensor) -> None:
    """Give a unit vector the direction of another vector; leave it if that one is zero or not finite."""
    norm = torch.linalg.vector_norm(towards)
    vector.copy_(torch.where((norm > 0) & norm.isfinite(), towards / norm.clamp_min(_EPS), vector))


def add_spectral_norm(network: nn.Module, *besides: type[nn.Module]) -> None:
    """Normalise every weight of a network that has two or more dimensions. Works in place.

    Args:
        network: a layer's parameter NAME becomes `parametrizations.NAME.original`, and its attribute NAME the
            normalised weight.
        besides: classes whose instances, with all that they contain, stay as they are.
    """
    if isinstance(network, besides):
        return
    for child in list(network.children()):
        add_spectral_norm(child, *besides)
    kind = type(network)
    for name, weight in list(network.named_parameters(recurse=False)):
        if weight.dim() >= 2:
            parametrize.register_parametrization(network, name, SpectralNorm(weight))
    deferred.register_parametrised(network, kind)


def iterate(network: nn.Module) -> None:
    """Take one step of the power iteration for each weight of a network that `add_spectral_norm` normalised."""
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for each in module:
                if isinstance(each, SpectralNorm):
                    each.iterate(cast(Tensor, module.original))


def is_original(name: str) -> bool:
    """Whether a parameter of this name (of `named_parameters`) is one that a layer reads only through its norm."""
    return "parametrizations" in name.split(".")
