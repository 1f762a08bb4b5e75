"""Check a network, stock and fused, in both memory formats against float64, then time the variants in turns."""

import copy
import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from architectures import ARCHITECTURES
from support.memory import level_allocator
from support.variants import DTYPES, FORMATS, TINY, autocast, in_float64, in_layout
from torch import Tensor, nn

from fastvgan.layers import fuse

DIRECTIONS = ("forward", "forward + backward")  # in evaluation mode, and in training mode
THREADS = tuple(count for count in (1, 2) if count <= (os.cpu_count() or 1))
SIDES = ("stock", "fused")
_SECONDS, _FEWEST, _MOST = 1.5, 12, 100
# Tolerated relative errors of outputs and gradients: rounding decides whether a ReLU passes values close to 0.
_SLACK = {"fp32": (1e-5, 2e-2), "bf16": (1e-2, 2e-2)}


@dataclass(frozen=True)
class Cell:
    """One comparison: a key of ARCHITECTURES, one of DIRECTIONS, one of DTYPES, and the number of threads."""

    network: str
    direction: str
    dtype: str
    threads: int

    @property
    def name(self) -> str:
        return f"{self.network}, {self.direction}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def trains(self) -> bool:
        return self.direction == DIRECTIONS[1]


@dataclass(frozen=True)
class Results:
    """Results of one call: the output, in training also the gradients of all parameters, and all batch statistics."""

    values: list[Tensor]
    statistics: list[Tensor]


def cells(networks: Iterable[str] = ARCHITECTURES, threads: Iterable[int] = THREADS) -> Iterator[Cell]:
    """Yield all comparisons, network by network."""
    return itertools.starmap(Cell, itertools.product(networks, DIRECTIONS, DTYPES, threads))


def time_cell(cell: Cell, rounds: int | None = None) -> dict[tuple[str, str], list[float]]:
    """Time all variants of a cell in turns; return (side, memory format) → seconds of each round.

    Args:
        rounds: the number of rounds; by default determined by the spread of the times.

    Raises:
        AssertionError: a fused variant is less accurate than stock PyTorch.
    """
    with torch_threads(cell.threads):
        runs = check_cell(cell)
        level_allocator()
        return _time_in_turns(runs, rounds or (1 if TINY else None))


def row_of(cell: Cell, found: dict[tuple[str, str], list[float]]) -> dict:
    """Return a cell's median times in ms, and the ratio of stock PyTorch's faster format to the faster fused one."""
    medians = {variant: 1e3 * statistics.median(samples) for variant, samples in found.items()}
    row: dict = {**vars(cell)}
    for side in SIDES:
        row[f"{side}_ms"] = {layout: round(medians[side, layout], 3) for layout in FORMATS}
    row["ratio"] = round(_ratio(medians), 3)
    # Interquartile range divided by median, for the noisier of the two compared variants.
    row["spread"] = round(max(_spread(found[side, _best(medians, side)]) for side in SIDES), 3)
    row["rounds"] = min(map(len, found.values()))
    return row


def profile_cell(cell: Cell, side: str, rows: int = 20) -> str:
    """Profile three calls, stock or fused, in channels_last, and return torch.profiler's table."""
    with torch_threads(cell.threads):
        run = check_cell(cell)[side, "channels_last"]
        run()
        with torch.profiler.profile() as profile:
            for _ in range(3):
                run()
        return profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_cell(cell: Cell) -> dict[tuple[str, str], Callable[[], list[Tensor]]]:
    """Compare the fused results with float64; return (side, memory format) → a function that runs the network once.

    Raises:
        AssertionError: a fused variant is less accurate than stock PyTorch.
    """
    base, x, dy = _make_network(cell.network)
    base.train(cell.trains)
    exact = _compute_exact(cell.network, cell.trains)
    runs, reference = {}, None
    for side in SIDES:
        for layout in FORMATS:
            network = in_layout(copy.deepcopy(base), FORMATS[layout])
            network = fuse(network) if side == "fused" else network
            run = runs[side, layout] = _make_runner(cell.trains, network, _to_format(x, layout), dy, cell.dtype)
            results = _run_twice(run, network)
            reference = reference or results
            if side == "fused":
                _assert_accurate(cell, results, reference, exact)
    return runs


