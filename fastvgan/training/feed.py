"""The clips of a run's steps, on the device before they are needed."""

import itertools
import queue
import threading
from collections.abc import Generator
from contextlib import closing
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.parallel import Parallel

B = TypeVar("B", bound=NamedTuple)

_AHEAD = 2  # batches on the device beside the one in use


def read_steps(
    training: TrainingConfig, source: Source, parallel: Parallel, start: int, device: torch.device
) -> Generator[Clips | None, None, None]:
    """Yield this process's clips of step `start` and all later ones, on the device; None if the step draws its own.

    The clips are those of `Parallel.rows`: a share of each part of the batch, which the source yields as a batch.
    """
    if source.draws:
        yield from itertools.repeat(None)
    parts = training.accumulate if parallel.world_size > 1 else 1
    each = training.batch_size // (parts * parallel.world_size)
    batches = source.batches(each, training.seed, start * parts, parallel.rank, parallel.world_size)
    yield from feed(batches if parts == 1 else _join(batches, parts), device)


def next_batch(clips: Generator[Clips | None, None, None]) -> Clips | None:
    """Return the next batch of `read_steps`.

    Raises:
        UserError: the data can no longer be read.
    """
    try:
        return next(clips)
    except OSError as error:
        raise UserError(f"cannot read the data any more: {error}; fix that, then resume with --resume auto") from error


def _join(batches: Generator[Clips, None, None], count: int) -> Generator[Clips, None, None]:
    with closing(batches):
        while parts := list(itertools.islice(batches, count)):
            video, *rest = zip(*parts, strict=True)
            yield Clips(torch.cat(video), *(None if column[0] is None else torch.cat(column) for column in rest))


def feed(batches: Generator[B, None, None], device: torch.device) -> Generator[B, None, None]:
    """Yield batches with all their tensors on the device.

    For a GPU a thread prefetches two batches and copies them through two sets of page-locked buffers on a separate
    stream; the current stream waits for a batch's copy, the host does not. On a CPU batches pass unchanged.

    Closing the generator stops the thread and closes `batches`.

    Args:
        batches: named tuples with tensors of any shape among their values.
        device: the device.
    """
    if device.type == "cuda":
        yield from _Prefetcher(batches, device).all()
    else:
        yield from batches  # closes them with this generator


class _Prefetcher(Generic[B]):
    """The thread that copies batches to a GPU."""

    def __init__(self, batches: Generator[B, None, None], device: torch.device):
        self._batches, self._device = batches, device
        self._ready: queue.Queue[tuple[B, torch.cuda.Event] | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._stream = torch.cuda.Stream(device)
        self._buffers: list[tuple[dict[str, torch.Tensor], torch.cuda.Event]] = [({}, torch.cuda.Event()) for _ in "ab"]
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def all(self) -> Generator[B, None, None]:
        """Start the thread and yield its batches."""
        self._thread.start()
        try:
            while True:
                item = self._ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                batch, copied = item
                current = torch.cuda.current_stream(self._device)
                current.wait_event(copied)
                # The allocator must not reuse the memory while this stream still reads it.
                for tensor in batch:
                    if isinstance(tensor, torch.Tensor):
                        tensor.record_stream(current)
                yield batch
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        # Decoders on the GPU run on this stream, too.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            try:
                for number, batch in enumerate(self._batches):
                    batch = self._copy(batch, number)
                    done = torch.cuda.Event()
                    done.record(self._stream)
                    if not self._put((batch, done)):
                        return
                self._put(None)
            except BaseException as error:  # raised again in the consumer's thread
                self._put(error)
            finally:
                self._batches.close()

    def _copy(self, batch: B, number: int) -> B:
        pinned, free = self._buffers[number % 2]
        free.synchronize()
        moved: dict[str, Any] = {}
        for name, value in batch._asdict().items():
            if isinstance(value, torch.Tensor) and value.device.type != "cuda":
                if name not in pinned or pinned[name].shape != value.shape:
                    pinned[name] = torch.empty_like(value, pin_memory=True)
                moved[name] = pinned[name].copy_(value).to(self._device, non_blocking=True)
        free.record(self._stream)
        return batch._replace(**moved)

    def _put(self, item: tuple[B, torch.cuda.Event] | BaseException | None) -> bool:
        """Put an item into the queue; False if the consumer has stopped."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
