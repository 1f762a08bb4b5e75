"""Decoding by NVIDIA's DALI, in threads: VP8, VP9 and MJPEG on the CPU; H.264, HEVC, AV1, MPEG-4, VP8, VP9 on a GPU."""

import functools
import itertools
import os
import tempfile
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from fastvgan.data.decoders.dali_pipeline import Failed, Pipeline
from fastvgan.data.media.types import BadVideo, Media, Probe
from fastvgan.data.readers import ClipSet, conditions, decode, sample, warn_once
from fastvgan.data.sampling import Draw
from fastvgan.data.source import Clips

# A pipeline serves this many samples, and at least this many batches. To build one takes a tenth of a millisecond a
# sample, and when it ends, a batch was decoded for nothing.
_SAMPLES, _BATCHES = 2048, 32
_GIVE_UP_AFTER = 3  # failures in a row

# On a GPU DALI says of MJPEG that it is "not supported by the GPU variant".
_CODECS = {"cpu": {"vp8", "vp9", "mjpeg"}, "gpu": {"vp8", "vp9", "h264", "hevc", "av1", "mpeg4"}}


def refusal(clips: ClipSet, device: str) -> str | None:
    """Why DALI cannot serve a set of clips on "cpu" or "gpu", or None if it can."""
    for name, media, found in zip(clips.names, clips.media, clips.found, strict=True):
        if reason := _unfit(media, found, device):
            return f"{name} {reason}"
    if device == "gpu" and not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        import nvidia.dali  # noqa: F401
    except (ImportError, OSError) as error:
        return f"DALI is not there ({error}); pip install nvidia-dali-cuda130"
    return None


def _unfit(media: Media, found: Probe, device: str) -> str | None:
    if media.kind != "video":
        return f'is of kind "{media.kind}", and DALI reads video files only'
    if media.member:
        return "is in a zip file, which DALI does not read"
    if not isinstance(media.path, Path):
        return "is not on this machine"
    if found.codec not in _CODECS[device]:
        return f"is {found.codec}, which DALI does not decode on the {device.upper()}"
    if device == "cpu" and found.colours:
        return f"has the colours of {found.colours}, which DALI takes for those of BT.601 on a CPU"
    if found.rotation or found.mirrored:
        return "asks to be rotated or mirrored, which DALI does not do"
    if not found.square_pixels:
        return "has pixels that are not square, which DALI takes for square ones"
    if found.interlaced:
        return "is interlaced, and DALI does not deinterlace"
    if found.transparent:
        return "has transparency, which DALI does not heed"
    if found.stream:
        return "has its film in another than the first video stream, and DALI takes the first"
    if not found.steady:
        return "has a variable frame rate, at which DALI hangs"
    if found.pts is None or not found.fps:
        return "has no times that rise, by which DALI finds frames"
    return None


