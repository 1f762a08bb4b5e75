"""Decoder based on NVIDIA DALI: VP8, VP9, MJPEG on the CPU; H.264, HEVC, AV1, MPEG-4, VP8, VP9 on a GPU."""

import functools
import itertools
import os
import tempfile
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from fastvgan.data.decoders.dali_pipeline import DaliError, Pipeline
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.readers import ClipSet, decode_draw, decode_sample, stack_conditions, warn_once
from fastvgan.data.sampling import Draw
from fastvgan.data.source import Clips
from fastvgan.machine.optional import install_command, is_installed

# A pipeline decodes this many samples, and at least this many batches. Building one takes 0.1 ms per sample, and the
# batch that it has prefetched at its end is wasted.
_SAMPLES, _BATCHES = 2048, 32
_GIVE_UP_AFTER = 3  # failures in a row

# DALI rejects MJPEG on a GPU: "not supported by the GPU variant".
_CODECS = {"cpu": {"vp8", "vp9", "mjpeg"}, "gpu": {"vp8", "vp9", "h264", "hevc", "av1", "mpeg4"}}


def find_obstacle(clips: ClipSet, device: str) -> str | None:
    """Return why DALI does not support a set of clips on "cpu" or "gpu", or None if it does."""
    for name, media, found in zip(clips.names, clips.media, clips.found, strict=True):
        if reason := _find_clip_obstacle(media, found, device):
            return f"{name} {reason}"
    if device == "gpu" and not torch.cuda.is_available():
        return "no CUDA device is available"
    if not is_installed("nvidia.dali"):
        return f"DALI is not installed ({install_command('dali')})"
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:  # such as a missing library of CUDA
        return f"DALI cannot be imported ({error})"
    return None


def _find_clip_obstacle(media: Media, found: Probe, device: str) -> str | None:
    if media.kind != "video":
        return f'is of kind "{media.kind}"; DALI reads only video files'
    if media.member:
        return "is in a zip file, which DALI does not read"
    if not isinstance(media.path, Path):
        return "is not a local file"
    if found.codec not in _CODECS[device]:
        return f"is {found.codec}, which DALI does not decode on the {device.upper()}"
    if device == "cpu" and found.colours:
        return f"has {found.colours} colours, which DALI decodes as BT.601 on a CPU"
    if found.rotation or found.mirrored:
        return "is stored rotated or mirrored, which DALI does not undo"
    if not found.square_pixels:
        return "has non-square pixels, which DALI treats as square"
    if found.interlaced:
        return "is interlaced; DALI does not deinterlace"
    if found.transparent:
        return "has transparency, which DALI ignores"
    if found.stream:
        return "has its film in a later video stream; DALI reads the first"
    if not found.steady:
        return "has a variable frame rate, at which DALI hangs"
    if found.pts is None or not found.fps:
        return "has no rising timestamps, by which DALI finds frames"
    return None


class DaliDecoder:
    """Decodes by DALI; see `fastvgan.data.readers.Decoder`. Batches are on the device that decodes them.

    Frames are those of `PyAVDecoder`, but their pixels differ a little: DALI scales with a cubic filter, swscale by
    area averaging. On noise scaled down by 1 to 4, in grey and RGB, the mean difference is at most 2.1 of 255, the
    largest 11.

    PyAV decodes the batches that contain a clip that DALI cannot decode, or a clip whose file has changed since the
    decoder was made: DALI returns stale frames of a truncated file without an error.

    Args:
        clips: A set that `find_obstacle` has no objection to.
        device: "cpu", or "gpu" for torch's current CUDA device.
        workers: On the CPU, number of parallel pipelines, each with one decoding and one scaling thread; on the GPU,
            number of threads.
    """

    def __init__(self, clips: ClipSet, device: str = "cpu", workers: int = 1):
        self.clips, self.threads = clips, max(1, workers)
        self.resident = None
        # Read here, because the current device is thread-local.
        self.device = torch.cuda.current_device() if device == "gpu" else None
        self.stamps = [_stamp(media) for media in clips.media]

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """Yield a batch per range, all of one length; see `fastvgan.data.readers.Decoder.batches`."""
        with (
            tempfile.TemporaryDirectory(prefix="fastvgan-dali-") as folder,
            ThreadPoolExecutor(1 + self.threads, "fastvgan-dali") as pool,
        ):
            yield from _Run(self, seed, Path(folder), pool).batches(iter(numbers))


class _Chunk:
    """Batches that share pipelines.

    Args:
        ranges: Sample numbers of the batches still to come.
        draws: Draws of the batches that DALI decodes; PyAV decodes the others.
        pipelines: Decode these batches in turn.
    """

    def __init__(self, ranges: list[range], draws: dict[range, list[Draw]], pipelines: list[Pipeline]):
        self.ranges, self.draws, self._pipelines = deque(ranges), draws, deque(pipelines)
        self._half = len(ranges) // 2

    def next(self) -> torch.Tensor:
        """Return DALI's next batch, uint8 (N, T, H, W, C)."""
        video = self._pipelines[0].next()
        self._pipelines.rotate(-1)
        return video

    def is_half_done(self) -> bool:
        return len(self.ranges) <= self._half + 1

    def close(self) -> None:
        for pipeline in self._pipelines:
            pipeline.close()


