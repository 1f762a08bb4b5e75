"""Interpolation of noise and of encoded conditions."""

import torch


def interpolate_noise(first: torch.Tensor, last: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Interpolate between the noise of two clips along a great circle.

    Normal noise of many values lies near a sphere, which a straight line would leave. The spherical interpolation is
    that of Shoemake 1985 (Animating rotation with quaternion curves), used for noise by White 2016 (Sampling generative
    networks).

    Args:
        first: float, any shape.
        last: the same shape.
        shares: the share of `last` in each result, (S,) in [0, 1].

    Returns:
        (S, *first.shape), in the dtype of `first`.
    """
    a, b = first.double(), last.double()
    shares = shares.double().view(-1, *[1] * a.dim())
    cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny)
    angle = cosine.clamp(-1, 1).acos()
    # Nearly parallel: the arc is a straight line. Opposite: no great circle is the shortest one.
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, shares).to(first.dtype)
    return ((((1 - shares) * angle).sin() * a + (shares * angle).sin() * b) / angle.sin()).to(first.dtype)


def interpolate_vectors(first: torch.Tensor, last: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between two encoded conditions, as Reed et al. 2016 (GAN-INT) do with those of sentences.

    Args:
        first: float (D,).
        last: float (D,).
        shares: the share of `last` in each result, (S,) in [0, 1].

    Returns:
        (S, D), in the dtype of `first`.
    """
    return torch.lerp(first[None], last[None], shares.to(first)[:, None])
