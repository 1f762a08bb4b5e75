"""Data-parallel training by several processes that torchrun starts: one per device, or per share of a CPU.

Each process holds both networks and computes its rows of every batch, and DistributedDataParallel averages the
gradients. FSDP would gain nothing: the networks are small compared with their activations, which it does not shard.
"""

import contextlib
import datetime
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastvgan.errors import UserError
from fastvgan.layers import sync_batch_norm

_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"  # until torch 2.12
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
T = TypeVar("T")


class Parallel:
    """This process among those that train together; a single one by default.

    Args:
        rank: index of this process.
        world_size: number of processes.
        device: device it computes on.
        timeout: seconds after which a collective that does not end raises an error; longer than the watchdog's, whose
            message says more.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | None = None, timeout: float = 1800):
        self.rank, self.world_size = rank, world_size
        self.norms: dist.ProcessGroup | None = None
        self._control: dist.ProcessGroup | None = None
        self._vote = torch.tensor(0)
        if world_size == 1:
            return
        backend = "cpu:gloo,cuda:nccl" if device is not None and device.type == "cuda" else "gloo"
        limit = datetime.timedelta(seconds=timeout) if timeout else None
        dist.init_process_group(backend, timeout=limit)
        # Batch norms have their own group, so that their sums never wait behind a bucket of gradients.
        self.norms = _new_group(None, limit)
        self._control = _new_group("gloo", limit)

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder and logs."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            dist.destroy_process_group()

    def wrap(self, network: nn.Module) -> "DataParallelNetwork":
        """Wrap a network for training, with synchronised batch norms if there are several processes."""
        if self.world_size > 1:
            sync_batch_norm(network, self.norms)
        return DataParallelNetwork(network, self.world_size > 1)

    def rows(self, total: int, parts: int = 1) -> list[int]:
        """Return which of a batch's `total` clips this process computes: its share of each of the batch's parts."""
        each = total // (parts * self.world_size)
        starts = ((part * self.world_size + self.rank) * each for part in range(parts))
        return [row for start in starts for row in range(start, start + each)]

    def any(self, flag: torch.Tensor) -> torch.Tensor:
        """Replace flags of any shape, in place, by their maximum over all processes, and return them."""
        if self.world_size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Replace values of any shape, in place, by their sum over all processes, and return them."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over all processes of values of any shape."""
        return values if self.world_size == 1 else self.sum(values.clone()) / self.world_size

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate the rows (N, ...) of all processes, which have the same N, in the order of ranks."""
        if self.world_size == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the first process's tensors, of any shape, into those of all others."""
        for tensor in tensors if self.world_size > 1 else ():
            # dist.broadcast takes contiguous tensors only, which weights in channels_last are not.
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def run_on_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process, and return its result, or raise its UserError, in all of them."""
        if self.world_size == 1:
            return function()
        result: list[Any] = [None]
        if self.is_first:
            try:
                result = [function()]
            except UserError as error:
                result = [error]
        dist.broadcast_object_list(result, 0, group=self._control)
        if isinstance(result[0], UserError):
            raise result[0]
        return result[0]

    def begin_vote(self, wish: int) -> None:
        """Start to exchange a number with all processes, 0 for no wish; `vote` waits for the result."""
        self._vote = torch.tensor(wish)
        if self.world_size > 1:
            self._work = dist.all_reduce(self._vote, dist.ReduceOp.MAX, group=self._control, async_op=True)

    def vote(self) -> int:
        """Wait for the largest of all processes' wishes, the same in each."""
        if self.world_size > 1:
            self._work.wait()
        return int(self._vote)


class DataParallelNetwork:
    """A network whose gradients are averaged over all processes in the last backward pass of an update.

    Calling it with a function returns function(network, *arguments). Gradients are averaged in the backward pass of
    that, unless both run within `no_sync`.
    """

    def __init__(self, network: nn.Module, is_distributed: bool):
        self._calls: nn.Module = _Calls(network)
        if is_distributed:
            # Running statistics need no broadcast: synchronised norms have the same ones in all processes.
            options: dict[str, Any] = {_BUFFERS: False}
            self._calls = DistributedDataParallel(self._calls, gradient_as_bucket_view=True, **options)

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._calls(function, *arguments)

    def no_sync(self, is_enabled: bool = True) -> contextlib.AbstractContextManager[None]:
        """Accumulate gradients locally within this context if enabled, as DistributedDataParallel's `no_sync`."""
        if is_enabled and isinstance(self._calls, DistributedDataParallel):
            return self._calls.no_sync()
        return contextlib.nullcontext()


class _Calls(nn.Module):
    """Runs any function of a network as a module's forward, which DistributedDataParallel needs."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(self.network, *arguments)


def _new_group(backend: str | None, limit: datetime.timedelta | None) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend, timeout=limit)
    assert isinstance(group, dist.ProcessGroup), "this process is a member of a group of all processes"
    return group


def local_rank() -> int:
    """Return this process's index on its machine, and so that of its GPU; 0 for a single process."""
    return _number("LOCAL_RANK", 0)


def world() -> tuple[int, int]:
    """Read (rank, world_size) from the environment variables of torchrun; (0, 1) without them.

    Raises:
        UserError: there are several processes, and a variable that connecting to them needs is not set.
    """
    size = _number("WORLD_SIZE", 1)
    missing = [name for name in _VARIABLES if name not in os.environ]
    if size > 1 and missing:
        raise UserError(
            f"WORLD_SIZE is {size}, but {' and '.join(missing)} is not set; start several processes with torchrun, "
            "or unset WORLD_SIZE"
        )
    return (_number("RANK", 0), size) if size > 1 else (0, 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdigit():
        raise UserError(f"the environment variable {name} must be a number, not {text!r}; torchrun sets it")
    return int(text) if text else default
