"""Resampling of frames with any times to a constant rate."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from fastvgan.data.media.types import MOST_FRAMES, BadVideo

Timed = tuple["float | None", np.ndarray]

# Tolerance in seconds, at most a quarter of a slot: times at 30 frames per second, rounded to 33 or 34 ms, may be late.
_LATE = 0.0025
# Largest mean number of repetitions of a frame: 10 seconds at 25 frames per second. A file of three frames can claim to
# last for days.
_REPEATS = 250


def resample(
    frames: Iterable[Timed], fps: float | None, last_for: float | None = None, most: int = MOST_FRAMES
) -> Iterator[np.ndarray]:
    """Resample frames to a constant rate: each output frame is the newest input frame at its time.

    FFmpeg's filter `fps` does the same, but also accepts frames that are up to half a slot late. Here the tolerance is
    2.5 ms, so that 15 frames per second are every other frame of 30.

    Args:
        frames: Pairs of a time in seconds and a frame (H, W, C). Frames without a time are passed through, as are all
            frames after one that follows a frame with a time.
        fps: Frames per second of the output; None passes all frames through.
        last_for: Duration of the last frame in seconds; 1 / fps by default.
        most: Largest number of output frames, see `limit_resampled`.

    Raises:
        BadVideo: The output would have more frames.
    """
    begin: float | None = None
    held: np.ndarray | None = None
    end, written = 0.0, 0
    is_timed = fps is not None
    for time, frame in frames:
        if fps is None or time is None or not is_timed:
            if held is not None:
                yield held
                held, is_timed = None, False
            yield frame
            continue
        begin = time if begin is None else begin
        while written < _check_slot(most, time - begin, fps) and held is not None:
            yield held
            written += 1
        held, end = frame, time
    if held is not None and fps is not None and begin is not None:
        duration = 1 / fps if last_for is None else last_for
        for _ in range(written, max(1, _check_slot(most, end - begin + duration, fps))):
            yield held


def count_resampled(frames: int, own: float | None, fps: float | None) -> int:
    """Count the frames of a resampled clip.

    Args:
        frames: Frames of the clip.
        own: Its frames per second, if known.
        fps: Frames per second of the output; None keeps all frames.
    """
    return frames if fps is None or own is None else min(max(1, _slot(frames / own, fps)), limit_resampled(frames))


def limit_resampled(frames: int) -> int:
    """Return how many frames a clip of `frames` frames may have after resampling."""
    return min(_REPEATS * frames, MOST_FRAMES)


def _check_slot(most: int, time: float, fps: float) -> int:
    slot = _slot(time, fps)
    if slot > most:
        raise BadVideo(
            f"would have {slot} frames at {fps:g} frames per second, more than {most}; use a lower rate with --fps"
        )
    return slot


def _slot(time: float, fps: float) -> int:
    """The first slot that shows a frame of that time, in seconds."""
    return math.ceil(time * fps - min(_LATE * fps, 0.25))
