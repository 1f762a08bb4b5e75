"""The cost of one training step of any configuration: operations, bytes, memory and collectives, counted while it runs.

The trainer's step runs on the CPU on two small batches. The counts of each operation are affine in the batch size, so
two batches determine the counts of any other. `python bench/step_cost.py` prints the table of presets in
docs/explanation/scaling.md.
"""

import argparse
import itertools
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # import the checkout's package, as `python -m` does

from support.text_table import format_table  # noqa: E402
from support.variants import use_implementation  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.data import open_source  # noqa: E402
from fastvgan.models.discriminators import count_starts  # noqa: E402
from fastvgan.runs.config import RunConfig  # noqa: E402
from fastvgan.runs.presets import PRESETS  # noqa: E402
from fastvgan.training.batches import BatchMaker  # noqa: E402
from fastvgan.training.conditions import Conditions, add_vocabulary  # noqa: E402
from fastvgan.training.parallel import Parallel  # noqa: E402
from fastvgan.training.step.adversarial import AdversarialStep  # noqa: E402
from fastvgan.training.step.graphs import StepRunner  # noqa: E402

CPU = torch.device("cpu")
_NORMS = ("fastvgan::norm_act", "fastvgan::norm_act_tracked", "fastvgan::norm_act_backward")
_DDP_FIRST, _DDP_BUCKET = 2**20, 25 * 2**20  # bytes, the defaults of DistributedDataParallel


@dataclass(frozen=True)
class Work:
    """One operation of a step.

    flops: FLOPs of its products.
    bytes: bytes of its arguments and results; 0 if it only allocates or returns a view.
    channels: channels on both sides of a convolution; () for other operations.
    live: bytes of the step's tensors that are alive after it.
    """

    name: str
    flops: int
    bytes: int
    channels: tuple[int, ...]
    live: int


@dataclass(frozen=True)
class Fixed:
    """Memory and communication of a step that do not depend on its batch size.

    parameters: number of parameters of G and of D.
    state: bytes of weights, buffers, optimizer moments and the moving average.
    gradients: bytes of both networks' gradients.
    copies: bytes of the convolutions' weights in a 16-bit dtype.
    """

    parameters: tuple[int, int]
    state: int
    gradients: int
    copies: int

    @property
    def buckets(self) -> int:
        """Approximate number of gradient all-reduces per step; DistributedDataParallel never splits a parameter."""
        return sum(1 + max(0, math.ceil((4 * count - _DDP_FIRST) / _DDP_BUCKET)) for count in self.parameters)


@dataclass(frozen=True)
class StepCost:
    """Cost of a step of `batch` clips on one device; `work` lists its operations in order."""

    batch: int
    work: Sequence[Work]
    fixed: Fixed

    @property
    def flops(self) -> int:
        return sum(work.flops for work in self.work)

    @property
    def bytes(self) -> int:
        return sum(work.bytes for work in self.work)

    @property
    def operations(self) -> int:
        """Number of operations that compute or copy."""
        return sum(work.bytes > 0 for work in self.work)

    @property
    def norms(self) -> int:
        """Number of batch norms, forward and backward; with several processes each needs one collective."""
        return sum(work.name in _NORMS for work in self.work)

    @property
    def peak(self) -> int:
        """Peak bytes within the step, above the bytes held between steps."""
        return max(work.live for work in self.work)


class Tracer(TorchDispatchMode):
    """Records every operation, and the memory of its results while they are alive.

    Memory that an operation allocates and frees internally is not counted.
    """

    def __init__(self):
        super().__init__()
        self.work: list[Work] = []
        self.live = 0
        self._seen: weakref.WeakSet = weakref.WeakSet()

    def restart(self) -> None:
        """Clear the recorded operations, and count memory relative to the current state."""
        self.work, self.live = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        made = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        for tensor in made:
            self._hold(tensor.untyped_storage())
        moved = 0 if _is_free(function, given, made) else sum(x.numel() * x.element_size() for x in (*given, *made))
        flops, channels = count_flops(function, args, kwargs, results)
        self.work.append(Work(function._schema.name, flops, moved, channels, self.live))
        return results

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self.live -= size


