"""The guards in plain PyTorch: the definition of right, on every device and dtype."""

import torch


def check_norms(norms, loss, found, in_a_row):
    """The norm (); `found` becomes 1 where it or the loss is not finite."""
    norm = torch.linalg.vector_norm(norms)
    # Infinity * 0 and NaN * 0 are NaN: two operations instead of the four of isfinite.
    torch.ne((norm + loss) * 0, 0, out=found)
    if in_a_row is not None:
        in_a_row.add_(1).mul_(found > 0)
    return norm


def add_finite(values, totals):
    """Add the finite values to totals[0], and their number to totals[1]."""
    sums, counts = totals.unbind()
    sums.add_(values.nan_to_num(0.0, 0.0, 0.0))
    counts.add_(values * 0 == 0)
