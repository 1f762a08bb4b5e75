"""Frames at a constant rate, out of frames that come at any times."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from fastvgan.data.media.types import MOST_FRAMES, BadVideo

Timed = tuple["float | None", np.ndarray]

# Seconds, but at most a quarter of a slot: of 30 frames a second rounded to 33, 33 and 34 ms, some come a little late.
_LATE = 0.0025
# Times that a frame is shown, in the mean: 10 seconds at 25 frames a second. A file of three frames can claim to last
# for days.
_REPEATS = 250


def at_rate(
    frames: Iterable[Timed], fps: float | None, last_for: float | None = None, most: int = MOST_FRAMES
) -> Iterator[np.ndarray]:
    """Frames at `fps` a second: what is to be seen at each moment, the newest frame that has come by then.

    FFmpeg's filter `fps` does the same, but also takes frames that come up to half a slot late; here it is 2.5 ms, so
    that every other frame of 30 a second makes 15.

    Args:
        frames: pairs of a time in seconds and a frame. Where no time is known, all frames are taken as they are.
        fps: None takes all frames as they are. last_for: how long the last frame is shown, in seconds; a slot unless
            told. most: how many frames there may be, as `most_at_rate` says.

    Raises:
        BadVideo: there would be more.
    """
    begin = held = None
    written, time = 0, 0.0
    for time, frame in frames:
        if fps is None or time is None:
            yield frame
            continue
        begin = time if begin is None else begin
        while written < _within(most, time - begin, fps) and held is not None:
            yield held
            written += 1
        held = frame
    if held is not None:
        shown = 1 / fps if last_for is None else last_for
        for _ in range(written, max(1, _within(most, time - begin + shown, fps))):
            yield held


def count_at_rate(frames: int, own: float | None, fps: float | None) -> int:
    """How many frames a clip of that many, at `own` frames a second, has at `fps`, but at most `most_at_rate`."""
    return frames if fps is None or own is None else min(max(1, _slot(frames / own, fps)), most_at_rate(frames))


def most_at_rate(frames: int) -> int:
    """How many frames may be made of a clip of that many, by showing them again and again."""
    return min(_REPEATS * frames, MOST_FRAMES)


def _within(most: int, time: float, fps: float) -> int:
    slot = _slot(time, fps)
    if slot > most:
        raise BadVideo(f"would have {slot} frames at {fps:g} a second, of at most {most}; --fps takes a lower rate")
    return slot


def _slot(time: float, fps: float) -> int:
    """The first slot that shows what comes at that time, in seconds."""
    return math.ceil(time * fps - min(_LATE * fps, 0.25))
