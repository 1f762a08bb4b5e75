"""Triton or stock PyTorch on a GPU: decided by the nearest problem that was measured, stock where none is near.

A problem that was measured takes what was faster. One that lies within the bounds below of a measured one takes Triton
if that was faster there by MARGIN, since a ratio moves with the sizes. Beyond them Triton is taken for an operation
that it was faster for by MARGIN in every problem (norms, the ConvLSTM), and for convolutions up to SMALL: a whole step
of the preset `digits`, all of whose convolutions are that small, took 5.15 ms by Triton and 5.68 with the same norms
and ConvLSTM but stock PyTorch's convolutions, which launch more kernels to pad and to convert
(bench/results/breakdown-h100.json). Anything else is left to stock PyTorch.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from . import h100

MARGIN = 0.05  # by how much Triton must have been faster on the nearest problem
CHANNELS_APART = 1.0  # octaves between channel counts, of a kernel's taps and of the product of the strides
POSITIONS_APART = 2.0  # octaves between batch times positions
TILES_APART = 1.0  # octaves between each size of two problems of which one lends the other its tiles
SMALL = 3e9  # multiplications and additions of a convolution

_CONVOLUTIONS = ("conv_up", "conv_down", "conv_weight_grad")
_MEASURED = (h100,)


class Problem(NamedTuple):
    """A convolution in channels_last_3d, as it was measured or is to be computed.

    operation: "conv_up", "conv_down" or "conv_weight_grad"; of "norm_act" and "conv_lstm", forward and backward
    together, the sizes mean what on_gpu.py says. dtype: "bfloat16" or "float16", which run at one rate.
    taps: of the kernel. stride: the product over the dimensions. inputs, outputs: channels read and written; of a
    weight gradient those of the large and of the small side. positions: batch times the small side's positions.
    """

    operation: str
    dtype: str
    taps: int
    stride: int
    inputs: int
    outputs: int
    positions: int


class Choice(NamedTuple):
    """The implementation's name, "triton" or "reference", and the reason as a sentence."""

    impl: str
    why: str


def has(operation: str) -> bool:
    """Whether anything was measured of the operation."""
    return any(device.PROBLEMS.get(operation) for device in _MEASURED)


def problems(capability: tuple[int, int]) -> list[tuple[Problem, Choice]]:
    """Every problem that was measured on the nearest GPU, and what is chosen for it."""
    device = _nearest_device(capability)
    dtype = device.ORIGIN["dtype"]
    found = [Problem(name, dtype, *sizes) for name, rows in device.PROBLEMS.items() for *sizes, _ in rows]
    return [(problem, choose(capability, problem)) for problem in found]


def origin(capability: tuple[int, int]) -> dict:
    """Where the rules for a GPU come from: device, capability, versions, commit, date, number of passes."""
    return dict(_nearest_device(capability).ORIGIN)


@lru_cache(maxsize=4096)
def choose(capability: tuple[int, int], problem: Problem) -> Choice:
    """The implementation for a problem on a GPU of this compute capability."""
    device = _nearest_device(capability)
    if problem.dtype not in ("bfloat16", "float16"):
        return Choice("reference", f"{problem.dtype} has not been measured on a GPU")
    name, found = device.ORIGIN["device"], _nearest_problem(device.PROBLEMS, problem)
    if found is None:
        return _beyond_measured(device, problem)
    apart, ratio, sizes = found
    where = f"{ratio:.2f}x {_other(problem)} on {name}"
    where += "" if apart == 0 else f" for {_in_words(sizes)}, the nearest"
    faster = ratio > 1 if apart == 0 else ratio >= 1 + MARGIN
    return Choice("triton" if faster else "reference", f"Triton ran at {where}")


def operations(taps: int, inputs: int, outputs: int, positions: int) -> int:
    """Multiplications and additions of a convolution; arguments as the fields of Problem."""
    return 2 * taps * inputs * outputs * positions


