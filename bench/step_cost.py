"""What one train step of any configuration costs, counted by running it: operations, bytes, memory and collectives.

The step is the trainer's own, run on the CPU on two small batches. Each operation's counts are affine in the batch, so
two batches give those of any other.
"""

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from variants import implementation

from fastvgan.data import open_source
from fastvgan.models.discriminators import frame_stride
from fastvgan.runs.config import RunConfig
from fastvgan.training.batches import BatchMaker
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.graphs import StepRunner

CPU = torch.device("cpu")
_NORMS = ("fastvgan::norm_act", "fastvgan::norm_act_tracked", "fastvgan::norm_act_backward")
_DDP_FIRST, _DDP_BUCKET = 2**20, 25 * 2**20  # bytes, the defaults of DistributedDataParallel


@dataclass(frozen=True)
class Work:
    """One operation of a step.

    flops: of its products. bytes: of its arguments and results; 0 where it only allocates or gives a view. channels: on
    either side of its products, () where it is no convolution. live: bytes alive after it of what the step made.
    """

    name: str
    flops: int
    bytes: int
    channels: tuple[int, ...]
    live: int


@dataclass(frozen=True)
class Fixed:
    """What a step holds and exchanges whatever its batch is.

    parameters: how many numbers are trained, of G and of D. state: bytes of weights, buffers, moments and the average.
    gradients: bytes of both networks' gradients. copies: bytes of the convolutions' weights in a 16-bit dtype.
    """

    parameters: tuple[int, int]
    state: int
    gradients: int
    copies: int

    @property
    def buckets(self) -> int:
        """About how many all-reduces of gradients a step has: DistributedDataParallel never cuts a parameter."""
        return sum(1 + max(0, math.ceil((4 * count - _DDP_FIRST) / _DDP_BUCKET)) for count in self.parameters)


@dataclass(frozen=True)
class StepCost:
    """What a step of `batch` clips on one device costs; `work` is its operations in order."""

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
        """How many operations compute or copy something."""
        return sum(work.bytes > 0 for work in self.work)

    @property
    def norms(self) -> int:
        """How many batch norms run, forward and backward; across processes each of these is one collective."""
        return sum(work.name in _NORMS for work in self.work)

    @property
    def peak(self) -> int:
        """Bytes held at the worst moment above what is held between steps."""
        return max(work.live for work in self.work)


class Tracer(TorchDispatchMode):
    """Records every operation, and the memory of those results that are alive.

    What an operation allocates and frees within itself is not seen.
    """

    def __init__(self):
        super().__init__()
        self.work: list[Work] = []
        self.live = 0
        self._seen: weakref.WeakSet = weakref.WeakSet()

    def restart(self) -> None:
        """Forget the operations, and count memory from what is alive now."""
        self.work, self.live = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        made = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        for tensor in made:
            self._hold(tensor.untyped_storage())
        moved = 0 if _is_free(function, given, made) else sum(x.numel() * x.element_size() for x in (*given, *made))
        flops, channels = products(function, args, kwargs, results)
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
    """Whether an operation only allocates, or gives views of what it was given."""
    schema = function._schema
    if schema.name.startswith("profiler::") or "empty" in schema.name:
        return True
    if schema.is_mutable:
        return False
    there = {x.untyped_storage().data_ptr() for x in given}
    return bool(made) and all(x.untyped_storage().data_ptr() in there for x in made)


def products(function, args: tuple, kwargs: dict[str, Any], results) -> tuple[int, tuple[int, ...]]:
    """FLOPs of one operation, and the channels on either side where it is one of the package's convolutions.

    A product and its sum are two FLOPs, and products with padding count, as in `torch.utils.flop_counter`, whose
    formulas serve for torch's own operations. An operation without products has none.
    """
    name = function._schema.name
    if name in _CONVOLUTIONS:
        named = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
        flops, weight = _CONVOLUTIONS[name](named, results)
        return flops, tuple(weight.shape[:2])
    formula = flop_registry.get(function.overloadpacket)
    return (int(formula(*args, **kwargs, out_val=results)) if formula else 0), ()


def _conv(small: torch.Tensor, weight: torch.Tensor) -> int:
    """The cost of one pass of a convolution whose small side is `small`, forward or either gradient."""
    return 2 * small.shape[0] * math.prod(small.shape[2:]) * weight.numel()


def _up(given: dict, y: torch.Tensor) -> tuple[int, torch.Tensor]:
    return _conv(given["x"], given["weight"]), given["weight"]


def _down(given: dict, y: torch.Tensor) -> tuple[int, torch.Tensor]:
    return _conv(y, given["weight"]), given["weight"]


