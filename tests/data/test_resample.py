"""Frames at a constant rate, against FFmpeg's own filter."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvgan.data.preparation.resample import at_rate, count_at_rate

UNIT = 1_200_000  # a second; all rates below divide it


def by_ffmpeg(times, fps):
    """The numbers of the frames that FFmpeg's filter `fps` gives."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=Fraction(1, UNIT))
    rate = graph.add("fps", f"fps={fps}:eof_action=pass:start_time=0")
    sink = graph.add("buffersink")
    source.link_to(rate)
    rate.link_to(sink)
    graph.configure()
    numbers = []

    def pull():
        try:
            while True:
                numbers.append(int(graph.pull().to_ndarray()[0, 0]))
        except (av.BlockingIOError, av.EOFError):
            return

    for i, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), i, np.uint8), format="gray")
        frame.pts, frame.time_base = time, Fraction(1, UNIT)
        graph.push(frame)
        pull()
    graph.push(None)
    pull()
    return numbers


@given(
    st.lists(st.integers(1, 300).map(lambda ms: ms * UNIT // 1000), min_size=1, max_size=40),
    st.sampled_from([5, 8, 10, 24, 25, 30]),
)
@settings(max_examples=60)
def test_frames_are_those_that_ffmpeg_takes(steps, fps):
    times = np.cumsum([0, *steps]).tolist()
    mine = list(at_rate(((time / UNIT, i) for i, time in enumerate(times)), fps))
    # FFmpeg takes what is half a slot late, we what is 2.5 ms late.
    theirs = by_ffmpeg([time + UNIT // (2 * fps) - UNIT // 400 for time in times], fps)
    shared = min(len(mine), len(theirs))
    assert mine[:shared] == theirs[:shared] and abs(len(mine) - len(theirs)) <= 1


@given(st.integers(1, 60), st.sampled_from([10, 12, 24, 25, 30]), st.sampled_from([5, 8, 12, 25, 50]))
def test_the_length_in_seconds_stays(frames, own, fps):
    made = list(at_rate(((i / own, i) for i in range(frames)), fps, last_for=1 / own))
    assert len(made) == count_at_rate(frames, own, fps) >= 1 and abs(len(made) - frames / own * fps) <= 1
    assert made == sorted(made)
    if own % fps == 0:
        assert made == list(range(0, frames, own // fps))[: len(made)]


def test_rounded_times_do_not_make_frames_uneven():
    times = np.arange(90) / 30
    for step in (1, 2, 3):
        made = list(at_rate(zip(times.round(3), range(90), strict=True), 30 / step, last_for=1 / 30))
        assert made == list(range(0, 90, step))


@pytest.mark.parametrize("timed", [True, False])
def test_frames_are_left_as_they_are_where_there_is_nothing_to_change(timed):
    frames = [(i * 0.07 if timed else None, i) for i in range(9)]
    assert list(at_rate(frames, None if timed else 12)) == list(range(9))
    assert list(at_rate([], 12)) == []
