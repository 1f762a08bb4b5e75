"""A DALI pipeline that decodes a list of batches of draws and checks the frames."""

import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from fastvgan.data.media.types import Probe, cover
from fastvgan.data.readers import ClipSet
from fastvgan.data.sampling import Draw

if TYPE_CHECKING:
    from nvidia import dali

_DEPTH = 2  # batches that DALI prefetches
_ONE_SAMPLE_PER_LINE = 1 << 30  # a step beyond the length of any clip


class DaliError(Exception):
    """DALI returned no frames, or not the requested ones. The pipeline cannot be used any more.

    Args:
        reason: What went wrong.
        clips: Indices of the clips that caused the error; empty if unknown.
    """

    def __init__(self, reason: str, clips: Iterable[int] = ()):
        super().__init__(reason)
        self.clips = set(clips)


class Pipeline:
    """Decodes batches of draws in order.

    DALI itself shuffles nothing: its file list has one line per sample, in the order of the draws.

    Args:
        clips: The set.
        batches: Draws of each batch, all of one size.
        device: Index of the CUDA device, or None for the CPU.
        threads: Number of scaling threads.
        folder: Receives the file list, and links to the clips without blanks in their names: DALI splits lines there.
    """

    def __init__(
        self, clips: ClipSet, batches: Sequence[Sequence[Draw]], device: int | None, threads: int, folder: Path
    ):
        self._clips, self._batches, self._device = clips, batches, device
        self._cut, self._found = clips.sampler.cut, clips.found
        self._place, self._scheduled = 0, 0
        # Outputs that a copy on the GPU may still be reading, and the event after the copy.
        self._copying: deque[tuple[torch.Event, Any]] = deque()
        self._dali: dali.Pipeline | None = None
        self._failure: str | None = None
        draws = list(itertools.chain.from_iterable(batches))
        self._stride = _common_stride(draws)
        self._length = self._cut.frames if self._stride else max(d.indices[-1] - d.indices[0] + 1 for d in draws)
        self._file_list = _write_list(clips, draws, folder)
        try:
            self._dali = self._build(threads)
            self._dali.schedule_run()  # the first call fills the queue
            self._scheduled = _DEPTH
        except RuntimeError as error:
            self._failure = _summarize(error)

    def next(self) -> torch.Tensor:
        """Return the next batch, uint8 (N, T, H, W, C).

        Raises:
            DaliError: DALI failed, or its frames are not the requested ones.
        """
        if self._failure or self._dali is None:
            raise DaliError(self._failure or "the pipeline is closed")
        draws = self._batches[self._place]
        try:
            outputs = self._dali.share_outputs()
            self._dali.release_outputs()  # marks them as fetched; they are freed with the last reference
            video, labels, numbers, times = cast(tuple[Any, ...], outputs)  # DALI's stub promises None
            self._check(draws, *(_to_numpy(values) for values in (labels, numbers, times)))
            copied = self._copy(video)
            self._place += 1
            if self._scheduled < len(self._batches):  # beyond them, DALI would start the list again
                self._dali.schedule_run()
                self._scheduled += 1
        except (RuntimeError, ValueError) as error:  # ValueError: outputs of uneven length
            self._failure = _summarize(error)
            raise DaliError(self._failure) from error
        return copied

    def close(self) -> None:
        """Wait for DALI's running work and free its memory."""
        while self._copying:
            self._copying.popleft()[0].synchronize()
        self._dali = None
        self._file_list.unlink(missing_ok=True)

    def _build(self, threads: int) -> "dali.Pipeline":
        from nvidia import dali
        from nvidia.dali import fn, types

        operators: Any = fn  # whose stubs return None or a single node
        kind = "cpu" if self._device is None else "gpu"
        pipeline = dali.Pipeline(
            batch_size=len(self._batches[0]),
            num_threads=threads,
            device_id=self._device,
            seed=0,
            exec_dynamic=True,
            prefetch_queue_depth=_DEPTH,
        )
        with pipeline:
            video, labels, numbers, times = operators.experimental.readers.video(
                device=kind,
                file_list=str(self._file_list),
                file_list_format="frames",
                sequence_length=self._length,
                stride=self._stride or 1,
                step=_ONE_SAMPLE_PER_LINE,
                pad_mode="edge",
                enable_frame_num="sequence",
                enable_timestamps=True,
                lazy_init=True,  # the constructor would hold Python's lock while it opens the files
            )
            if not self._stride or self._cut.reverse:
                video = operators.sequence_rearrange(video, new_order=self._per_sample(self._order, np.int32))
            # Cropping and mirroring cost nothing: only the region that is kept is scaled.
            video = operators.resize(
                video,
                size=[self._cut.height, self._cut.width],
                roi_start=self._per_sample(lambda draw: self._region(draw)[0], np.float32),
                roi_end=self._per_sample(lambda draw: self._region(draw)[1], np.float32),
                interp_type=types.DALIInterpType.INTERP_CUBIC,
                antialias=True,
            )
            if self._cut.channels == 1:
                kinds = types.DALIImageType
                video = operators.color_space_conversion(video, image_type=kinds.RGB, output_type=kinds.GRAY)
            pipeline.set_outputs(video, labels, numbers, times)
        pipeline.build()
        return pipeline

    def _per_sample(self, value: Callable[[Draw], Sequence[float]], dtype: type[np.number]) -> Any:
        """Make a node that returns value(draw) for each sample."""
        from nvidia.dali import fn

        arrays = [np.array([value(draw) for draw in draws], dtype) for draws in self._batches]
        return fn.external_source(source=arrays, batch=True, cycle=True)

    def _order(self, draw: Draw) -> list[int]:
        """Return the decoded frames to show, in order."""
        order = list(range(len(draw.indices))) if self._stride else _relative_indices(draw)
        return order[::-1] if draw.reverse else order

    def _region(self, draw: Draw) -> tuple[tuple[float, float], tuple[float, float]]:
        """First and last corner (row, column) of the crop in the stored frame; right before left mirrors."""
        shown = self._found[draw.clip].height, self._found[draw.clip].width
        height, width = self._cut.height, self._cut.width
        size = cover(shown, height, width)
        top, left = draw.offsets(size, height, width)
        rows, columns = shown[0] / size[0], shown[1] / size[1]
        begin, end = (left * columns, (left + width) * columns)[:: -1 if draw.mirror else 1]
        return (top * rows, begin), ((top + height) * rows, end)

    def _check(self, draws: Sequence[Draw], labels: np.ndarray, numbers: np.ndarray, times: np.ndarray) -> None:
        """Refuse frames of other lines of the file list, or with other numbers or times than the draws'."""
        first = self._place * len(draws)
        for i, draw in enumerate(draws):
            found = self._found[draw.clip]
            indices = self._indices_to_decode(draw)
            if labels[i] != first + i:  # DALI skips unreadable files without an error
                raise DaliError("DALI cannot open it", {draw.clip})
            if not np.array_equal(numbers[i], indices):
                raise DaliError("DALI does not find its frames", {draw.clip})
            # DALI counts packets, and some packets hold no visible frame. Only the times show it.
            if not _have_their_times(found, indices, times[i]):
                raise DaliError("DALI numbers its frames differently", {draw.clip})

    def _indices_to_decode(self, draw: Draw) -> np.ndarray:
        if self._stride:
            return np.array(draw.indices)
        return np.minimum(draw.indices[0] + np.arange(self._length), draw.indices[-1])

    def _copy(self, video: Any) -> torch.Tensor:
        shape = video.as_tensor().shape()
        if self._device is None:
            return torch.from_numpy(video.as_array().copy()).view(*shape)
        from nvidia.dali.plugin.pytorch import feed_ndarray

        copied = torch.empty(*shape, dtype=torch.uint8, device=f"cuda:{self._device}")
        stream = torch.cuda.current_stream(self._device)
        feed_ndarray(video, copied, cuda_stream=stream)
        # DALI frees its buffer on another stream, which does not wait for this copy.
        self._copying.append((stream.record_event(), video))
        while len(self._copying) > _DEPTH:
            self._copying.popleft()[0].synchronize()
        return copied


