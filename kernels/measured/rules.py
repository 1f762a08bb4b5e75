"""The choice between Triton and stock PyTorch on a GPU, by the nearest measured problem.

A measured problem takes the implementation that was faster. A problem within the bounds below of a measured one takes
Triton if that was faster there by MARGIN, since the ratio varies with the sizes. Beyond the bounds, Triton is chosen
for an operation where it was faster by MARGIN in every measured problem (norms, the ConvLSTM), and for convolutions up
to SMALL: a whole step of the preset `digits`, whose convolutions are all that small, took 5.15 ms by Triton and 5.68 ms
with stock PyTorch's convolutions beside Triton's norms and ConvLSTM, because stock PyTorch launches more kernels to pad
and to convert (bench/results/breakdown-h100.json). All other problems take stock PyTorch.
"""

import math
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

from . import h100

MARGIN = 0.05  # by how much Triton must have been faster on the nearest problem
CHANNELS_APART = 1.0  # octaves between channel counts, of a kernel's taps and of the product of the strides
POSITIONS_APART = 2.0  # octaves between batch times positions
TILES_APART = 1.0  # octaves between each size of two problems that may share tiles
SMALL = 3e9  # multiplications and additions of a convolution

_CONVOLUTIONS = ("conv_up", "conv_down", "conv_weight_grad")
_MEASURED = (h100,)


class Problem(NamedTuple):
    """A convolution in channels_last_3d, or another operation forward and backward.

    Args:
        operation: "conv_up", "conv_down", "conv_weight_grad", "norm_act" or "conv_lstm"; on_gpu.py has the sizes for
            the last two.
        dtype: "bfloat16" or "float16", which run at the same rate.
        taps: of the kernel.
        stride: its product over the dimensions.
        inputs: channels read; of a weight gradient, those of the large side.
        outputs: channels written; of a weight gradient, those of the small side.
        positions: batch size times positions of the small side.
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
    """Whether there are measurements of the operation."""
    return any(device.PROBLEMS.get(operation) for device in _MEASURED)


def problems(capability: tuple[int, int]) -> list[tuple[Problem, Choice]]:
    """Return every problem measured on the nearest GPU, with its choice."""
    device = _nearest_device(capability)
    dtype = device.ORIGIN["dtype"]
    found = [Problem(name, dtype, *sizes) for name, rows in device.PROBLEMS.items() for *sizes, _ in rows]
    return [(problem, choose(capability, problem)) for problem in found]


def origin(capability: tuple[int, int]) -> dict:
    """Return the source of the rules for a GPU: device, capability, versions, commit, date, number of passes."""
    return dict(_nearest_device(capability).ORIGIN)


@lru_cache(maxsize=4096)
def choose(capability: tuple[int, int], problem: Problem) -> Choice:
    """Choose the implementation for a problem on a GPU of this compute capability."""
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
    """Count the multiplications and additions of a convolution; arguments as the fields of Problem."""
    return 2 * taps * inputs * outputs * positions


def _other(problem: Problem) -> str:
    """Name the alternative to Triton: for a convolution, the reference is stock PyTorch's operation."""
    return "stock PyTorch" if problem.operation in _CONVOLUTIONS else "the reference"


def _beyond_measured(device: ModuleType, problem: Problem) -> Choice:
    name, ratios = device.ORIGIN["device"], [row[-1] for row in device.PROBLEMS.get(problem.operation, ())]
    if ratios and min(ratios) >= 1 + MARGIN:
        return Choice("triton", f"Triton ran at {min(ratios):.2f}x {_other(problem)} or more in all measured on {name}")
    work = operations(problem.taps, problem.inputs, problem.outputs, problem.positions)
    if problem.operation in _CONVOLUTIONS and work <= SMALL:
        return Choice("triton", f"whole steps of convolutions this small ran faster by Triton on {name}")
    return Choice("reference", f"nothing near this problem has been measured on {name}")


def is_measured(device_name: str, capability: tuple[int, int], problem: Problem) -> bool:
    """Whether exactly this problem was measured on this model of GPU, so that a trial is not needed."""
    device = _nearest_device(capability)
    found = _nearest_problem(device.PROBLEMS, problem)
    return device.ORIGIN["device"] == device_name and found is not None and found[0] == 0


def has_tiles(kernel: str) -> bool:
    """Whether tiles of a Triton kernel were measured, and so the problems that it serves."""
    return any(kernel == name for device in _MEASURED for name, _, _ in device.TILES)


def tile(capability: tuple[int, int], kernel: str, itemsize: int, sizes: tuple[int, ...], flags: str) -> list | None:
    """Return the measured configuration of a Triton kernel for a class of shapes or the nearest class.

    Args:
        capability: of the GPU; only GPUs of the same major version have the same tensor-core instructions.
        kernel: as in tuning.Problem.
        itemsize: of the dtype, in bytes.
        sizes: rows, columns, depth and tiles, each rounded up to a power of two.
        flags: as in tuning.Problem.

    Returns:
        The fields of tuning.Config in order, or None without a measurement near by.
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


def _nearest_device(capability: tuple[int, int]) -> ModuleType:
    """Return the measured GPU with the nearest compute capability, whose rules other GPUs use too."""
    wanted = capability[0] * 10 + capability[1]
    return min(_MEASURED, key=lambda d: abs(d.ORIGIN["capability"][0] * 10 + d.ORIGIN["capability"][1] - wanted))


def _nearest_problem(problems: dict, wanted: Problem) -> tuple[float, float, tuple] | None:
    """Return (distance, ratio, sizes) of the nearest measured problem, of equally near ones the lowest ratio."""
    best = None
    for *sizes, ratio in problems.get(wanted.operation, ()):
        apart = _distance(wanted[2:], sizes)
        if apart is not None and (best is None or (apart, ratio) < best[:2]):
            best = apart, ratio, tuple(sizes)
    return best


def _distance(wanted: tuple[int, ...], measured: tuple[int, ...] | list[int]) -> float | None:
    """Return the octaves between two problems, those in positions counting half; None if they are not near."""
    *shape, positions = (abs(math.log2(max(a, 1) / b)) for a, b in zip(wanted, measured, strict=True))
    if (wanted[1] > 1) != (measured[1] > 1):  # with and without a stride they are different kernels
        return None
    if max(shape) > CHANNELS_APART or positions > POSITIONS_APART:
        return None
    return math.hypot(*shape, positions / 2)


def _in_words(sizes: tuple[int, ...]) -> str:
    taps, stride, inputs, outputs, positions = sizes
    return f"{inputs}→{outputs} channels, {taps} taps, strides of {stride} in all and {positions} positions"