def _is_free(function, given: list[torch.Tensor], made: list[torch.Tensor]) -> bool:
    """Return whether an operation only allocates, or only returns views of its arguments."""
    schema = function._schema
    if schema.name.startswith("profiler::") or "empty" in schema.name:
        return True
    if schema.is_mutable:
        return False
    there = {x.untyped_storage().data_ptr() for x in given}
    return bool(made) and all(x.untyped_storage().data_ptr() in there for x in made)


def count_flops(function, args: tuple, kwargs: dict[str, Any], results) -> tuple[int, tuple[int, ...]]:
    """Return the FLOPs of one operation, and, for one of our convolutions, the channels on both sides.

    A product and its sum are two FLOPs, and products with padding count, as in `torch.utils.flop_counter`, whose
    formulas are used for torch's own operations. An operation without products has 0 FLOPs.
    """
    name = function._schema.name
    if name in _CONVOLUTIONS:
        named = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
        flops, weight = _CONVOLUTIONS[name](named, results)
        return flops, tuple(weight.shape[:2])
    formula = flop_registry.get(function.overloadpacket)
    return (int(formula(*args, **kwargs, out_val=results)) if formula else 0), ()


def _count_conv(small: torch.Tensor, weight: torch.Tensor) -> int:
    """Count the FLOPs of one pass (forward or either gradient) of a convolution whose smaller side is `small`."""
    return 2 * small.shape[0] * math.prod(small.shape[2:]) * weight.numel()


def _count_up(given: dict, y: torch.Tensor) -> tuple[int, torch.Tensor]:
    return _count_conv(given["x"], given["weight"]), given["weight"]


def _count_down(given: dict, y: torch.Tensor) -> tuple[int, torch.Tensor]:
    return _count_conv(y, given["weight"]), given["weight"]


def _count_weight_grad(given: dict, weight: torch.Tensor) -> tuple[int, torch.Tensor]:
    return _count_conv(given["small"], weight), weight


def _count_fused(given: dict, results) -> tuple[int, torch.Tensor]:
    return (_count_up if given["transposed"] else _count_down)(given, results[0])


def _count_lstm(given: dict, results) -> tuple[int, torch.Tensor]:
    """Count two convolutions per time step, of the input and of the previous state; both keep the size."""
    return sum(_count_conv(given["x"], given[name]) for name in ("weight_ih", "weight_hh")), given["weight_hh"]


def _count_lstm_backward(given: dict, results) -> tuple[int, torch.Tensor]:
    """Count the passes in `wanted`, and the state's data gradient, which every previous time step needs."""
    wanted = given["wanted"]
    passes = {"weight_ih": wanted[0] + wanted[3], "weight_hh": 1 + wanted[4]}
    return sum(count * _count_conv(given["x"], given[name]) for name, count in passes.items()), given["weight_hh"]


_CONVOLUTIONS: dict[str, Callable[[dict, Any], tuple[int, torch.Tensor]]] = {
    "fastvgan::conv_up": _count_up,
    "fastvgan::conv_down": _count_down,
    "fastvgan::conv_weight_grad": _count_weight_grad,
    "fastvgan::fused_conv": _count_fused,
    "fastvgan::conv_lstm": _count_lstm,
    "fastvgan::conv_lstm_forward": _count_lstm,
    "fastvgan::conv_lstm_backward": _count_lstm_backward,
}


def make_runner(config: RunConfig, device: torch.device, dtype: torch.dtype, parallel=None):
    """Build a configuration's step as the command runs it, on the captioned digits.

    Args:
        config: the configuration; its batch size counts all processes.
        device: the device of the step.
        dtype: the dtype of autocast; float32 for none.
        parallel: the processes that share the step; by default only this one.

    Returns:
        The `StepRunner`, to be called with the step's number, and the `AdversarialStep` it runs.
    """
    source = open_source(config.data, config.model, device)
    model, training = add_vocabulary(config.model, source), config.training
    step = AdversarialStep(model, training, device, dtype, parallel)
    conditions = Conditions(model, source, device)
    wrong, total = training.wrong_conditions if training.matching_aware else 0, training.batch_size
    rows = (parallel or Parallel()).rows(total, training.accumulate)
    maker = BatchMaker(conditions, step.generator, source, training.seed, wrong, rows, total, device)
    return StepRunner(step, maker, training.cuda_graphs), step


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """Return the configuration with this batch size and without CUDA graphs."""
    training = config.training.model_copy(update={"batch_size": batch, "cuda_graphs": "off"})
    return config.model_copy(update={"training": training})


