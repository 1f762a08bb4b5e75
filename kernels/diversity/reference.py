"""The diversity of clips in plain PyTorch: the definition of correct results, differentiable, on every device."""

import torch
from torch import Tensor


def diversity(clips: Tensor, noise: Tensor, target: float) -> Tensor:
    """Return the mean difference of pairs of clips (N, ...) per difference of noise (N, ...), () float32."""
    even = len(clips) // 2 * 2

    def sum_differences(x: Tensor) -> Tensor:  # one pass, whereas abs, float, flatten and mean are four
        difference = x[:even:2] - x[1:even:2]
        precise = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(difference, 1, list(range(1, x.dim())), dtype=precise)

    values = clips[:1].numel() / max(noise[:1].numel(), 1)  # pixels per noise value
    ratios = (sum_differences(clips) / sum_differences(noise)).clamp(max=target * values)
    return ratios.sum().float() / (values * max(len(ratios), 1))
