"""Batches on the device before they are needed."""

import queue
import threading
from collections.abc import Generator, Iterator

import torch

from fastvgan.data.source import Clips

_AHEAD = 2  # batches on the device beside the one in use


def feed(batches: Iterator[Clips], device: torch.device) -> Generator[Clips, None, None]:
    """The same batches with their clips on the device, uint8 (N, T, H, W, C); conditions stay on the host.

    For a GPU a thread takes the batches, copies them through two page-locked buffers on a stream of its own, and is two
    batches ahead; the current stream waits for a batch's copy, the host does not. Elsewhere they come as they are.

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

    def __init__(self, batches: Iterator[Clips], device: torch.device):
        self._batches, self._device = batches, device
        self._ready: queue.Queue = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._stream = torch.cuda.Stream(device)
        self._buffers: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def all(self) -> Generator[Clips, None, None]:
        self._thread.start()
        try:
            while True:
                item = self._ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                clips, copied = item
                current = torch.cuda.current_stream(self._device)
                current.wait_event(copied)
                # The allocator must not give the memory away while this stream still reads it.
                clips.video.record_stream(current)
                yield clips
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        # Decoders that work on the GPU do so on this stream too.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            try:
                for number, clips in enumerate(self._batches):
                    video = self._copied(clips.video, number)
                    done = torch.cuda.Event()
                    done.record(self._stream)
                    if not self._put((clips._replace(video=video), done)):
                        return
                self._put(None)
            except BaseException as error:  # raised again where the batch is asked for
                self._put(error)
            finally:
                _close(self._batches)

    def _copied(self, video: torch.Tensor, number: int) -> torch.Tensor:
        if video.device.type == "cuda":
            return video
        if len(self._buffers) < 2:
            self._buffers.append((torch.empty_like(video, pin_memory=True), torch.cuda.Event()))
        pinned, free = self._buffers[number % 2]
        free.synchronize()
        pinned.copy_(video)
        on_device = pinned.to(self._device, non_blocking=True)
        free.record(self._stream)
        return on_device

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
    if hasattr(batches, "close"):
        batches.close()
