"""A number that the host sets and kernels read, from step to step."""

import torch


class DeviceScalar:
    """A tensor () whose value the host knows, so that it is written only where it changes, without a wait.

    Args:
        value: the first one. dtype, device: of `tensor`.
    """

    def __init__(self, value: float, device: torch.device, dtype: torch.dtype = torch.float32):
        self.tensor = torch.full((), value, dtype=dtype, device=device)
        self._value = value

    def set(self, value: float) -> None:
        """Write another value."""
        if value != self._value:
            self.tensor.fill_(value)
            self._value = value
