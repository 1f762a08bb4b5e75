"""One DALI pipeline: a list of batches of draws in, checked frames out."""

import itertools
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from fastvgan.data.media.types import Probe, cover
from fastvgan.data.readers import ClipSet
from fastvgan.data.sampling import Draw

_DEPTH = 2  # batches that DALI makes ahead
_ONE_SAMPLE_A_LINE = 1 << 30  # a step beyond any clip's length


class Failed(Exception):
    """DALI gave no frames, or other frames than were asked for; its pipeline is of no more use.

    clips: those known to be the cause; empty where DALI does not say.
    """

    def __init__(self, reason: str, clips: set[int] = frozenset()):
        super().__init__(reason)
        self.clips = set(clips)


class Pipeline:
    """Decodes batches of draws in order.

    DALI shuffles nothing: its file list has a line for each sample, so that the draws alone say what is decoded.

    Args:
        batches: draws, as many in each. device: index of the CUDA device, or None for the CPU. threads: that scale.
            folder: takes the file list, and links under names without the blanks at which DALI splits its lines.
    """

    def __init__(
        self, clips: ClipSet, batches: Sequence[Sequence[Draw]], device: int | None, threads: int, folder: Path
    ):
        self._clips, self._batches, self._device = clips, batches, device
        self._cut, self._found = clips.sampler.cut, clips.found
        self._place, self._scheduled = 0, 0
        self._held: deque = deque()  # outputs that a copy on the GPU may still be reading
        self._dali, self._failure = None, None
        draws = list(itertools.chain.from_iterable(batches))
        self._stride = _common_stride(draws)
        self._length = self._cut.frames if self._stride else max(d.indices[-1] - d.indices[0] + 1 for d in draws)
        self._file_list = _write_list(clips, draws, folder)
        try:
            self._dali = self._build(threads)
            self._dali.schedule_run()  # the first call fills the queue
            self._scheduled = _DEPTH
        except RuntimeError as error:
            self._failure = _said(error)

    def next(self) -> torch.Tensor:
        """The next batch, uint8 (N, T, H, W, C).

        Raises:
            Failed: it cannot be had, or is not what was asked for.
        """
        if self._failure:
            raise Failed(self._failure)
        draws = self._batches[self._place]
        try:
            outputs = self._dali.share_outputs()
            self._dali.release_outputs()  # this says that they were fetched; they live as long as they are referred to
            video, labels, numbers, times = outputs
            self._check(draws, *(_on_host(values) for values in (labels, numbers, times)))
            copied = self._copy(video)
            self._place += 1
            if self._scheduled < len(self._batches):  # no more: DALI would begin the list again
                self._dali.schedule_run()
                self._scheduled += 1
        except (RuntimeError, ValueError) as error:  # the latter of outputs of uneven length
            self._failure = _said(error)
            raise Failed(self._failure) from error
        return copied

    def close(self) -> None:
        """Free what DALI holds; waits for what it is decoding."""
        while self._held:
            self._held.popleft()[0].synchronize()
        self._dali = None
        self._file_list.unlink(missing_ok=True)

    def _build(self, threads: int):
        from nvidia import dali
        from nvidia.dali import fn, types

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
            video, labels, numbers, times = fn.experimental.readers.video(
                device=kind,
                file_list=str(self._file_list),
                file_list_format="frames",
                sequence_length=self._length,
                stride=self._stride or 1,
                step=_ONE_SAMPLE_A_LINE,
                pad_mode="edge",
                enable_frame_num="sequence",
                enable_timestamps=True,
                lazy_init=True,  # opening files in the constructor would hold Python's lock all the while
            )
            if not self._stride:
                video = fn.sequence_rearrange(video, new_order=self._each(fn, self._order, np.int32))
            # Cropping and mirroring cost nothing where only the region that is kept is scaled.
            video = fn.resize(
                video,
                size=[self._cut.height, self._cut.width],
                roi_start=self._each(fn, lambda draw: self._region(draw)[0], np.float32),
                roi_end=self._each(fn, lambda draw: self._region(draw)[1], np.float32),
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            if self._cut.channels == 1:
                video = fn.color_space_conversion(video, image_type=types.RGB, output_type=types.GRAY)
            pipeline.set_outputs(video, labels, numbers, times)
        pipeline.build()
        return pipeline

    def _each(self, fn, value, dtype):
        """A node that gives value(draw) for each sample."""
        arrays = [np.array([value(draw) for draw in draws], dtype) for draws in self._batches]
        return fn.external_source(source=arrays, batch=True, cycle=True)

    def _order(self, draw: Draw) -> list[int]:
        """Which of the decoded frames, all from the first to the last, are wanted."""
        return [index - draw.indices[0] for index in draw.indices]

    def _region(self, draw: Draw) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the crop begins and ends, in rows and columns of the frame as stored; from right to left mirrors."""
        shown = self._found[draw.clip].height, self._found[draw.clip].width
        height, width = self._cut.height, self._cut.width
        size = cover(shown, height, width)
        top, left = draw.offsets(size, height, width)
        rows, columns = shown[0] / size[0], shown[1] / size[1]
        begin, end = (left * columns, (left + width) * columns)[:: -1 if draw.mirror else 1]
        return (top * rows, begin), ((top + height) * rows, end)

    def _check(self, draws: Sequence[Draw], labels: np.ndarray, numbers: np.ndarray, times: np.ndarray) -> None:
        """Refuse frames of other lines than ours, other numbers, or other times than those numbers have."""
        first = self._place * len(draws)
        for i, draw in enumerate(draws):
            found = self._found[draw.clip]
            wanted = self._wanted(draw)
            if labels[i] != first + i:  # unreadable files are left out, and the next line takes their place
                raise Failed("DALI cannot open it", {draw.clip})
            if not np.array_equal(numbers[i], wanted):
                raise Failed("DALI does not find its frames", {draw.clip})
            # DALI counts packets, some of which hold no frame to be shown; only times tell those from each other.
            if not _at_their_time(found, wanted, times[i]):
                raise Failed("DALI counts its frames otherwise", {draw.clip})

    def _wanted(self, draw: Draw) -> np.ndarray:
        if self._stride:
            return np.array(draw.indices)
        return np.minimum(draw.indices[0] + np.arange(self._length), draw.indices[-1])

    def _copy(self, video) -> torch.Tensor:
        shape = video.as_tensor().shape()
        if self._device is None:
            return torch.from_numpy(video.as_array().copy()).view(*shape)
        from nvidia.dali.plugin.pytorch import feed_ndarray

        copied = torch.empty(*shape, dtype=torch.uint8, device=f"cuda:{self._device}")
        stream = torch.cuda.current_stream(self._device)
        feed_ndarray(video, copied, cuda_stream=stream)
        # DALI frees its buffer on a stream of its own, which does not wait for this copy.
        self._held.append((stream.record_event(), video))
        while len(self._held) > _DEPTH:
            self._held.popleft()[0].synchronize()
        return copied


def _common_stride(draws: Sequence[Draw]) -> int:
    """The stride that all draws have, or 0 where they differ: then all frames are decoded, and those wanted picked."""
    stride = max((b - a for draw in draws for a, b in itertools.pairwise(draw.indices)), default=0)
    # Where a clip is too short, the last frame is held; DALI does the same, from the end that the list gives.
    return stride if stride and all(draw.indices == _held(draw, stride) for draw in draws) else 0


def _held(draw: Draw, stride: int) -> tuple[int, ...]:
    first, last = draw.indices[0], draw.indices[-1]
    return tuple(min(first + i * stride, last) for i in range(len(draw.indices)))


def _write_list(clips: ClipSet, draws: Sequence[Draw], folder: Path) -> Path:
    """A line for each draw: path, place in the list, first frame, end of the frames."""
    lines = []
    for place, draw in enumerate(draws):
        link = folder / f"clip{draw.clip}"
        with suppress(FileExistsError):
            link.symlink_to(Path(clips.media[draw.clip].path).absolute())
        lines.append(f"{link} {place} {draw.indices[0]} {draw.indices[-1] + 1}\n")
    # Pipelines live side by side, so each has a list of its own.
    with tempfile.NamedTemporaryFile("w", prefix="list", dir=folder, delete=False) as file:
        file.writelines(lines)
    return Path(file.name)


def _at_their_time(found: Probe, indices: np.ndarray, times: np.ndarray) -> bool:
    """Whether frames have the times, in seconds from the first one, that full decoding found, but for half a frame."""
    if found.frames < 2:
        return True
    seconds = (found.frames - 1) / found.fps / (found.pts[-1] - found.pts[0])  # a unit of pts
    wanted = (found.pts[indices] - found.pts[0]) * seconds
    rounding = wanted * 0.001 / found.fps  # fps is known to three decimals
    return bool(np.all(np.abs(times - wanted) <= 0.5 / found.fps + rounding))


def _on_host(values) -> np.ndarray:
    """The small outputs, which the GPU's reader may leave on the GPU."""
    return np.array(values.as_cpu().as_array()).reshape(len(values), -1)


def _said(error: Exception) -> str:
    """What DALI complains of, without where in its sources."""
    text = str(error)
    lines = [line.strip() for line in text.partition("encountered:")[2].splitlines() if line.strip()]
    return f"DALI failed: {lines[0] if lines else text.strip().splitlines()[-1]}"
