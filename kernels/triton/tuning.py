"""Which tiles a Triton kernel runs with: shipped choices, or the fastest of them as timed once and remembered.

Without FASTVGAN_TUNE=1 nothing is ever timed: what an earlier run with it found on this kind of device serves, then
what was measured for the release (kernels/measured), then a rule over the shipped configurations. The choice depends on
what is on disk and on shapes alone, so that a run can be repeated bit for bit. What was found is kept in a JSON file,
by device, Triton version, kernel, dtype and class of shape; FASTVGAN_CACHE names its folder.
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

import torch

from .. import choice
from ..measured import rules
from ..warn_once import warn_once

TUNE, CACHE = "FASTVGAN_TUNE", "FASTVGAN_CACHE"
FILE = "triton-tuning.json"

_logger = logging.getLogger("fastvgan_kernels")


@dataclass(frozen=True)
class Config:
    """How a kernel is cut into programs.

    Args:
        rows, columns: of the output tile of one program.
        depth: bytes of the summed dimension that are loaded at once; 0 where a kernel sums nothing so.
        warps, stages: Triton's num_warps and num_stages.
        registers: Triton's maxnreg. ptxas may choose to spill a few registers so that more programs run side by side;
            given the number it may use, it does not. None leaves it to choose.
        tma: whether an operand that is dense is loaded by the copy engine, through a tensor descriptor.
        cell: how many positions side by side are one row of a kernel for few channels; 1 elsewhere.
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
        """What a launch takes of it, as keyword arguments."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}

    def shared_bytes(self) -> int:
        """What the pipeline of both operands takes of shared memory, as an estimate from below."""
        return (self.rows + self.columns) * self.depth * max(self.stages, 1)


@dataclass(frozen=True)
class Problem:
    """What a choice depends on.

    Args:
        kernel: its name in the tables and in the file.
        device, dtype: of the tensors.
        rows, columns, depth: of the matrix product, or of the tensor; their powers of two make the class of shape.
        flags: whatever else tells two kinds of problem apart.
        tiles: how many such products there are at once, of taps, phases or groups.
        splits: into how many programs at most the summed dimension can be split.
        tma: whether configurations with a tensor descriptor can serve.
        cells_in_rows: a configuration's cell multiplies the rows and divides the depth, rather than to multiply the
            columns and divide the rows.
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

    def product(self, config: "Config") -> tuple[int, int, int]:
        """Rows, columns and depth of the matrix product that a configuration cuts into tiles."""
        if self.cells_in_rows:
            return self.rows * config.cell, self.columns, math.ceil(self.depth / config.cell)
        return math.ceil(self.rows / config.cell), self.columns * config.cell, self.depth

    def fills(self, config: "Config") -> bool:
        """Whether a configuration's tiles are not mostly empty."""
        rows, columns, _ = self.product(config)
        return _fills(rows, config.rows) and _fills(columns, config.columns)

    def programs(self, config: "Config") -> int:
        """How many there can be with a configuration; a split takes at least eight steps."""
        rows, columns, depth = self.product(config)
        steps = depth * self.dtype.itemsize // config.depth if config.depth else 1
        tiles = math.ceil(rows / config.rows) * math.ceil(columns / config.columns) * self.tiles
        return tiles * max(1, min(self.splits, steps // 8))

    def key(self) -> str:
        import triton

        name = device_name(self.device)
        kind, sizes = str(self.dtype).removeprefix("torch."), "x".join(map(str, self.sizes()))
        return "|".join((name, f"triton {triton.__version__}", self.kernel, kind, sizes, self.flags))

    def sizes(self) -> tuple[int, ...]:
        """Rows, columns, depth and tiles, each rounded up to a power of two."""
        return tuple(_power_of_two(size) for size in (self.rows, self.columns, self.depth, self.tiles))


_chosen: dict[Problem, Config] = {}
_faster: dict[tuple, str | None] = {}


def choose(problem: Problem, shipped: Sequence[Config], run: Callable[[Config], None]) -> Config:
    """The configuration to run with.

    Args:
        problem: what it is for.
        shipped: the configurations that may be taken, largest tiles first.
        run: launches the kernel with one of them. It is called only when tuning, several times, and must not change
            what it reads; never while a CUDA graph is captured.
    """
    config = _chosen.get(problem)
    if config is not None:
        return config
    fitting = candidates(problem, shipped)
    config = _remembered(problem, fitting)
    if config is None:
        if _capturing(problem.device):
            return _measured(problem, fitting) or by_rule(problem, fitting)  # not kept: the next call outside may tune
        if os.environ.get(TUNE) == "1":
            config = _tuned(problem, fitting, run)
        else:
            config = _measured(problem, fitting) or by_rule(problem, fitting)
    _chosen[problem] = config
    return config


def candidates(problem: Problem, shipped: Sequence[Config]) -> list[Config]:
    """Those of `shipped` that fit the device's shared memory and whose tiles are not mostly empty; at least one."""
    limit = _shared_limit(problem.device)
    fitting = [c for c in shipped if c.shared_bytes() <= limit and (problem.tma or not c.tma)]
    full = [c for c in fitting if problem.fills(c)]
    return full or [min(fitting, key=lambda c: (c.columns, c.rows))]


def by_rule(problem: Problem, fitting: Sequence[Config]) -> Config:
    """The largest tiles of which there is one for each multiprocessor, or the smallest there are."""
    wanted = processors(problem.device)
    for config in fitting:
        if problem.programs(config) >= wanted:
            return config
    return min(fitting, key=lambda c: c.rows * c.columns)


def faster(device: torch.device, problem: tuple, ways: dict[str, Callable[[], object]]) -> str | None:
    """Which of several ways to compute the same was faster on this device: remembered, or timed once when tuning.

    Args:
        device: what they run on.
        problem: the class of problem; as text it is the file's key.
        ways: name → a function that computes it and changes nothing; called only when tuning, outside any capture.

    Returns:
        A name of `ways`, or None where nothing is remembered and nothing may be timed.
    """
    if (device, problem) in _faster:
        return _faster[device, problem]
    key = "|".join((device_name(device), f"torch {torch.__version__}", "faster", *map(str, problem)))
    found = _file().get(key)
    if not isinstance(found, str) or found not in ways:
        found = None
        if os.environ.get(TUNE) == "1":
            if _capturing(device):
                return None  # not kept: the next call outside may time them
            times = {name: _milliseconds(way) for name, way in ways.items()}
            found = min(times, key=times.get)
            _remember(key, found)
    _faster[device, problem] = found
    return found


def forget() -> None:
    """Drop what is held in memory, so that the file is read again."""
    choice.decisions.clear()
    _chosen.clear()
    _faster.clear()
    _file.cache_clear()


def _fills(size: int, tile: int) -> bool:
    return tile <= max(16, _power_of_two(size))


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def _remembered(problem: Problem, fitting: Sequence[Config]) -> Config | None:
    entry = _file().get(problem.key())
    return next((config for config in fitting if _as_list(config) == entry), None)


def _measured(problem: Problem, fitting: Sequence[Config]) -> Config | None:
    """What was measured to be the fastest for the class of shape or the nearest one (kernels/measured)."""
    if problem.device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(problem.device)
    found = rules.tile(capability, problem.kernel, problem.dtype.itemsize, problem.sizes(), problem.flags)
    return next((config for config in fitting if _as_list(config) == found), None)


def _tuned(problem: Problem, fitting: Sequence[Config], run: Callable[[Config], None]) -> Config:
    if len(fitting) == 1:
        return fitting[0]
    times = {config: _milliseconds(lambda config=config: run(config)) for config in fitting}
    best = min(times, key=times.get)
    if times[best] == math.inf:
        return by_rule(problem, fitting)
    _remember(problem.key(), _as_list(best))
    return best


def _milliseconds(function: Callable[[], None]) -> float:
    from triton.runtime.errors import TritonError
    from triton.testing import do_bench

    try:
        return do_bench(function, warmup=10, rep=50, return_mode="median")
    except (TritonError, torch.OutOfMemoryError) as error:  # it needs more than this device has: another one serves
        _logger.info("a configuration was passed over: %s", error)
        return math.inf


def _as_list(config: Config) -> list:
    """Its fields; a cell of 1 is left out, as in files from before there were others."""
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
            raise ValueError(f"it holds a {type(found).__name__} where an object was expected")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warn_once(f"{_path()} cannot be read, so shipped configurations serve; remove it to tune anew: {error}")
        return {}
    return found


def _remember(key: str, value: list | str) -> None:
    """Add to the file as it is now, which another process may have written since; whole or not at all."""
    _file.cache_clear()
    entries = {**_file(), key: value}
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # fastvgan.files.atomic does this for other files. Kernels import nothing of fastvgan, nor can it move here:
        # importing this package loads torch, which a command such as `report` does without. Several processes may tune
        # at a time, so each has a temporary folder of its own.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=FILE) as folder:
            written = Path(folder) / FILE
            written.write_text(json.dumps(entries, indent=1, sort_keys=True))
            written.replace(path)
    except OSError as error:
        warn_once(f"what was tuned is not kept after this process: {error}")
    _file.cache_clear()


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@cache
def device_name(device: torch.device) -> str:
    """What the file calls the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


@cache
def _shared_limit(device: torch.device) -> int:
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


@cache
def processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@cache
def architecture(device: torch.device) -> int:
    """Which of the shipped configurations are for the device: those for sm_80, sm_90 or sm_100."""
    return family(torch.cuda.get_device_capability(device)[0]) if device.type == "cuda" else 80


def family(major: int) -> int:
    """The architecture with the same tensor-core instructions. 12, of desktops and workstations, has those of sm_80."""
    return {9: 90, 10: 100, 11: 100}.get(major, 80)
