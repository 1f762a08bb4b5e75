"""The objectives against torch's binary cross entropy and the textbook formula, in float64."""

import pytest
import torch
import torch.nn.functional as F

from fastvgan.losses import OBJECTIVES, contrast, discriminator_loss, diversity, feature_diversity, mean_differences


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [10 * torch.randn(33, generator=generator) for _ in range(3)]


def bce(logits, target):
    logits = logits.double()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_discriminator_loss_is_binary_cross_entropy(name, logits):
    real, fake, wrong = logits
    objective = OBJECTIVES[name]
    expected = bce(real, 1.0) + bce(fake, 0.0)
    torch.testing.assert_close(discriminator_loss(objective, real, fake).double(), expected, rtol=1e-6, atol=1e-6)
    expected = bce(real, 1.0) + (bce(fake, 0.0) + bce(wrong, 0.0)) / 2
    torch.testing.assert_close(
        discriminator_loss(objective, real, fake, wrong).double(), expected, rtol=1e-6, atol=1e-6
    )


def test_generator_losses(logits):
    fake = logits[0]
    torch.testing.assert_close(
        OBJECTIVES["nonsaturating"].generator(fake).double(), bce(fake, 1.0), rtol=1e-6, atol=1e-6
    )
    textbook = torch.log1p(-torch.sigmoid(fake.double())).mean()
    torch.testing.assert_close(OBJECTIVES["minimax"].generator(fake).double(), textbook, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_huge_half_precision_logits_stay_finite(name):
    logits = torch.tensor([3e38, -3e38], dtype=torch.bfloat16)
    objective = OBJECTIVES[name]
    for loss in (objective.real, objective.fake, objective.generator):
        value = loss(logits)
        assert value.dtype == torch.float32 and torch.isfinite(value / 2)


def test_real_clips_of_one_condition_differ_by_the_mean_over_their_pairs():
    seen, kinds = torch.randn(6, 7), torch.tensor([0, 1, 0, 2, 1, 0])
    pairs = [(0, 2), (0, 5), (2, 5), (1, 4)]
    wanted = sum((seen[i] - seen[j]).abs() for i, j in pairs) / 4
    torch.testing.assert_close(mean_differences(seen, kinds[:, None] == kinds), wanted)
    assert mean_differences(seen, torch.eye(6, dtype=torch.bool)).tolist() == [0] * 7


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_feature_diversity_is_the_share_of_the_target_that_features_reach(n):
    seen = [torch.randn(n, 7).double().requires_grad_(), torch.randn(n, 3).double().requires_grad_()]
    targets = [torch.rand(7).double(), torch.rand(3).double()]
    targets[0][2] = 0
    total = 0.0
    for one, target in zip(seen, targets, strict=True):
        for f in range(len(target)):
            apart = [(one[2 * i, f] - one[2 * i + 1, f]).abs().item() for i in range(n // 2)]
            if apart and target[f] > 0:
                total += min(1, sum(apart) / len(apart) / target[f].item()) / len(target)
    found = feature_diversity(seen, targets)
    assert found.item() == pytest.approx(total, rel=1e-6) and found.dtype == torch.float32
    found.backward()
    assert seen[0].grad[:, 2].abs().max() == 0 and seen[0].grad.isfinite().all()
    assert feature_diversity(seen, [torch.zeros_like(target) for target in targets]) == 0


@pytest.mark.parametrize("n", [2, 5, 6])
def test_diversity_is_the_mean_ratio_of_paired_distances(n):
    draw = torch.Generator().manual_seed(0)
    clips, noise = torch.randn(n, 3, 2, 2, 2, generator=draw), torch.randn(n, 7, generator=draw)
    ratios = []
    for i in range(n // 2):
        pixels = sum(abs(a - b) for a, b in zip(clips[2 * i].flatten(), clips[2 * i + 1].flatten(), strict=True)) / 24
        values = sum(abs(a - b) for a, b in zip(noise[2 * i], noise[2 * i + 1], strict=True)) / 7
        ratios.append(pixels / values)
    torch.testing.assert_close(diversity(clips, noise, 1e9), torch.stack(ratios).mean())
    assert diversity(clips, noise, 0.01) == pytest.approx(0.01)
    assert diversity(clips[:1].repeat(n, 1, 1, 1, 1), noise, 1.0) == 0
    assert diversity(clips[:1], noise[:1], 1.0) == 0  # no pair


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 1)])
def test_contrast_is_the_cross_entropy_of_the_right_one_among_all(shape):
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    wrong = torch.randn(*shape, 6, generator=generator, dtype=torch.float64)
    rows = torch.cat([right.reshape(-1, 1), wrong.reshape(-1, 6)], 1)
    expected = F.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.int64))
    torch.testing.assert_close(contrast(right, wrong).double(), expected, rtol=1e-6, atol=1e-6)
    alone = F.cross_entropy(rows[:, :2], torch.zeros(len(rows), dtype=torch.int64))
    torch.testing.assert_close(contrast(right, wrong[..., 0]).double(), alone, rtol=1e-6, atol=1e-6)
    # What is the same under all conditions, how real a clip is, changes nothing.
    shift = torch.randn(shape, generator=generator, dtype=torch.float64)
    shifted = contrast(right + shift, wrong + shift[..., None])
    torch.testing.assert_close(shifted.double(), expected, rtol=1e-5, atol=1e-6)


def test_contrast_of_a_logit_that_stands_out_stays_finite():
    right, wrong = torch.tensor([3e4], dtype=torch.float16), torch.tensor([[-3e4, 3e4]], dtype=torch.float16)
    assert contrast(right, wrong).item() == pytest.approx(0.693147, rel=1e-4)