def _weight_grad(given: dict, weight: torch.Tensor) -> tuple[int, torch.Tensor]:
    return _conv(given["small"], weight), weight


def _fused(given: dict, results) -> tuple[int, torch.Tensor]:
    return (_up if given["transposed"] else _down)(given, results[0])


def _lstm(given: dict, results) -> tuple[int, torch.Tensor]:
    """Two convolutions a time step that keep the size: of the input and of the state before."""
    return sum(_conv(given["x"], given[name]) for name in ("weight_ih", "weight_hh")), given["weight_hh"]


def _lstm_backward(given: dict, results) -> tuple[int, torch.Tensor]:
    """As `wanted` says; the state's data gradient is always needed, to go from one time step to the one before."""
    wanted = given["wanted"]
    passes = {"weight_ih": wanted[0] + wanted[3], "weight_hh": 1 + wanted[4]}
    return sum(count * _conv(given["x"], given[name]) for name, count in passes.items()), given["weight_hh"]


_CONVOLUTIONS: dict[str, Callable[[dict, Any], tuple[int, torch.Tensor]]] = {
    "fastvgan::conv_up": _up,
    "fastvgan::conv_down": _down,
    "fastvgan::conv_weight_grad": _weight_grad,
    "fastvgan::fused_conv": _fused,
    "fastvgan::conv_lstm": _lstm,
    "fastvgan::conv_lstm_forward": _lstm,
    "fastvgan::conv_lstm_backward": _lstm_backward,
}


def make_runner(config: RunConfig, device: torch.device, dtype: torch.dtype, parallel=None):
    """A configuration's step as the command runs it on the captioned digits, which have any size and draw themselves.

    Args:
        config: its batch is of all processes together. dtype: of autocast; float32 for none.
        parallel: the processes that share the step, by default this one alone.

    Returns:
        The `StepRunner`, to be called with the step's number, and the `AdversarialStep` it runs.
    """
    source = open_source(config.data, config.model, device)
    model, training = add_vocabulary(config.model, source), config.training
    step = AdversarialStep(model, training, device, dtype, parallel)
    conditions = Conditions(model, source, device)
    wrong, total = training.wrong_conditions if training.matching_aware else 0, training.batch_size
    rows = parallel.rows(total) if parallel else slice(0, total)
    maker = BatchMaker(conditions, step.generator, source, training.seed, wrong, rows, total, device)
    return StepRunner(step, maker, training.cuda_graphs), step


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """The configuration with batches of so many clips, without CUDA graphs."""
    training = config.training.model_copy(update={"batch_size": batch, "cuda_graphs": "off"})
    return config.model_copy(update={"training": training})


def count(config: RunConfig, batch: int, dtype: torch.dtype = torch.bfloat16) -> StepCost:
    """What a step without gradient penalty costs on exactly `batch` clips, by running it on the CPU.

    It runs by the reference implementation, whose operations depend neither on the machine nor on sizes.
    """
    runner, step = make_runner(with_batch(config, batch), CPU, dtype)
    first = next(
        number for number in itertools.count() if not any(map(step.has_gradient_penalty, (number, number + 1)))
    )
    with implementation("reference"), Tracer() as tracer:
        runner(first)  # leaves gradients behind, as every later step finds them
        tracer.restart()
        runner(first + 1)
        work = tracer.work
    return StepCost(batch, work, _fixed(step))


def _fixed(step: AdversarialStep) -> Fixed:
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


def counted(config: RunConfig, batch: int, dtype: torch.dtype = torch.bfloat16) -> StepCost:
    """What a step of `batch` clips costs, extended in a straight line from two small batches where it is a large one.

    Raises:
        ValueError: the two steps run different operations, so that there is no line to extend.
    """
    small = 2 * frame_stride(config.model)  # pairs of clips share a condition; all together they show every frame
    if batch <= 2 * small:
        return count(config, batch, dtype)
    first, second = (count(config, size, dtype) for size in (small, 2 * small))
    if [work.name for work in first.work] != [work.name for work in second.work]:
        raise ValueError(f"steps of {small} and {2 * small} clips run different operations")
    share = batch / small - 1

    def extended(one: Work, two: Work) -> Work:
        pairs = ((one.flops, two.flops), (one.bytes, two.bytes), (one.live, two.live))
        flops, moved, live = (round(a + share * (b - a)) for a, b in pairs)
        return Work(one.name, flops, moved, one.channels, live)

    return StepCost(batch, list(map(extended, first.work, second.work)), first.fixed)