class DaliDecoder:
    """See `fastvgan.data.readers.Decoder`. Batches are on the device that decodes; `refusal` says whether it can.

    Samples are those of `PyAVDecoder`, frame for frame. Pixels differ a little, since DALI scales by a cubic filter and
    swscale by areas. Measured on noise scaled down by 1 to 4, in grey and RGB: by up to 2.1 of 255 in the mean, 11 at
    most.

    A batch goes through PyAV where a clip is drawn for it that DALI cannot decode, or whose file is not what it was
    when the decoder was made: of a file cut short DALI gives stale frames and says nothing.

    Args:
        device: "cpu" or "gpu", torch's current CUDA device. workers: on the CPU, pipelines side by side, each of
            which decodes in one thread and scales in another; on the GPU, threads.
    """

    def __init__(self, clips: ClipSet, device: str = "cpu", workers: int = 1):
        self.clips, self.threads = clips, max(1, workers)
        self.resident = None
        # Taken here: which device is current is a matter of each thread.
        self.device = torch.cuda.current_device() if device == "gpu" else None
        self.stamps = [_stamp(media) for media in clips.media]

    def batches(self, seed: int, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """See `fastvgan.data.readers.Decoder.batches`; all ranges are of one length."""
        with (
            tempfile.TemporaryDirectory(prefix="fastvgan-dali-") as folder,
            ThreadPoolExecutor(1 + self.threads, "fastvgan-dali") as pool,
        ):
            yield from _Run(self, seed, Path(folder), pool).batches(iter(numbers))


class _Chunk:
    """Batches that share a pipeline.

    ranges: the numbers of those still to come. draws: of those that DALI decodes; PyAV takes the others. pipelines:
    that decode them in turn.
    """

    def __init__(self, ranges: list[range], draws: dict[range, list[Draw]], pipelines: list[Pipeline]):
        self.ranges, self.draws, self._pipelines = deque(ranges), draws, deque(pipelines)
        self._half = len(ranges) // 2

    def next(self) -> torch.Tensor:
        """The next of the batches that DALI decodes."""
        video = self._pipelines[0].next()
        self._pipelines.rotate(-1)
        return video

    def half_done(self) -> bool:
        return len(self.ranges) <= self._half + 1

    def close(self) -> None:
        for pipeline in self._pipelines:
            pipeline.close()


class _Run:
    """One call of `DaliDecoder.batches`."""

    def __init__(self, decoder: "DaliDecoder", seed: int, folder: Path, pool: ThreadPoolExecutor):
        self._clips, self._stamps, self._seed = decoder.clips, decoder.stamps, seed
        # On a CPU a reader decodes in one thread, whatever it is given; so there is a pipeline for each.
        on_cpu = decoder.device is None
        self._side_by_side, threads = (decoder.threads, 1) if on_cpu else (1, decoder.threads)
        self._make = functools.partial(Pipeline, decoder.clips, device=decoder.device, threads=threads, folder=folder)
        self._device = "cpu" if decoder.device is None else f"cuda:{decoder.device}"
        self._pool = pool
        self._left_to_pyav: set[int] = set()
        self._failures = 0  # since DALI's last good batch

    def batches(self, numbers: Iterator[range]) -> Generator[Clips, None, None]:
        """All batches. When half of a chunk is done, the next one is built in a thread, so that there is no gap."""
        chunk, ahead = self._build(_take(numbers)), None
        try:
            while chunk.ranges:
                if ahead is None and chunk.half_done():
                    ahead = self._pool.submit(self._build, _take(numbers))
                current = chunk.ranges.popleft()
                by_dali = current in chunk.draws and self._failures < _GIVE_UP_AFTER
                try:
                    clips = self._by_dali(chunk, current) if by_dali else self._by_pyav(current)
                except Failed as failure:
                    self._blame(chunk.draws[current], failure)
                    clips = self._by_pyav(current)
                    self._pool.submit(chunk.close)
                    chunk = self._build(list(chunk.ranges))
                yield clips
                if not chunk.ranges:
                    self._pool.submit(chunk.close)
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
            if self._failures >= _GIVE_UP_AFTER or any(draw.clip in self._left_to_pyav for draw in drawn):
                del draws[numbers]
        parts = [list(draws.values())[i :: self._side_by_side] for i in range(self._side_by_side)]
        return _Chunk(ranges, draws, [self._make(part) for part in parts if part])

    def _note_changed(self, draws: list[Draw]) -> set[int]:
        """Leave to PyAV those clips of a batch whose files are not what they were."""
        changed = {draw.clip for draw in draws if _stamp(self._clips.media[draw.clip]) != self._stamps[draw.clip]}
        self._left_to_pyav |= changed
        return changed

    def _by_dali(self, chunk: _Chunk, numbers: range) -> Clips:
        draws = chunk.draws[numbers]
        video = chunk.next()
        if changed := self._note_changed(draws):
            raise Failed("changed while in use", changed)
        self._failures = 0
        return Clips(video, *conditions(draws))

    def _by_pyav(self, numbers: range) -> Clips:
        def one(number: int) -> tuple[np.ndarray, Draw, list[str]]:
            unreadable: list[str] = []
            return *sample(self._clips, self._seed, number, unreadable), unreadable

        videos, draws, unreadable = zip(*self._pool.map(one, numbers), strict=True)
        for sentence in itertools.chain.from_iterable(unreadable):
            warn_once(sentence)
        return Clips(torch.from_numpy(np.stack(videos)).to(self._device), *conditions(draws))

    def _blame(self, draws: list[Draw], failure: Failed) -> None:
        """Leave to PyAV the clips for which DALI failed, and say so of those that PyAV can read."""
        if failure.clips <= self._left_to_pyav and failure.clips:
            return  # the chunk was built before this was known
        self._failures += 1
        of_clip = {draw.clip: draw for draw in draws}
        damaged = {clip for clip in failure.clips or of_clip if not self._readable(of_clip[clip])}
        blamed = failure.clips or damaged or self._bad_alone(of_clip)
        self._left_to_pyav |= blamed
        for clip in blamed - damaged:
            warn_once(f"{self._clips.names[clip]}: {failure}; PyAV decodes it")
        if not blamed:
            warn_once(f"{failure}; PyAV decodes a batch in its place")
        if self._failures >= _GIVE_UP_AFTER:
            warn_once(f"{failure}, time after time; PyAV decodes all clips from here on")

    def _readable(self, draw: Draw) -> bool:
        try:
            decode(self._clips, draw)
        except BadVideo:
            return False
        return True

    def _bad_alone(self, draws: dict[int, Draw]) -> set[int]:
        """The clips that DALI cannot decode by themselves; none where it can decode none, which is not their fault."""
        bad = set()
        for clip, draw in draws.items():
            pipeline = self._make([[draw]])
            try:
                pipeline.next()
            except Failed:
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
    """What tells whether a file is still the same: None where it cannot be had."""
    try:
        found = os.stat(media.path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
