"""One network, stock and fused, in both memory formats: checked against float64, then timed in turns."""

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
from memory import level_allocator
from torch import Tensor, nn
from variants import DTYPES, FORMATS, TINY, autocast, in_float64, in_layout

from fastvgan.layers import fuse

DIRECTIONS = ("forward", "forward + backward")  # of a network in evaluation, and in training
THREADS = tuple(count for count in (1, 2) if count <= (os.cpu_count() or 1))
SIDES = ("stock", "fused")
_SECONDS, _FEWEST, _MOST = 1.5, 12, 100
# Allowed relative errors of forward and of gradients: rounding may decide whether a ReLU passes a value on.
_SLACK = {"fp32": (1e-5, 2e-2), "bf16": (1e-2, 2e-2)}


@dataclass(frozen=True)
class Cell:
    """One comparison: a key of ARCHITECTURES, one of DIRECTIONS, one of DTYPES, and how many threads compute."""

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
    """Of one call: the output, in training followed by the gradient of every parameter, and all batch statistics."""

    values: list[Tensor]
    statistics: list[Tensor]


def cells(networks: Iterable[str] = ARCHITECTURES, threads: Iterable[int] = THREADS) -> Iterator[Cell]:
    """All comparisons, network by network."""
    return itertools.starmap(Cell, itertools.product(networks, DIRECTIONS, DTYPES, threads))


def times(cell: Cell, rounds: int | None = None) -> dict[tuple[str, str], list[float]]:
    """(side, memory format) → seconds of each round, in which all variants take turns.

    Args:
        rounds: how many; by default as many as the spread of the times asks for.

    Raises:
        AssertionError: a fused variant is less accurate than stock PyTorch, so that its time is no result.
    """
    with torch_threads(cell.threads):
        runs = checked(cell)
        level_allocator()
        return _interleaved(runs, rounds or (1 if TINY else None))


def row_of(cell: Cell, found: dict[tuple[str, str], list[float]]) -> dict:
    """A cell's median times in ms, and the ratio of the faster format of stock PyTorch to the faster one fused."""
    medians = {variant: 1e3 * statistics.median(samples) for variant, samples in found.items()}
    row: dict = {**vars(cell)}
    for side in SIDES:
        row[f"{side}_ms"] = {layout: round(medians[side, layout], 3) for layout in FORMATS}
    row["ratio"] = round(_ratio(medians), 3)
    # The interquartile range by the median, of the noisier one of the two that are compared.
    row["spread"] = round(max(_spread(found[side, _best(medians, side)]) for side in SIDES), 3)
    row["rounds"] = min(map(len, found.values()))
    return row


def profiled(cell: Cell, side: str, rows: int = 20) -> str:
    """Where the time of three calls goes, stock or fused, in channels_last: torch.profiler's table."""
    with torch_threads(cell.threads):
        run = checked(cell)[side, "channels_last"]
        run()
        with torch.profiler.profile() as profile:
            for _ in range(3):
                run()
        return profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within it torch computes by so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def checked(cell: Cell) -> dict[tuple[str, str], Callable[[], list[Tensor]]]:
    """(side, memory format) → a function that runs the network once, after fused results were compared with float64.

    Raises:
        AssertionError: a fused variant is less accurate than stock PyTorch.
    """
    base, x, dy = _settled(cell.network)
    base.train(cell.trains)
    exact = _exact(cell.network, cell.trains)
    runs, reference = {}, None
    for side in SIDES:
        for layout in FORMATS:
            network = in_layout(copy.deepcopy(base), FORMATS[layout])
            network = fuse(network) if side == "fused" else network
            run = runs[side, layout] = _runner(cell.trains, network, _in_format(x, layout), dy, cell.dtype)
            results = _second_results(run, network)
            reference = reference or results
            if side == "fused":
                _assert_accurate(cell, results, reference, exact)
    return runs


@functools.lru_cache(maxsize=1)
def _settled(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a float32 network with batch statistics of its activations, its input, and its output's gradient."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    network = architecture.make()
    x = torch.randn(architecture.tiny if TINY else architecture.shape)
    with torch.no_grad():
        for _ in range(10):
            y = network(x)
    return network, x, torch.randn_like(y)


@functools.lru_cache(maxsize=1)
def _exact(name: str, trains: bool) -> Results:
    """The results in float64."""
    base, x, dy = _settled(name)
    network = in_float64(base).train(trains)
    return _second_results(_runner(trains, network, x.double(), dy.double(), "fp32"), network)


def _second_results(run: Callable[[], list[Tensor]], network: nn.Module) -> Results:
    """What a second call gives: the one that is timed, since layers remember from the first which way to take."""
    run()
    return Results(run(), _statistics(network))


def _runner(trains: bool, network: nn.Module, x: Tensor, dy: Tensor, dtype: str) -> Callable[[], list[Tensor]]:
    """A function that gives the output and, in training, the gradient of every parameter; the input wants none."""
    parameters = list(network.parameters())

    def evaluate():
        with torch.inference_mode(), autocast(dtype):
            return [network(x)]

    def train():
        with autocast(dtype):
            y = network(x)
        # What a loss gives: the output's dtype and memory format.
        return [y.detach(), *torch.autograd.grad(y, parameters, torch.empty_like(y).copy_(dy))]

    return train if trains else evaluate


def _in_format(x: Tensor, layout: str) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if layout == "channels_last" and x.dim() in formats else x


def _statistics(network: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in network.buffers() if buffer.is_floating_point()]


def _assert_accurate(cell: Cell, ours: Results, stock: Results, exact: Results) -> None:
    """By the norm of the error, tensor by tensor: a network may have one output, and stock's be right by luck."""
    forward, backward = _SLACK[cell.dtype]
    _assert_near("output", *(results.values[:1] for results in (ours, stock, exact)), forward)
    _assert_near("gradient", *(results.values[1:] for results in (ours, stock, exact)), backward)
    _assert_near("batch statistic", *(results.statistics for results in (ours, stock, exact)), forward)


def _assert_near(what: str, ours: list[Tensor], stock: list[Tensor], exact: list[Tensor], slack: float) -> None:
    # A bias before a norm has no gradient but what rounding leaves: its error counts against all gradients.
    least = 0.05 * math.sqrt(sum(right.square().sum().item() for right in exact))
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        size = max(right.norm().item(), least)
        mine_off, theirs_off = ((value.double() - right).norm().item() / size for value in (mine, theirs))
        assert theirs_off < 0.5, f"stock's {what} is off by {theirs_off:.2g}"  # it would excuse everything
        assert mine_off <= 3 * theirs_off + slack, f"our {what} is off by {mine_off:.2g}, stock's by {theirs_off:.2g}"


def _interleaved(runs: dict, rounds: int | None) -> dict:
    """Seconds of each call of each run, one of each in a round, another one first each time."""
    found: dict = {name: [] for name in runs}
    for run in runs.values():  # `checked` has called each once before
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
    # A median's standard error is about 0.93 interquartile ranges by the root of the number.
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
