"""Several processes that train together, as torchrun starts them: one for each device, or each share of a CPU.

Each holds both networks and takes its rows of every batch, and DistributedDataParallel averages the gradients. The
networks are small beside their activations, which are not sharded by FSDP or its like: there is nothing to gain by it.
"""

import contextlib
import datetime
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastvgan.errors import UserError
from fastvgan.layers import sync_batch_norm

_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"  # till 2.12
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Parallel:
    """This process among those that train together; a single one by default.

    Args:
        rank, world_size: which process this is, of how many. device: what it computes on. timeout: seconds after which
            a collective that does not end is an error: later than the watchdog's, which says more.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: torch.device | None = None, timeout: float = 1800):
        self.rank, self.world_size = rank, world_size
        self.norms = self._control = self._vote = None
        if world_size == 1:
            return
        backend = "cpu:gloo,cuda:nccl" if device is not None and device.type == "cuda" else "gloo"
        patience = datetime.timedelta(seconds=timeout) if timeout else None
        dist.init_process_group(backend, timeout=patience)
        # Batch norms have a group of their own, so that their sums never wait behind a bucket of gradients.
        self.norms = dist.new_group(timeout=patience)
        self._control = dist.new_group(backend="gloo", timeout=patience)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the others."""
        if self.world_size > 1:
            dist.destroy_process_group()

    def wrap(self, network: nn.Module) -> "Averaged":
        """The network as training calls it: see `Averaged`."""
        if self.world_size > 1:
            sync_batch_norm(network, self.norms)
        return Averaged(network, self.world_size > 1)

    def rows(self, total: int) -> slice:
        """Which of `total` clips of a batch are this process's."""
        each = total // self.world_size
        return slice(self.rank * each, (self.rank + 1) * each)

    def any(self, flag: torch.Tensor) -> torch.Tensor:
        """The largest of all processes' flags, in place."""
        if self.world_size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of all processes' tensors."""
        return values if self.world_size == 1 else self.sum(values.clone()) / self.world_size

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (N, ...) of all processes, one after the other; all have as many."""
        if self.world_size == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the first one's tensors, in place."""
        for tensor in tensors if self.world_size > 1 else ():
            # What goes through must be contiguous in memory, which weights in channels_last are not.
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def from_first(self, function: Callable[[], Any]) -> Any:
        """What the first process's call of the function gives, in all of them; a UserError of it likewise."""
        if self.world_size == 1:
            return function()
        made = [None]
        if self.first:
            try:
                made = [function()]
            except UserError as error:
                made = [error]
        dist.broadcast_object_list(made, 0, group=self._control)
        if isinstance(made[0], UserError):
            raise made[0]
        return made[0]

    def begin_vote(self, wish: int) -> None:
        """Tell the others a wish, 0 for none, and go on with other things until `vote` asks for theirs."""
        self._vote = torch.tensor(wish)
        if self.world_size > 1:
            self._work = dist.all_reduce(self._vote, dist.ReduceOp.MAX, group=self._control, async_op=True)

    def vote(self) -> int:
        """The largest of all processes' wishes, the same in each."""
        if self.world_size > 1:
            self._work.wait()
        return int(self._vote)


class Averaged:
    """A network whose gradients are averaged over all processes in the last backward pass of an update.

    Calling it with a function runs function(network, *arguments), of which backward passes are averaged unless it is
    called, and they are run, within `alone`.
    """

    def __init__(self, network: nn.Module, distributed: bool):
        self._calls = _Calls(network)
        if distributed:
            # Norms' running statistics are the same everywhere already, being synchronised.
            self._calls = DistributedDataParallel(self._calls, gradient_as_bucket_view=True, **{_BUFFERS: False})

    def __call__(self, function: Callable, *arguments):
        return self._calls(function, *arguments)

    def alone(self, really: bool = True) -> contextlib.AbstractContextManager:
        """Within it, unless not `really`, gradients are added up in this process, to be averaged with the next ones."""
        if really and isinstance(self._calls, DistributedDataParallel):
            return self._calls.no_sync()
        return contextlib.nullcontext()


class _Calls(nn.Module):
    """DistributedDataParallel watches what goes through a forward; here that is any function of a network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, function, *arguments):
        return function(self.network, *arguments)


def local_rank() -> int:
    """Which of this machine's processes this is, and so which of its GPUs it takes; 0 for a single process."""
    return _number("LOCAL_RANK", 0)


def world() -> tuple[int, int]:
    """(rank, world_size), as torchrun puts them into the environment; (0, 1) without it.

    Raises:
        UserError: the environment says that there are several, and not what connecting to them takes.
    """
    size = _number("WORLD_SIZE", 1)
    missing = [name for name in _VARIABLES if name not in os.environ]
    if size > 1 and missing:
        raise UserError(
            f"WORLD_SIZE is {size}, but {' and '.join(missing)} is not set; start several processes by torchrun, "
            "or unset WORLD_SIZE"
        )
    return (_number("RANK", 0), size) if size > 1 else (0, 1)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdigit():
        raise UserError(f"the environment variable {name} must be a number, not {text!r}; torchrun sets it")
    return int(text) if text else otherwise
