"""Checks of arguments that several operations share."""

from collections.abc import Sequence

import torch


class MisfitError(ValueError, RuntimeError):
    """Shapes or devices that do not fit; also of the class of torch's own error."""


class DtypeError(TypeError, NotImplementedError):
    """A dtype that an operation does not support; also of the class of torch's own error, a RuntimeError."""


def integers(name: str, value: int | Sequence[int], count: int, least: int) -> list[int]:
    """Return one integer per spatial dimension, from one for all dimensions, alone or in a sequence, or from all.

    Raises:
        ValueError: another number of integers than 1 or `count`, or one below `least`.
    """
    values = per_dimension(value, count)
    if len(values) != count or any(v < least for v in values):
        raise ValueError(f"{name} must be an integer or {count} integers of at least {least}, not {value!r}")
    return values


def per_dimension(value: int | Sequence[int], count: int) -> list[int]:
    """Return one integer per spatial dimension as torch does: one integer, alone or in a sequence, stands for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def check_same_kind(first_name: str, first: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise unless the tensors, of any shapes, are floating-point, on one device and, outside autocast, of one dtype.

    Raises:
        TypeError: `first` is no tensor.
        DtypeError: dtypes are not floating-point or differ.
        MisfitError: devices differ.
    """
    if not isinstance(first, torch.Tensor):
        raise TypeError(f"{first_name} must be a Tensor, not {type(first).__name__}")
    if not first.is_floating_point():
        raise DtypeError(f"{first_name} must be of a floating-point dtype, not {first.dtype}")
    for name, other in others.items():
        if other is None:
            continue
        if other.device != first.device:
            raise MisfitError(f"{name} is on {other.device} but {first_name} on {first.device}")
        if other.dtype != first.dtype and not _is_autocast_on(first.device.type):
            raise DtypeError(f"{name} is {other.dtype} but {first_name} {first.dtype}")


def _is_autocast_on(device: str) -> bool:
    # torch raises for a device without autocast, such as meta.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
