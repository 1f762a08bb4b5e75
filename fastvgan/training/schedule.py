"""Schedules of the learning rates and of weights that rise."""


def rate_share(done: int, steps: int, decay: float) -> float:
    """Return the share of the full learning rate in the step after `done`: it falls in the last `decay` of `steps`."""
    falling = decay * steps
    return min(1.0, (steps - done) / falling) if falling else 1.0


def rising_share(done: int, steps: int, rise: float) -> float:
    """Return the share of a weight's full value in the step after `done`: it rises in the first `rise` of `steps`."""
    rising = rise * steps
    return min(1.0, done / rising) if rising else 1.0