class _Run:
    """One call of `DaliDecoder.batches`."""

    def __init__(self, decoder: "DaliDecoder", seed: int, folder: Path, pool: ThreadPoolExecutor):
        self._clips, self._stamps, self._seed = decoder.clips, decoder.stamps, seed
        # On a CPU, DALI's reader always decodes in one thread; several pipelines decode in parallel.
        on_cpu = decoder.device is None
        self._pipelines, threads = (decoder.threads, 1) if on_cpu else (1, decoder.threads)
        self._make = functools.partial(Pipeline, decoder.clips, device=decoder.device, threads=threads, folder=folder)
        self._device = "cpu" if decoder.device is None else f"cuda:{decoder.device}"
        self._pool = pool
        self._pyav_clips: set[int] = set()
        self._failures = 0  # since DALI's last good batch

    def batches(self, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """Yield all batches. A thread builds the next chunk while the second half of this one is decoded."""
        chunk: _Chunk = self._build(_take(numbers))
        ahead: Future[_Chunk] | None = None
        try:
            while chunk.ranges:
                if ahead is None and chunk.is_half_done():
                    ahead = self._pool.submit(self._build, _take(numbers))
                current = chunk.ranges.popleft()
                use_dali = current in chunk.draws and self._failures < _GIVE_UP_AFTER
                try:
                    clips = self._decode_by_dali(chunk, current) if use_dali else self._decode_by_pyav(current)
                except DaliError as failure:
                    self._blame(chunk.draws[current], failure)
                    clips = self._decode_by_pyav(current)
                    self._pool.submit(chunk.close)
                    chunk = self._build(list(chunk.ranges))
                yield clips
                if not chunk.ranges:
                    self._pool.submit(chunk.close)
                    assert ahead is not None  # submitted when the chunk was half done
                    chunk, ahead = ahead.result(), None
        finally:
            chunk.close()
            if ahead:
                ahead.result().close()

    def _build(self, ranges: list[range]) -> _Chunk:
        every = iter(self._clips.sampler.draws(self._seed, list(itertools.chain.from_iterable(ranges))))
        draws = {numbers: list(itertools.islice(every, len(numbers))) for numbers in ranges}
        for numbers, drawn in list(draws.items()):
            self._note_changed(drawn)
            if self._failures >= _GIVE_UP_AFTER or any(draw.clip in self._pyav_clips for draw in drawn):
                del draws[numbers]
        parts = [list(draws.values())[i :: self._pipelines] for i in range(self._pipelines)]
        return _Chunk(ranges, draws, [self._make(part) for part in parts if part])

    def _note_changed(self, draws: list[Draw]) -> set[int]:
        """Leave the clips of a batch whose files have changed to PyAV, and return them."""
        changed = {draw.clip for draw in draws if _stamp(self._clips.media[draw.clip]) != self._stamps[draw.clip]}
        self._pyav_clips |= changed
        return changed

    def _decode_by_dali(self, chunk: _Chunk, numbers: range) -> Clips:
        draws = chunk.draws[numbers]
        video = chunk.next()
        if changed := self._note_changed(draws):
            raise DaliError("changed while in use", changed)
        self._failures = 0
        return Clips(video, *stack_conditions(draws))

    def _decode_by_pyav(self, numbers: range) -> Clips:
        def decode(number: int) -> tuple[np.ndarray, Draw, list[str]]:
            unreadable: list[str] = []
            return *decode_sample(self._clips, self._seed, number, unreadable), unreadable

        videos, draws, unreadable = zip(*self._pool.map(decode, numbers), strict=True)
        for sentence in itertools.chain.from_iterable(unreadable):
            warn_once(sentence)
        return Clips(torch.from_numpy(np.stack(videos)).to(self._device), *stack_conditions(draws))

    def _blame(self, draws: list[Draw], failure: DaliError) -> None:
        """Leave the clips on which DALI failed to PyAV, with a warning for each that PyAV can read."""
        if failure.clips <= self._pyav_clips and failure.clips:
            return  # known already: the chunk was built before the first failure
        self._failures += 1
        by_clip = {draw.clip: draw for draw in draws}
        damaged = {clip for clip in failure.clips or by_clip if not self._is_readable(by_clip[clip])}
        blamed = failure.clips or damaged or self._find_failing(by_clip)
        self._pyav_clips |= blamed
        for clip in blamed - damaged:
            warn_once(f"{self._clips.names[clip]}: {failure}; PyAV decodes it")
        if not blamed:
            warn_once(f"{failure}; PyAV decodes one batch instead")
        if self._failures >= _GIVE_UP_AFTER:
            warn_once(f"{failure}, {_GIVE_UP_AFTER} times in a row; PyAV decodes all clips from now on")

    def _is_readable(self, draw: Draw) -> bool:
        try:
            decode_draw(self._clips, draw)
        except BadVideo:
            return False
        return True

    def _find_failing(self, draws: dict[int, Draw]) -> set[int]:
        """Find the clips that DALI cannot decode one at a time; empty if it decodes no clip at all."""
        bad = set()
        for clip, draw in draws.items():
            pipeline = self._make([[draw]])
            try:
                pipeline.next()
            except DaliError:
                bad.add(clip)
            finally:
                pipeline.close()
        return bad if len(bad) < len(draws) else set()


def _take(numbers: Iterator[range]) -> list[range]:
    """The ranges of the next chunk."""
    first = list(itertools.islice(numbers, 1))
    count = max(_BATCHES, _SAMPLES // len(first[0])) if first else 0
    return first + list(itertools.islice(numbers, max(0, count - 1)))


def _stamp(media: Media) -> tuple[int, int, int] | None:
    """Inode, size and modification time of a file, by which a change is noticed; None if it is not accessible."""
    try:
        status = os.stat(media.path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
