"""A number that the host sets and kernels read."""

import torch


class DeviceScalar:
    """A tensor () whose value the host knows, so that setting it copies only changed values and never waits.

    Args:
        value: the initial value.
        device: device of `tensor`.
        dtype: dtype of `tensor`.
    """

    def __init__(self, value: float, device: torch.device, dtype: torch.dtype = torch.float32):
        self.tensor = torch.full((), value, dtype=dtype, device=device)
        self._value = value

    def set(self, value: float) -> None:
        """Set the value."""
        if value != self._value:
            self.tensor.fill_(value)
            self._value = value
