"""Nearest training clips against explicit distances; copies are detected, and real clips are not taken for copies."""

import numpy as np
import pytest
import torch

from fastvgan.data.digits import DigitsSource, Variant
from fastvgan.metrics.memorisation import nearest_distances, share_of_copies
from fastvgan.metrics.prompts import TrainingDraws, training_by_caption


def random_clips(n, size=(4, 8, 8, 3), seed=0):
    return torch.randint(0, 256, (n, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def compute_in_loops(video, training):
    a, b = (part.double().flatten(1).numpy() for part in (video, training))
    return np.sqrt(((a[:, None] - b[None]) ** 2).mean(-1)).min(1)


def test_distances_in_parts_are_those_of_all():
    video, training = random_clips(5), random_clips(9, seed=1)
    parts = [(torch.arange(5), training[:2]), (torch.arange(5), training[2:])]
    assert nearest_distances(video, parts).numpy() == pytest.approx(compute_in_loops(video, training), rel=1e-4)


def test_clips_are_compared_only_where_asked():
    video, training = random_clips(3), random_clips(4, seed=1)
    near = nearest_distances(video, [(torch.tensor([2, 0]), training)])
    assert near[[0, 2]].numpy() == pytest.approx(compute_in_loops(video[[0, 2]], training), rel=1e-4)
    assert near[1] == torch.inf


def test_a_training_clip_is_not_its_own_neighbour():
    training = random_clips(6)
    own = torch.tensor([4, 1])
    parts = [(torch.arange(2), training[:3]), (torch.arange(2), training[3:])]
    near = nearest_distances(training[own], parts, own)
    others = [compute_in_loops(training[i : i + 1], training[torch.arange(6) != i])[0] for i in (4, 1)]
    assert near.numpy() == pytest.approx(others, rel=1e-4)
    assert nearest_distances(training[own], parts).max() < 0.1


def test_large_frames_are_averaged_down_first():
    small, training = random_clips(3, (4, 16, 16, 3)), random_clips(5, (4, 16, 16, 3), seed=1)
    large = small.repeat_interleave(2, 2).repeat_interleave(4, 3)
    enlarged = training.repeat_interleave(2, 2).repeat_interleave(4, 3)
    near = nearest_distances(large, [(torch.arange(3), enlarged)])
    assert near.numpy() == pytest.approx(compute_in_loops(small, training), rel=1e-4)


SEEN = TrainingDraws(3, 20_000)


@pytest.fixture(scope="module")
def digits():
    """The training source, some captions, and the distances of real clips of other writers."""
    source, test = DigitsSource(), DigitsSource(split="test")
    index = np.arange(0, 240, 3)
    real = test.render(torch.from_numpy(index.repeat(3)), torch.from_numpy(np.random.default_rng(0).random((240, 4))))
    captions = [source.captions[i] for i in index.repeat(3)]
    near = nearest_distances(real, training_by_caption(source, captions, SEEN))
    return source, index, near


def test_real_clips_of_other_writers_are_no_copies(digits):
    _, _, near = digits
    assert share_of_copies(near, near) == 0


@pytest.mark.parametrize("noise", [0, 1, 3])
def test_clips_of_training_with_noise_are_copies(digits, noise):
    """For any batch size in which training drew them."""
    source, _, near = digits
    clips = torch.cat([batch.video for batch, _ in zip(source.batches(16, SEEN.seed, start=7), range(4), strict=False)])
    shown = torch.cat([b.caption for b, _ in zip(source.batches(16, SEEN.seed, start=7), range(4), strict=False)])
    noisy = (clips + noise * torch.randn(clips.shape)).round().clamp(0, 255).to(torch.uint8)
    captions = [source.captions[i] for i in shown]
    found = nearest_distances(noisy, training_by_caption(source, captions, SEEN))
    assert share_of_copies(found, near) == 1


def test_new_clips_of_training_writers_are_hardly_ever_copies(digits):
    source, index, near = digits
    clips = source.render(torch.from_numpy(index), torch.from_numpy(np.random.default_rng(1).random((len(index), 4))))
    captions = [source.captions[i] for i in index]
    found = nearest_distances(clips, training_by_caption(source, captions, SEEN))
    assert share_of_copies(found, near) < 0.03


def test_a_caption_that_is_not_trained_on_has_no_training_clips(digits):
    source, _, _ = digits
    captions = ["a pink 3 moving away", source.captions[7], "a pink 3"]
    parts = list(training_by_caption(source, captions, TrainingDraws(5, 1000)))
    assert all(rows.tolist() == [1] for rows, _ in parts)
    drawn = next(source.batches(1000, 5))
    assert torch.equal(torch.cat([clips for _, clips in parts]), drawn.video[drawn.caption == 7])


def test_no_more_clips_are_looked_at_than_were_drawn(digits):
    source, _, _ = digits
    parts = list(training_by_caption(source, source.captions, TrainingDraws(5, 777)))
    assert sum(len(clips) for _, clips in parts) == 777


@pytest.mark.parametrize("reverse", [False, True])
def test_only_clips_of_captions_that_are_looked_for_are_drawn(reverse, monkeypatch):
    source = DigitsSource(variant=Variant(reverse=reverse))
    drawn = next(source.batches(1000, 5))
    rendered, render = [], source.render
    monkeypatch.setattr(source, "render", lambda index, chances: rendered.append(len(index)) or render(index, chances))
    for first in (0, 250):
        found = source.draw_of([7, 30], 5, range(first, 1000))
        place = torch.arange(1000)[(drawn.caption == 7) | (drawn.caption == 30)]
        place = place[place >= first]
        assert len(place) == rendered.pop() > 3
        for mine, theirs in ((found.video, drawn.video), (found.caption, drawn.caption), (found.label, drawn.label)):
            assert torch.equal(mine, theirs[place])
    assert len(source.draw_of([], 5, range(10)).video) == 0
