"""Frames at a constant rate, against FFmpeg's own filter."""

from fractions import Fraction

import av
import numpy as np
import pytest
from broken import at_times
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvgan.data.media.types import BadVideo
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.preparation.resample import count_resampled, limit_resampled, resample
from fastvgan.errors import UserError

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
    mine = list(resample(((time / UNIT, i) for i, time in enumerate(times)), fps))
    # FFmpeg takes what is half a slot late, we what is 2.5 ms late.
    theirs = by_ffmpeg([time + UNIT // (2 * fps) - UNIT // 400 for time in times], fps)
    shared = min(len(mine), len(theirs))
    assert mine[:shared] == theirs[:shared] and abs(len(mine) - len(theirs)) <= 1


@given(st.integers(1, 60), st.sampled_from([10, 12, 24, 25, 30]), st.sampled_from([5, 8, 12, 25, 50]))
def test_the_length_in_seconds_stays(frames, own, fps):
    made = list(resample(((i / own, i) for i in range(frames)), fps, last_for=1 / own))
    assert len(made) == count_resampled(frames, own, fps) >= 1 and abs(len(made) - frames / own * fps) <= 1
    assert made == sorted(made)
    if own % fps == 0:
        assert made == list(range(0, frames, own // fps))[: len(made)]


def test_rounded_times_do_not_make_frames_uneven():
    times = np.arange(90) / 30
    for step in (1, 2, 3):
        made = list(resample(zip(times.round(3), range(90), strict=True), 30 / step, last_for=1 / 30))
        assert made == list(range(0, 90, step))


def test_gaps_of_hours_are_refused_before_they_are_filled():
    made = resample([(0.0, 0), (0.04, 1), (80_000.0, 2)], 25, most=limit_resampled(3))
    assert next(made) == 0
    with pytest.raises(BadVideo, match="would have 2000000 frames at 25 frames per second, more than 750"):
        next(made)
    with pytest.raises(BadVideo, match="would have 25000 frames"):
        list(resample([(0.0, 0)], 25, last_for=1000.0, most=limit_resampled(1)))
    assert count_resampled(3, 0.001, 25) == 750 and limit_resampled(10**6) == 10**7


@pytest.mark.parametrize("to", ["clips", "shards"])
def test_a_file_that_claims_to_last_for_hours_is_left_out_and_named(tmp_path, to):
    (tmp_path / "in").mkdir()
    at_times(tmp_path / "in" / "long.mov", [0, 40, 8_000_000])
    at_times(tmp_path / "in" / "slow.mov", [0, 3000, 9000])
    size = {"height": 16, "width": 16} if to == "shards" else {}
    made = prepare(tmp_path / "in", tmp_path / "out", PrepareConfig(to=to, fps=5, **size))
    assert [(record.source, record.fps) for record in made.records] == [("slow.mov", 5)]
    assert [item.name for item in made.rejected] == ["long.mov"]
    assert "would have 40000 frames" in made.rejected[0].reason


@pytest.mark.parametrize("fps", [1e-9, 1e12, float("inf")])
def test_rates_that_no_file_can_have_are_refused(fps):
    with pytest.raises(UserError, match="fps "):
        PrepareConfig(to="clips", fps=fps)


@pytest.mark.parametrize("timed", [True, False])
def test_frames_are_left_as_they_are_where_there_is_nothing_to_change(timed):
    frames = [(i * 0.07 if timed else None, i) for i in range(9)]
    assert list(resample(frames, None if timed else 12)) == list(range(9))
    assert list(resample([], 12)) == []


@given(
    st.lists(st.one_of(st.none(), st.integers(1, 300)), min_size=1, max_size=20),
    st.sampled_from([5, 10, 24, 25, 30]),
)
@settings(deadline=None)
def test_frames_stay_in_order_when_times_are_missing(lasts, fps):
    """Each frame's time is the sum of the durations before it, and unknown after a frame without one."""
    times, now = [], 0.0
    for one in lasts:
        times.append(now)
        now = None if now is None or one is None else now + one / 1000
    numbers = list(resample(zip(times, range(len(lasts)), strict=True), fps))
    assert numbers == sorted(numbers)
    first = next((i for i, time in enumerate(times) if time is None), len(times))
    assert set(range(first, len(times))) <= set(numbers), "frames without a time are passed through"
    assert first == len(times) or first - 1 in numbers


def test_all_frames_after_one_without_a_time_are_passed_through():
    times = [0.0, 0.1, None, 0.3, 0.4]
    assert list(resample(zip(times, range(5), strict=True), 10)) == [0, 1, 2, 3, 4]
    assert list(resample(zip(times, range(5), strict=True), 20)) == [0, 0, 1, 2, 3, 4]
    assert list(resample(zip([None, *times[3:]], range(3), strict=True), 20)) == [0, 1, 1, 2]
