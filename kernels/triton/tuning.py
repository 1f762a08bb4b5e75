"""Choice of a Triton kernel's tiles: one of the shipped configurations, or the fastest of them in a stored timing.

Only FASTVGAN_TUNE=1 allows timing. Without it the choice is the result of an earlier tuning on the same kind of device,
else the release's measurements (kernels/measured), else a rule over the shipped configurations. It depends only on
files and shapes, so a run can be repeated bit for bit. Tuning results are kept in a JSON file by device, Triton
version, kernel, dtype and class of shape; FASTVGAN_CACHE names its folder.
"""

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from .. import choice
from ..measured import rules
from ..warn_once import warn_once

TUNE, CACHE = "FASTVGAN_TUNE", "FASTVGAN_CACHE"
FILE = "triton-tuning.json"

_logger = logging.getLogger("fastvgan_kernels")


@dataclass(frozen=True)
class Config:
    """The tile of one program of a kernel, and its launch options.

    Args:
        rows: of the output tile.
        columns: of the output tile.
        depth: bytes of the summed dimension that are loaded at once; 0 for a kernel without products.
        warps: Triton's num_warps.
        stages: Triton's num_stages.
        registers: Triton's maxnreg. Without a number, ptxas may spill a few registers so that more programs fit.
        tma: whether the copy engine loads a dense operand, through a tensor descriptor.
        cell: number of neighbouring positions in one row of a kernel for few channels; 1 for other kernels.
    """

    rows: int
    columns: int
    depth: int = 0
    warps: int = 4
    stages: int = 3
    registers: int | None = None
    tma: bool = False
    cell: int = 1

    def launch(self) -> dict[str, int | None]:
        """Return the keyword arguments of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}

    def least_shared_bytes(self) -> int:
        """Return a lower bound of the shared memory that the pipeline of both operands needs."""
        return (self.rows + self.columns) * self.depth * max(self.stages, 1)


@dataclass(frozen=True)
class Problem:
    """The properties of a launch that determine the choice.

    Args:
        kernel: its name in the tables and in the file.
        device: of the tensors.
        dtype: of the tensors.
        rows: of the matrix product, or of the tensor. The class of shape is rows, columns, depth and tiles rounded up
            to powers of two.
        columns: of the matrix product, or of the tensor.
        depth: terms of the product's sum.
        flags: anything else that distinguishes two kinds of problem.
        tiles: number of such products in one launch, for taps, phases or groups.
        splits: the most programs that can share the sum.
        tma: whether a configuration with a tensor descriptor is possible.
        cells_in_rows: whether a configuration's cell multiplies the rows and divides the depth. If not, it multiplies
            the columns and divides the rows.
    """

    kernel: str
    device: torch.device
    dtype: torch.dtype
    rows: int
    columns: int
    depth: int = 1
    flags: str = ""
    tiles: int = 1
    splits: int = 1
    tma: bool = False
    cells_in_rows: bool = False

    def product(self, config: Config) -> tuple[int, int, int]:
        """Return rows, columns and depth of the matrix product that a configuration cuts into tiles."""
        if self.cells_in_rows:
            return self.rows * config.cell, self.columns, math.ceil(self.depth / config.cell)
        return math.ceil(self.rows / config.cell), self.columns * config.cell, self.depth

    def fills(self, config: Config) -> bool:
        """Return whether a configuration's tiles are mostly full."""
        rows, columns, _ = self.product(config)
        return _fills(rows, config.rows) and _fills(columns, config.columns)

    def programs(self, config: Config) -> int:
        """Return the most programs possible with a configuration, where a split has at least eight steps."""
        rows, columns, depth = self.product(config)
        steps = depth * self.dtype.itemsize // config.depth if config.depth else 1
        tiles = math.ceil(rows / config.rows) * math.ceil(columns / config.columns) * self.tiles
        return tiles * max(1, min(self.splits, steps // 8))

    def key(self) -> str:
        """Return the key in the file."""
        import triton

        name = device_name(self.device)
        kind, sizes = str(self.dtype).removeprefix("torch."), "x".join(map(str, self.sizes()))
        return "|".join((name, f"triton {triton.__version__}", self.kernel, kind, sizes, self.flags))

    def sizes(self) -> tuple[int, ...]:
        """Return rows, columns, depth and tiles, each rounded up to a power of two."""
        return tuple(_power_of_two(size) for size in (self.rows, self.columns, self.depth, self.tiles))


_chosen: dict[Problem, Config] = {}
_faster: dict[tuple, str | None] = {}


def choose(problem: Problem, shipped: Sequence[Config], run: Callable[[Config], None]) -> Config:
    """Return the configuration to run with.

    Args:
        problem: the launch.
        shipped: the possible configurations, largest tiles first.
        run: launches the kernel with a configuration. Tuning calls it several times, but never during the capture of a
            CUDA graph, so it must not change what it reads.
    """
    config = _chosen.get(problem)
    if config is not None:
        return config
    fitting = candidates(problem, shipped)
    config = _recall(problem, fitting)
    if config is None:
        if _capturing(problem.device):
            return _look_up(problem, fitting) or by_rule(
                problem, fitting
            )  # not stored: the next call outside a capture may tune
        if os.environ.get(TUNE) == "1":
            config = _tune(problem, fitting, run)
        else:
            config = _look_up(problem, fitting) or by_rule(problem, fitting)
    _chosen[problem] = config
    return config


def candidates(problem: Problem, shipped: Sequence[Config]) -> list[Config]:
    """Return the configurations that fit the device's shared memory and whose tiles are mostly full; at least one."""
    limit = _available_shared_bytes(problem.device)
    fitting = [c for c in shipped if c.least_shared_bytes() <= limit and (problem.tma or not c.tma)]
    full = [c for c in fitting if problem.fills(c)]
    return full or [min(fitting, key=lambda c: (c.columns, c.rows))]


def by_rule(problem: Problem, fitting: Sequence[Config]) -> Config:
    """Return the largest tiles that occupy every multiprocessor, or else the smallest tiles."""
    wanted = processors(problem.device)
    for config in fitting:
        if problem.programs(config) >= wanted:
            return config
    return min(fitting, key=lambda c: c.rows * c.columns)


def faster(device: torch.device, problem: tuple, ways: dict[str, Callable[[], object]]) -> str | None:
    """Return the fastest of several functions with the same result, from a stored timing or, when tuning, a new one.

    Args:
        device: runs the functions.
        problem: the class of problem; as text it is part of the file's key.
        ways: name → a function that changes nothing; called only when tuning, outside any capture.

    Returns:
        A name in `ways`, or None if no timing is stored and none is allowed.
    """
    if (device, problem) in _faster:
        return _faster[device, problem]
    key = "|".join((device_name(device), f"torch {torch.__version__}", "faster", *map(str, problem)))
    found = _file().get(key)
    if not isinstance(found, str) or found not in ways:
        found = None
        if os.environ.get(TUNE) == "1":
            if _capturing(device):
                return None  # not stored: the next call outside a capture may time them
            times = {name: _milliseconds(way) for name, way in ways.items()}
            found = min(times, key=lambda name: times[name])
            _remember(key, found)
    _faster[device, problem] = found
    return found


def forget() -> None:
    """Drop the choices held in memory, so that the file is read again."""
    choice.decisions.clear()
    _chosen.clear()
    _faster.clear()
    _file.cache_clear()


def _fills(size: int, tile: int) -> bool:
    return tile <= max(16, _power_of_two(size))


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def _recall(problem: Problem, fitting: Sequence[Config]) -> Config | None:
    entry = _file().get(problem.key())
    return next((config for config in fitting if _as_list(config) == entry), None)


def _look_up(problem: Problem, fitting: Sequence[Config]) -> Config | None:
    """The fastest configuration measured for the class of shape or the nearest one (kernels/measured)."""
    if problem.device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(problem.device)
    found = rules.tile(capability, problem.kernel, problem.dtype.itemsize, problem.sizes(), problem.flags)
    return next((config for config in fitting if _as_list(config) == found), None)


def _tune(problem: Problem, fitting: Sequence[Config], run: Callable[[Config], None]) -> Config:
    if len(fitting) == 1:
        return fitting[0]
    times = {config: _milliseconds(lambda config=config: run(config)) for config in fitting}
    best = min(times, key=lambda config: times[config])
    if times[best] == math.inf:
        return by_rule(problem, fitting)
    _remember(problem.key(), _as_list(best))
    return best


def _milliseconds(function: Callable[[], object]) -> float:
    from triton.runtime.errors import TritonError
    from triton.testing import do_bench

    try:
        median = do_bench(function, warmup=10, rep=50, return_mode="median")
    except (TritonError, torch.OutOfMemoryError) as error:  # it needs more than this device has
        _logger.info("tuning skips a configuration that failed: %s", error)
        return math.inf
    return cast("float", median)  # a list only for several quantiles


def _as_list(config: Config) -> list:
    """The fields of a configuration, without a cell of 1, as in files written before the field existed."""
    fields = list(astuple(config))
    return fields if config.cell > 1 else fields[:-1]


def _path() -> Path:
    folder = os.environ.get(CACHE)
    if folder:
        return Path(folder) / FILE
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastvgan" / FILE


@cache
def _file() -> dict[str, list | str]:
    try:
        found = json.loads(_path().read_text())
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, found a {type(found).__name__}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warn_once(f"{_path()}: unreadable ({error}); using shipped configurations. Remove it to tune again.")
        return {}
    return found


def _remember(key: str, value: list | str) -> None:
    """Add an entry to the file's present contents, which another process may have changed. The write is atomic."""
    _file.cache_clear()
    entries = {**_file(), key: value}
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # fastvgan.files.atomic does this for other files, but kernels do not import fastvgan. It cannot move here
        # either: importing this package loads torch, which a command such as `report` must not. Several processes may
        # tune at the same time, so each writes to a separate temporary folder.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=FILE) as folder:
            written = Path(folder) / FILE
            written.write_text(json.dumps(entries, indent=1, sort_keys=True))
            written.replace(path)
    except OSError as error:
        warn_once(f"tuning results are lost when this process ends, because they cannot be stored: {error}")
    _file.cache_clear()


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@cache
def device_name(device: torch.device) -> str:
    """Return the name of a kind of device in the file."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


@cache
def _available_shared_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 227 * 1024
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stub lacks the attribute
    return properties.shared_memory_per_block_optin


@cache
def processors(device: torch.device) -> int:
    """Return the number of a device's multiprocessors."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@cache
def architecture(device: torch.device) -> int:
    """Return the architecture whose shipped configurations a device uses: 80, 90 or 100."""
    return family(torch.cuda.get_device_capability(device)[0]) if device.type == "cuda" else 80


def family(major: int) -> int:
    """Return the architecture with the same tensor-core instructions; sm_120, of workstations, has those of sm_80."""
    return {9: 90, 10: 100, 11: 100}.get(major, 80)