def _other(problem: Problem) -> str:
    """What auto takes in Triton's place: a convolution's reference is stock PyTorch's operation."""
    return "stock PyTorch" if problem.operation in _CONVOLUTIONS else "the reference"


def _beyond_measured(device, problem: Problem) -> Choice:
    name, ratios = device.ORIGIN["device"], [row[-1] for row in device.PROBLEMS.get(problem.operation, ())]
    if ratios and min(ratios) >= 1 + MARGIN:
        return Choice("triton", f"Triton ran at {min(ratios):.2f}x {_other(problem)} or more in all measured on {name}")
    work = operations(problem.taps, problem.inputs, problem.outputs, problem.positions)
    if problem.operation in _CONVOLUTIONS and work <= SMALL:
        return Choice("triton", f"whole steps of convolutions this small ran faster by Triton on {name}")
    return Choice("reference", f"nothing near this problem has been measured on {name}")


def is_measured(device_name: str, capability: tuple[int, int], problem: Problem) -> bool:
    """Whether this very problem was measured on this very kind of GPU, so that no trial can say more."""
    device = _nearest_device(capability)
    found = _nearest_problem(device.PROBLEMS, problem)
    return device.ORIGIN["device"] == device_name and found is not None and found[0] == 0


def has_tiles(kernel: str) -> bool:
    """Whether a Triton kernel was measured, and with that those of its problems that `choose` decides on."""
    return any(kernel == name for device in _MEASURED for name, _, _ in device.TILES)


def tile(capability: tuple[int, int], kernel: str, itemsize: int, sizes: tuple[int, ...], flags: str) -> list | None:
    """The measured configuration of a Triton kernel for a class of shape, or of the nearest class; None without one.

    Args:
        capability: of the GPU; only one of the same major version has the same tensor-core instructions.
        kernel, flags: as in tuning.Problem. itemsize: of the dtype, in bytes.
        sizes: rows, columns, depth and tiles, each rounded up to a power of two.

    Returns:
        The fields of tuning.Config in order.
    """
    device = _nearest_device(capability)
    if device.ORIGIN["capability"][0] != capability[0]:
        return None
    best = None
    for measured, config in device.TILES.get((kernel, itemsize, flags), ()):
        apart = [abs(math.log2(a / b)) for a, b in zip(measured, sizes, strict=True)]
        if max(apart) <= TILES_APART and (best is None or sum(apart) < best[0]):
            best = sum(apart), config
    return None if best is None else list(best[1])


def _nearest_device(capability: tuple[int, int]):
    """The measured GPU whose compute capability is nearest; older and newer ones take its rules too."""
    wanted = capability[0] * 10 + capability[1]
    return min(_MEASURED, key=lambda d: abs(d.ORIGIN["capability"][0] * 10 + d.ORIGIN["capability"][1] - wanted))


def _nearest_problem(problems: dict, wanted: Problem) -> tuple[float, float, tuple] | None:
    """(distance, ratio, sizes) of the nearest measured problem; of several as near, the one with the lowest ratio."""
    best = None
    for *sizes, ratio in problems.get(wanted.operation, ()):
        apart = _distance(wanted[2:], sizes)
        if apart is not None and (best is None or (apart, ratio) < best[:2]):
            best = apart, ratio, tuple(sizes)
    return best


def _distance(wanted: tuple[int, ...], measured: tuple[int, ...] | list[int]) -> float | None:
    """Octaves between two problems, a step in positions counting half; None where they are not near."""
    *shape, positions = (abs(math.log2(max(a, 1) / b)) for a, b in zip(wanted, measured, strict=True))
    if (wanted[1] > 1) != (measured[1] > 1):  # with and without a stride they are different kernels
        return None
    if max(shape) > CHANNELS_APART or positions > POSITIONS_APART:
        return None
    return math.hypot(*shape, positions / 2)


def _in_words(sizes: tuple[int, ...]) -> str:
    taps, stride, inputs, outputs, positions = sizes
    return f"{inputs}→{outputs} channels, {taps} taps, strides of {stride} in all and {positions} positions"