def trace_cost(config: RunConfig, batch: int, dtype: torch.dtype = torch.bfloat16) -> StepCost:
    """Count the cost of a step without gradient penalty on exactly `batch` clips, by running it on the CPU.

    It uses the reference implementation, whose operations depend neither on the machine nor on sizes.
    """
    runner, step = make_runner(with_batch(config, batch), CPU, dtype)
    first = next(
        number for number in itertools.count() if not any(map(step.has_gradient_penalty, (number, number + 1)))
    )
    with use_implementation("reference"), Tracer() as tracer:
        runner(first)  # creates the gradients that every later step finds
        tracer.restart()
        runner(first + 1)
        work = tracer.work
    return StepCost(batch, work, _count_fixed(step))


def _count_fixed(step: AdversarialStep) -> Fixed:
    networks = step.generator, step.discriminator
    parameters = [list(network.parameters()) for network in networks]
    held = [x for network in (*networks, step.ema) for x in (*network.parameters(), *network.buffers())]
    for update in (step.g_update, step.d_update):
        held += [slot for slots in update.optimizer.state.values() for slot in slots.values()]
    trained = list(itertools.chain(*parameters))
    return Fixed(
        parameters=tuple(sum(p.numel() for p in group) for group in parameters),
        state=sum(x.numel() * x.element_size() for x in held),
        gradients=sum(p.numel() * p.element_size() for p in trained),
        copies=sum(2 * p.numel() for p in trained if p.dim() >= 3),
    )


def count_cost(config: RunConfig, batch: int, dtype: torch.dtype = torch.bfloat16) -> StepCost:
    """Return the cost of a step of `batch` clips, linearly extrapolated from two small batches if it is large.

    Raises:
        ValueError: the steps on the two small batches run different operations.
    """
    small = 2 * count_starts(config.model)  # pairs of clips share a condition; all together they show every frame
    if batch <= 2 * small:
        return trace_cost(config, batch, dtype)
    first, second = (trace_cost(config, size, dtype) for size in (small, 2 * small))
    if [work.name for work in first.work] != [work.name for work in second.work]:
        raise ValueError(f"steps of {small} and {2 * small} clips run different operations")
    share = batch / small - 1

    def extrapolate(one: Work, two: Work) -> Work:
        pairs = ((one.flops, two.flops), (one.bytes, two.bytes), (one.live, two.live))
        flops, moved, live = (round(a + share * (b - a)) for a, b in pairs)
        return Work(one.name, flops, moved, one.channels, live)

    return StepCost(batch, list(map(extrapolate, first.work, second.work)), first.fixed)


def table(presets: Sequence[str]) -> list[str]:
    """Format a table of each preset's step in bfloat16 with the preset's batch, without gradient penalty."""
    rows = [("preset", "batch", "GFLOP", "MB moved", "batch norms", "gradients MB", "state MB", "activations MB")]
    for name in presets:
        cost = count_cost(PRESETS[name], PRESETS[name].training.batch_size)
        counts = f"{cost.flops / 1e9:,.0f}", f"{cost.bytes / 1e6:,.0f}", str(cost.norms)
        held = f"{cost.fixed.gradients / 1e6:.1f}", f"{cost.fixed.state / 1e6:.0f}", f"{cost.peak / 1e6:.0f}"
        rows.append((name, str(cost.batch), *counts, *held))
    return format_table(rows, range(1, 8))


def main() -> int:
    parser = argparse.ArgumentParser(description="Print what a training step of presets costs.")
    default = ["digits", "digits-conv3d", "digits-64", "reference", "clips", "clips-64"]
    parser.add_argument("--presets", nargs="+", default=default, choices=PRESETS)
    print("\n".join(table(parser.parse_args().presets)))
    return 0


if __name__ == "__main__":
    run_command(main)