@functools.lru_cache(maxsize=1)
def _make_network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Make the float32 network with batch statistics of its activations, its input, and its output's gradient."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    network = architecture.make()
    x = torch.randn(architecture.tiny if TINY else architecture.shape)
    with torch.no_grad():
        for _ in range(10):
            y = network(x)
    return network, x, torch.randn_like(y)


@functools.lru_cache(maxsize=1)
def _compute_exact(name: str, trains: bool) -> Results:
    """Compute the results in float64."""
    base, x, dy = _make_network(name)
    network = in_float64(base).train(trains)
    return _run_twice(_make_runner(trains, network, x.double(), dy.double(), "fp32"), network)


def _run_twice(run: Callable[[], list[Tensor]], network: nn.Module) -> Results:
    """Return the results of the second call, which represents the timed calls: layers cache choices in the first."""
    run()
    return Results(run(), _copy_statistics(network))


def _make_runner(trains: bool, network: nn.Module, x: Tensor, dy: Tensor, dtype: str) -> Callable[[], list[Tensor]]:
    """Return a function that computes the output and, in training, the gradients of all parameters."""
    parameters = list(network.parameters())

    def evaluate():
        with torch.inference_mode(), autocast(dtype):
            return [network(x)]

    def train():
        with autocast(dtype):
            y = network(x)
        # A loss's gradient has the output's dtype and memory format.
        return [y.detach(), *torch.autograd.grad(y, parameters, torch.empty_like(y).copy_(dy))]

    return train if trains else evaluate


def _to_format(x: Tensor, layout: str) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if layout == "channels_last" and x.dim() in formats else x


def _copy_statistics(network: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in network.buffers() if buffer.is_floating_point()]


def _assert_accurate(cell: Cell, ours: Results, stock: Results, exact: Results) -> None:
    """Compare the norm of each tensor's error; stock's error in a single value may be small by chance."""
    forward, backward = _SLACK[cell.dtype]
    _assert_near("output", *(results.values[:1] for results in (ours, stock, exact)), forward)
    _assert_near("gradient", *(results.values[1:] for results in (ours, stock, exact)), backward)
    _assert_near("batch statistic", *(results.statistics for results in (ours, stock, exact)), forward)


def _assert_near(what: str, ours: list[Tensor], stock: list[Tensor], exact: list[Tensor], slack: float) -> None:
    # The gradient of a bias before a norm is rounding noise: scale its error by all gradients.
    least = 0.05 * math.sqrt(sum(right.square().sum().item() for right in exact))
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        size = max(right.norm().item(), least)
        mine_off, theirs_off = ((value.double() - right).norm().item() / size for value in (mine, theirs))
        assert theirs_off < 0.5, f"stock's {what} is off by {theirs_off:.2g}"  # else any result would pass
        assert mine_off <= 3 * theirs_off + slack, f"our {what} is off by {mine_off:.2g}, stock's by {theirs_off:.2g}"


def _time_in_turns(runs: dict, rounds: int | None) -> dict:
    """Return the seconds of each call. A round calls every function once; the next round starts with the next one."""
    found: dict = {name: [] for name in runs}
    for run in runs.values():  # `check_cell` called each twice before
        run()
    begin = time.perf_counter()
    names = list(runs)
    while not _is_enough(found, time.perf_counter() - begin, rounds):
        for name in names:
            start = time.perf_counter()
            runs[name]()
            found[name].append(time.perf_counter() - start)
        names = names[1:] + names[:1]
    return found


def _is_enough(found: dict, seconds: float, rounds: int | None) -> bool:
    done = min(map(len, found.values()))
    if rounds is not None or done < _FEWEST:
        return done >= (rounds or _FEWEST)
    if seconds < _SECONDS:
        return False
    # A median's standard error is about 0.93 times the interquartile range divided by the root of the sample size.
    error = max(0.93 * _spread(samples) / math.sqrt(done) for samples in found.values())
    return error < 0.005 or done >= _MOST or seconds > 5 * _SECONDS


def _spread(samples: list[float]) -> float:
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / middle


def _best(medians: dict, side: str) -> str:
    return min(FORMATS, key=lambda layout: medians[side, layout])


def _ratio(medians: dict) -> float:
    stock, fused = (medians[side, _best(medians, side)] for side in SIDES)
    return stock / fused
