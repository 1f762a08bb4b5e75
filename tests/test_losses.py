"""The objectives against torch's binary cross entropy and the textbook's formula, in float64."""

import pytest
import torch
import torch.nn.functional as F

from fastvgan.losses import OBJECTIVES, discriminator_loss, diversity


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