def _relative_indices(draw: Draw) -> list[int]:
    """Indices into the decoded frames, which begin with the draw's first."""
    return [index - draw.indices[0] for index in draw.indices]


def _common_stride(draws: Sequence[Draw]) -> int:
    """The stride that all draws share, or 0 if they differ: then every frame in their range has to be decoded."""
    stride = max((b - a for draw in draws for a, b in itertools.pairwise(draw.indices)), default=0)
    # Draws of clips that are too short repeat the last frame; DALI's padding does the same.
    return stride if stride and all(draw.indices == _indices_at(draw, stride) for draw in draws) else 0


def _indices_at(draw: Draw, stride: int) -> tuple[int, ...]:
    first, last = draw.indices[0], draw.indices[-1]
    return tuple(min(first + i * stride, last) for i in range(len(draw.indices)))


def _write_list(clips: ClipSet, draws: Sequence[Draw], folder: Path) -> Path:
    """Write one line per draw: path, number of the line, first frame, end of the frames."""
    lines = []
    for place, draw in enumerate(draws):
        link = folder / f"clip{draw.clip}"
        with suppress(FileExistsError):
            link.symlink_to(Path(clips.media[draw.clip].path).absolute())
        lines.append(f"{link} {place} {draw.indices[0]} {draw.indices[-1] + 1}\n")
    # Several pipelines exist at a time, each with its own list.
    with tempfile.NamedTemporaryFile("w", prefix="list", dir=folder, delete=False) as file:
        file.writelines(lines)
    return Path(file.name)


def _have_their_times(found: Probe, indices: np.ndarray, times: np.ndarray) -> bool:
    """Whether times, in seconds from the first frame, are those of full decoding, to half a frame."""
    assert found.pts is not None and found.fps  # `find_obstacle` refuses other clips
    if found.frames < 2:
        return True
    seconds = (found.frames - 1) / found.fps / (found.pts[-1] - found.pts[0])  # per unit of pts
    expected = (found.pts[indices] - found.pts[0]) * seconds
    rounding = expected * 0.001 / found.fps  # fps is known to three decimals
    return bool(np.all(np.abs(times - expected) <= 0.5 / found.fps + rounding))


def _to_numpy(values: Any) -> np.ndarray:
    """Copy a small output, which DALI's GPU reader may leave on the GPU, to the host."""
    return np.array(values.as_cpu().as_array()).reshape(len(values), -1)


def _summarize(error: Exception) -> str:
    """DALI's reason, without the place in its sources."""
    text = str(error)
    lines = [line.strip() for line in text.partition("encountered:")[2].splitlines() if line.strip()]
    return f"DALI failed: {lines[0] if lines else text.strip().splitlines()[-1]}"
