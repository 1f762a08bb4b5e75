"""What is drawn depends on seed and number alone, is spread as it should be, and is shared out among ranks."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvgan.data.sampling import Cut, Member, Sampler, Shuffle, sample_numbers, shuffle_epochs
from fastvgan.random_draws import Purpose
from fastvgan_kernels.philox import philox_4x32

CUT = Cut(4, 8, 8, max_stride=3, mirror=True, reverse=True)
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=9)


def sampler(frames, cut=CUT):
    return Sampler([Member(n, (2 * i, 2 * i + 1), i % 3) for i, n in enumerate(frames)], cut)


@given(lengths, st.integers(0, 2**32), st.integers(0, 1000))
def test_a_sample_is_a_function_of_seed_and_number(frames, seed, number):
    one, other = sampler(frames), sampler(frames)
    for n in (3, number + 1, 0):
        other.draw(seed, n)
    assert one.draw(seed, number) == other.draw(seed, number)


def words_of(seed, purpose, number, count):
    """Random words in Python's integers."""
    key, place = (seed % 2**32, seed // 2**32 % 2**32), (number % 2**32, number // 2**32)
    blocks = (philox_4x32((block, *place, purpose), key) for block in range(-(-count // 4)))
    return [word for block in blocks for word in block][:count]


@given(
    lengths, st.sampled_from(["random", "center"]), st.tuples(st.booleans(), st.booleans()), st.integers(0, 2**64),
    st.integers(0, 2**40),
)  # fmt: skip
@settings(max_examples=50)
def test_a_sample_is_what_exact_integers_say(frames, crop, changes, seed, number):
    mirror, reverse = changes
    cut = Cut(3, 8, 8, stride=2, max_stride=4, crop=crop, mirror=mirror, reverse=reverse)
    captions = [tuple(range(10 * i, 10 * i + i % 3)) for i in range(len(frames))]
    drawn = Sampler([Member(n, c, i) for i, (n, c) in enumerate(zip(frames, captions, strict=True))], cut)
    draw = drawn.draw(seed, number)
    words = [Fraction(word, 2**32) for word in words_of(seed, Purpose.CLIP, number, 7)]
    epoch, place = divmod(number, len(frames))
    sorts = words_of(seed, Purpose.SHUFFLE, epoch, 2 * len(frames))
    order = sorted(range(len(frames)), key=lambda i: sorts[2 * i : 2 * i + 2])
    clip = order[place]
    length = frames[clip]
    stride = 2 + int(words[0] * len([s for s in (2, 3, 4) if s == 2 or 2 * s < length]))
    start = int(words[3] * max(1, length - 2 * stride))
    mine = captions[clip]
    assert draw == (
        clip,
        tuple(min(start + i * stride, length - 1) for i in range(3)),
        *((int(words[4] * 2**32), int(words[5] * 2**32)) if crop == "random" else (2**31, 2**31)),
        mirror and words[1] >= Fraction(1, 2),
        mine[int(words[2] * len(mine))] if mine else -1,
        clip,
        reverse and words[6] >= Fraction(1, 2),
    )


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**40), st.lists(st.integers(0, 10**6), max_size=4))
@settings(max_examples=50)
def test_the_device_shuffles_as_the_host_does_wherever_a_batch_begins(size, batch, start, jumps):
    host, device = sampler([5] * size), Shuffle(size, 7, batch)
    for first in (start, start + batch, start + 2 * batch, *jumps, 0):
        numbers = range(first, first + batch)
        device.reach(numbers)
        assert device(torch.arange(first, first + batch)).tolist() == host.clips(7, numbers)


@pytest.mark.parametrize("size", [20_000, 2**14, 2**14 - 1])
def test_sets_longer_and_shorter_than_what_is_shuffled_at_once(size):
    host, device = sampler([5] * size), Shuffle(size, 3, 6)
    for first in (0, size - 6, size - 3, size, 2 * size - 1, size - 1):
        device.reach(range(first, first + 6))
        assert device(torch.arange(first, first + 6)).tolist() == host.clips(3, range(first, first + 6))


def test_epochs_that_are_held_are_not_shuffled_again(monkeypatch):
    device = Shuffle(4, 0, 3)
    device.reach(range(3))
    monkeypatch.setattr("fastvgan.data.sampling.shuffle_epochs", lambda *_: pytest.fail("shuffled again"))
    for first in range(0, 2**14 - 3, 3):
        device.reach(range(first, first + 3))
    with pytest.raises(pytest.fail.Exception, match="shuffled again"):
        device.reach(range(2**14 - 2, 2**14 + 1))


def test_every_order_is_as_likely():
    orders = shuffle_epochs(4, 11, torch.arange(24_000))
    counts = np.unique(orders.numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 24
    # Of 23 degrees of freedom; 60 is exceeded by chance in 4 of 10**5 seeds.
    assert ((counts - 1000) ** 2 / 1000).sum() < 60


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 7, 5000, 100_000])
def test_a_gpu_shuffles_and_draws_as_the_cpu_does(size):
    """And the host waits for nothing meanwhile, once what serves is loaded."""
    epochs = torch.tensor([0, 1, 2**33])
    assert torch.equal(shuffle_epochs(size, 2**63 + 5, epochs), shuffle_epochs(size, 2**63 + 5, epochs.cuda()).cpu())
    drawn = sampler([1 + i % 30 for i in range(size)])
    clips, numbers = torch.arange(256) % size, torch.arange(256) + 2**32
    here, there = (drawn.pick(drawn.words(9, numbers.to(device)), clips.to(device)) for device in ("cpu", "cuda"))
    for mine, theirs in zip(here, there, strict=True):
        assert torch.equal(mine, theirs.cpu())
    shuffle, host = Shuffle(size, 3, 64, "cuda"), sampler([5] * size)
    for first in (0, 2**20, 2**40):  # none of which is held after the one before
        torch.cuda.set_sync_debug_mode("default" if first == 0 else "error")
        try:
            shuffle.reach(range(first, first + 64))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        numbers = torch.arange(first, first + 64)
        assert shuffle(numbers.cuda()).tolist() == host.clips(3, numbers.tolist())


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
    draws = sampler([30]).draws(0, range(3000))
    strides = np.array([draw.indices[1] - draw.indices[0] for draw in draws])
    for value in (1, 2, 3):
        assert abs((strides == value).mean() - 1 / 3) < 0.05
    starts = np.array([draw.indices[0] for draw in draws])[strides == 1]
    assert set(starts) == set(range(27))
    assert abs(np.mean([draw.mirror for draw in draws]) - 0.5) < 0.05
    assert abs(np.mean([draw.reverse for draw in draws]) - 0.5) < 0.05
    assert abs(np.mean([draw.reverse == draw.mirror for draw in draws]) - 0.5) < 0.05
    assert abs(np.mean([draw.caption for draw in draws]) - 0.5) < 0.05
    tops, lefts = np.array([(draw.top, draw.left) for draw in draws]).T / 2**32
    assert abs(tops.mean() - 0.5) < 0.03 and abs(np.corrcoef(tops, lefts)[0, 1]) < 0.06


@pytest.mark.parametrize(("batch", "world"), [(2, 3), (6, 1), (3, 2)])
def test_the_ranks_batches_make_up_the_one_of_a_single_process(batch, world):
    parts = [list(itertools.islice(sample_numbers(batch, 5, rank, world), 4)) for rank in range(world)]
    together = [[n for part in parts for n in part[k]] for k in range(4)]
    single = [list(numbers) for numbers in itertools.islice(sample_numbers(6, 5, 0, 1), 4)]
    assert together == single
