"""What is drawn depends on seed and number alone, is spread as it should be, and is shared out among ranks."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvgan.data.sampling import Cut, Member, Sampler, sample_numbers

CUT = Cut(4, 8, 8, max_stride=3, mirror=True)
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=9)


def sampler(frames, cut=CUT):
    return Sampler([Member(n, (2 * i, 2 * i + 1), i % 3) for i, n in enumerate(frames)], cut)


@given(lengths, st.integers(0, 2**32), st.integers(0, 1000))
def test_a_sample_is_a_function_of_seed_and_number(frames, seed, number):
    one, other = sampler(frames), sampler(frames)
    for n in (3, number + 1, 0):
        other.draw(seed, n)
    assert one.draw(seed, number) == other.draw(seed, number)


@given(lengths, st.integers(0, 2**32), st.integers(0, 50))
def test_an_epoch_has_every_clip_once_and_replacements_are_the_others(frames, seed, epoch):
    size, drawn = len(frames), sampler(frames)
    clips = [drawn.draw(seed, epoch * size + i).clip for i in range(size)]
    assert sorted(clips) == list(range(size))
    candidates = [draw.clip for draw in drawn.candidates(seed, epoch * size)]
    assert candidates == clips  # the next ones of the shuffle


@given(lengths, st.integers(1, 6), st.integers(1, 4), st.none() | st.integers(4, 6), st.integers(0, 2**32))
def test_frames_are_evenly_spaced_inside_the_clip_with_the_last_one_held(frames, count, stride, most, seed):
    drawn = sampler(frames, Cut(count, 8, 8, stride=stride, max_stride=most))
    for number in range(2 * len(frames)):
        draw = drawn.draw(seed, number)
        last, first = frames[draw.clip] - 1, draw.indices[0]
        possible = [
            tuple(min(first + i * step, last) for i in range(count)) for step in range(stride, (most or stride) + 1)
        ]
        assert draw.indices in possible
        if frames[draw.clip] >= (count - 1) * (most or stride) + 1:  # long enough: nothing is held
            assert len(set(draw.indices)) == count
        assert draw.caption in (2 * draw.clip, 2 * draw.clip + 1) and draw.label == draw.clip % 3


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_crops_lie_inside(tall, wide, height, width, seed):
    size = (tall + height - 1, wide + width - 1)
    for crop in ("random", "center"):
        draw = sampler([9], Cut(2, height, width, crop=crop)).draw(seed, 0)
        top, left = draw.offsets(size, height, width)
        assert 0 <= top <= size[0] - height and 0 <= left <= size[1] - width
        if crop == "center":
            assert (top, left) == ((size[0] - height + 1) // 2, (size[1] - width + 1) // 2)


def test_everything_random_is_evenly_spread():
    draws = [sampler([30]).draw(0, number) for number in range(3000)]
    strides = np.array([draw.indices[1] - draw.indices[0] for draw in draws])
    for value in (1, 2, 3):
        assert abs((strides == value).mean() - 1 / 3) < 0.05
    starts = np.array([draw.indices[0] for draw in draws])[strides == 1]
    assert set(starts) == set(range(27))
    assert abs(np.mean([draw.mirror for draw in draws]) - 0.5) < 0.05
    assert abs(np.mean([draw.caption for draw in draws]) - 0.5) < 0.05
    tops, lefts = np.array([(draw.top, draw.left) for draw in draws]).T
    assert abs(tops.mean() - 0.5) < 0.03 and abs(np.corrcoef(tops, lefts)[0, 1]) < 0.06


@pytest.mark.parametrize(("batch", "world"), [(2, 3), (6, 1), (3, 2)])
def test_the_ranks_batches_make_up_the_one_of_a_single_process(batch, world):
    parts = [list(itertools.islice(sample_numbers(batch, 5, rank, world), 4)) for rank in range(world)]
    together = [[n for part in parts for n in part[k]] for k in range(4)]
    single = [list(numbers) for numbers in itertools.islice(sample_numbers(6, 5, 0, 1), 4)]
    assert together == single
