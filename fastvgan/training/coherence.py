"""A term of G's loss for motion that is as strong as that of real clips."""

from collections.abc import Callable

import torch

_LEAST = 1e-4  # of the real clips' mean squared difference, which is 0 for still pictures; about 1.3 grey levels


def coherence(
    clips: torch.Tensor,
    real: torch.Tensor,
    everywhere: Callable[[torch.Tensor], torch.Tensor] = lambda mean: mean,
) -> torch.Tensor:
    """Return how far the change from frame to frame is from that of real clips, for G to minimise.

    The temporal coherence constraint of Pan et al. 2017 (To Create What You Tell: Generating Videos from Captions) is
    the squared difference of neighbouring frames, here of their pixels. Minimising it rewards clips that stand still,
    so G matches its mean over real clips instead, by the feature matching of Salimans et al. 2016 (Improved Techniques
    for Training GANs, section 3.1):

        d_t(x) = E[(x_{t+1} − x_t)²], mean over t of (d_t(clips) − d_t(real))² / (mean over t of d_t(real))²

    with the expectation over clips, channels and pixels. Every pair of frames has its own term, so that flicker in one
    place does not make up for frames that stand still in another.

    Args:
        clips: generated clips (N, C, T, H, W), T at least 2, with pixels from -1 to 1.
        real: real clips of the same size.
        everywhere: averages a mean over all processes, which makes the result that of the whole batch; the mean over
            processes of its gradients is right, too.

    Returns:
        A scalar in float32 or better: 0 if clips move as much as real ones, 1 if they stand still.
    """
    with torch.no_grad():
        wanted = everywhere(_differences(real))
    own = _differences(clips)
    found = own + (everywhere(own.detach()) - own.detach())
    return ((found - wanted) / wanted.mean().clamp_min(_LEAST)).square().mean()


def _differences(x: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of each two neighbouring frames over a batch, (T - 1,)."""
    x = x.permute(0, 2, 3, 4, 1)  # (N, T, H, W, C), as it lies in memory
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return (x[:, 1:] - x[:, :-1]).square().mean((0, 2, 3, 4))
