"""A share of a training set, chosen by a seed, to train on few clips."""

import torch

from fastvgan.data.sampling import shuffle_epochs
from fastvgan.errors import UserError


def choose_share(size: int, share: float, seed: int, what: str = "clips") -> list[int]:
    """Choose a share of the clips of a set: the first ones of a fixed shuffle, so that a larger share contains them.

    Args:
        size: Number of clips, at least 1.
        share: In (0, 1]; 1 chooses all.
        seed: Chooses the shuffle.
        what: What the set consists of, for the message.

    Returns:
        Indices of the chosen clips, ascending.

    Raises:
        UserError: The share is less than half a clip.
    """
    if share == 1:
        return list(range(size))
    count = round(share * size)
    if not count:
        raise UserError(f"--share {share} of {size} {what} leaves none; use at least {1 / size:.3g}")
    order = shuffle_epochs(size, seed, torch.zeros(1, dtype=torch.int64, device="cpu"))[0]
    return sorted(order[:count].tolist())
