"""Batches on the device before they are needed."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple, TypeVar

import torch

B = TypeVar("B", bound=NamedTuple)

_AHEAD = 2  # batches on the device beside the one in use


def feed(batches: Iterator[B], device: torch.device) -> Generator[B, None, None]:
    """The same batches, named tuples, with all tensors in them on the device.

    For a GPU a thread takes the batches, copies them through two sets of page-locked buffers on a stream of its own,
    and is two batches ahead; the current stream waits for a batch's copy, the host does not. Elsewhere they come as
    they are.

    Close the generator to stop the thread.
    """
    if device.type == "cuda":
        yield from _Ahead(batches, device).all()
    else:
        try:
            yield from batches
        finally:
            _close(batches)


class _Ahead:
    """The thread that feeds a GPU."""

    def __init__(self, batches: Iterator, device: torch.device):
        self._batches, self._device = batches, device
        self._ready: queue.Queue = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._stream = torch.cuda.Stream(device)
        self._buffers: list[tuple[dict[str, torch.Tensor], torch.cuda.Event]] = [({}, torch.cuda.Event()) for _ in "ab"]
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def all(self) -> Generator:
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
                # The allocator must not give the memory away while this stream still reads it.
                for tensor in batch:
                    if isinstance(tensor, torch.Tensor):
                        tensor.record_stream(current)
                yield batch
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        # Decoders that work on the GPU do so on this stream too.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            try:
                for number, batch in enumerate(self._batches):
                    batch = self._copied(batch, number)
                    done = torch.cuda.Event()
                    done.record(self._stream)
                    if not self._put((batch, done)):
                        return
                self._put(None)
            except BaseException as error:  # raised again where the batch is asked for
                self._put(error)
            finally:
                _close(self._batches)

    def _copied(self, batch, number: int):
        pinned, free = self._buffers[number % 2]
        free.synchronize()
        moved = {}
        for name, value in batch._asdict().items():
            if isinstance(value, torch.Tensor) and value.device.type != "cuda":
                if name not in pinned or pinned[name].shape != value.shape:
                    pinned[name] = torch.empty_like(value, pin_memory=True)
                moved[name] = pinned[name].copy_(value).to(self._device, non_blocking=True)
        free.record(self._stream)
        return batch._replace(**moved)

    def _put(self, item) -> bool:
        """Hand over a batch; False where nobody wants any more."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _close(batches) -> None:
    if isinstance(batches, Generator):  # other iterators hold nothing open
        batches.close()
