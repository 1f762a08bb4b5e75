"""Differences of clips and similarity of frames against explicit sums."""

import numpy as np
import pytest
import torch
from stand_ins import digits_model, noise

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.data.source import Clips
from fastvgan.metrics.diversity import (
    first_middle_last,
    frame_similarity,
    mean_difference,
    pair_within_groups,
    share_of_differing,
)
from fastvgan.metrics.evaluation import Evaluator


def test_difference_is_the_mean_over_pairs_and_pixels():
    video = torch.randint(0, 256, (150, 2, 3, 4, 3), dtype=torch.uint8)
    first, second = torch.randint(0, 150, (2, 131))
    pixels = video.double()
    expected = sum((pixels[i] - pixels[j]).abs().mean() for i, j in zip(first, second, strict=True)) / 131
    assert mean_difference(video, first, second) == pytest.approx(expected.item(), rel=1e-5)


def test_black_and_white_differ_by_255():
    video = torch.stack([torch.zeros(2, 2, 2, 1), torch.full((2, 2, 2, 1), 255)]).to(torch.uint8)
    assert mean_difference(video, torch.tensor([0]), torch.tensor([1])) == 255


def test_pairs_are_of_one_group_and_leave_nobody_out():
    groups = torch.tensor([3, 1, 3, 3, 1, 7])
    pairs = set(zip(*(part.tolist() for part in pair_within_groups(groups)), strict=True))
    assert pairs == {(1, 4), (0, 2), (2, 3)}


CAPTIONS, CLASSES = torch.arange(20), torch.arange(20) % 2


class Listed:
    """Twenty clips of noise, each with another caption, of two classes."""

    captions, classes, remarks, decoder, size = [f"clip {i}" for i in range(20)], ("a", "b"), (), "none", 20
    fingerprint, draws, shuffles = Fingerprint("", 20, 20, 2), 0, False

    def batches(self, batch_size, seed, start=0, rank=0, world_size=1):
        draw = torch.Generator().manual_seed(0)
        video = torch.randint(0, 100, (20, 4, 16, 16, 1), generator=draw, dtype=torch.uint8)
        yield Clips(video + 100 * CLASSES.to(torch.uint8)[:, None, None, None, None], CAPTIONS, CLASSES)


@pytest.mark.parametrize("condition", [("text",), ("class",), ("text", "class")])
def test_clips_are_compared_with_real_ones_of_the_models_condition(condition):
    """A model of classes ignores captions. A model of captions has no score unless two real clips share one."""
    source = Listed()
    size = {"frames": 4, "height": 16, "width": 16, "channels": 1}
    evaluator = Evaluator(digits_model(source, condition=condition, **size), source, source, 20)
    clip = torch.zeros(1, 4, 16, 16, 1, dtype=torch.uint8)
    evaluation = evaluator.full(lambda z, condition: clip.expand(len(z), -1, -1, -1, -1), noise)
    has_score = condition == ("class",)
    assert evaluation.scores.get("diversity") == (0 if has_score else None) and len(evaluation.warnings) == has_score
    row = next(row for row in evaluation.rows if row.measure == "difference within a condition")
    if has_score:
        video = next(source.batches(20, 0)).video.double()
        within = [(video[i] - video[i + 2]).abs().mean().item() for i in range(18)]
        assert row.real == pytest.approx(np.mean(within), rel=1e-5)
    else:
        assert row.real is None


def test_share_that_differ_is_simpsons_index_over_all_pairs():
    labels = torch.randint(4, (50,))
    shares = torch.bincount(labels, minlength=4).double() / 50
    everyone = torch.cartesian_prod(torch.arange(50), torch.arange(50)).unbind(1)
    assert share_of_differing(labels, *everyone) == pytest.approx(1 - shares.square().sum().item())
    assert share_of_differing(labels, torch.tensor([7]), torch.tensor([7])) == 0


def test_frames_of_clips_of_any_length():
    video = torch.arange(5)[None, :, None]
    assert first_middle_last(video).flatten().tolist() == [0, 2, 4]
    assert first_middle_last(video[:, :1]).flatten().tolist() == [0, 0, 0]


def test_similarity_is_1_of_a_still_scene_and_0_of_scenes_with_nothing_in_common():
    still = torch.randint(0, 256, (4, 1, 16, 16, 3), dtype=torch.uint8).expand(-1, 6, -1, -1, -1)
    assert frame_similarity(still) == pytest.approx(1)
    changing = torch.randint(0, 256, (4, 6, 16, 16, 3), dtype=torch.uint8)
    changing[:, 0, :8], changing[:, 3:, 8:] = 0, 0
    # Features are a projection of the frame, which keeps right angles only nearly.
    assert abs(frame_similarity(changing)) < 0.35
