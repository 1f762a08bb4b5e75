"""The objectives and penalties against torch's binary cross entropy and their formulas, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastvgan.losses import (
    OBJECTIVES,
    PairedObjective,
    contrast,
    discriminator_loss,
    diversity,
    feature_diversity,
    finite_difference_penalty,
    gradient_penalty,
    mean_differences,
    mean_over_pairs,
    unit_gradient_penalty,
)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [10 * torch.randn(33, generator=generator) for _ in range(3)]


def bce(logits, target):
    logits = logits.double()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


@pytest.mark.parametrize("name", ["nonsaturating", "minimax"])
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


@st.composite
def three_logits(draw):
    """Logits of real and generated clips (N, P), and of real ones under wrong conditions (N, P) or (N, P, K)."""
    n, p, k = (draw(st.integers(1, 5)) for _ in range(3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = ((n, p), (n, p), draw(st.sampled_from([(n, p), (n, p, k)])))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    return [(4 * torch.randn(shape, generator=generator)).to(dtype) for shape in shapes]


def written_out(name, real, fake, wrong):
    """D's loss with and without wrong conditions, and G's loss, by loops over single numbers."""
    r, f, w = (x.double().flatten().tolist() for x in (real, fake, wrong))
    each = wrong.numel() // real.numel()

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    def softplus(x):
        return math.log1p(math.exp(-abs(x))) + max(x, 0)

    if name == "relativistic":
        pairs = mean(softplus(-(a - b)) for a, b in zip(r, f, strict=True))
        own = mean(softplus(-(r[i // each] - b)) for i, b in enumerate(w))
        return pairs, (pairs + own) / 2, mean(softplus(-(b - a)) for a, b in zip(r, f, strict=True))
    on_real, on_fake, generator = {
        "nonsaturating": (lambda x: softplus(-x), softplus, lambda x: softplus(-x)),
        "minimax": (lambda x: softplus(-x), softplus, lambda x: -softplus(x)),
        "hinge": (lambda x: max(0, 1 - x), lambda x: max(0, 1 + x), lambda x: -x),
        "wgan-gp": (lambda x: -x, lambda x: x, lambda x: -x),
    }[name]
    first, second, third = mean(map(on_real, r)), mean(map(on_fake, f)), mean(map(on_fake, w))
    return first + second, first + (second + third) / 2, mean(map(generator, f))


@pytest.mark.parametrize("name", OBJECTIVES)
@given(logits=three_logits())
@settings(max_examples=30, deadline=None)
def test_every_objective_is_its_formula(name, logits):
    real, fake, wrong = logits
    objective = OBJECTIVES[name]
    plain, matching_aware, generator = written_out(name, *logits)
    g_loss = objective.generator(fake, real) if isinstance(objective, PairedObjective) else objective.generator(fake)
    found = discriminator_loss(objective, real, fake), discriminator_loss(objective, real, fake, wrong), g_loss
    for value, expected in zip(found, (plain, matching_aware, generator), strict=True):
        assert value.dtype == torch.float32 and value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def stock_discriminator(norm):
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 3, 3, 2, 1), nn.Softplus(), nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)]
    layers = layers if norm else layers[:3]
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)).double()


def logits_and_clips(norm, n=3):
    discriminator = stock_discriminator(norm)
    x = torch.randn(n, 2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    return discriminator, discriminator(x), x


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("penalty", "formula"),
    [
        (gradient_penalty, lambda norms: norms.square().mean() / 2),
        (unit_gradient_penalty, lambda norms: (norms - 1).square().mean()),
    ],
)
def test_penalties_are_their_formulas_by_single_clips(penalty, formula, n):
    """Values and the gradients of D's weights; each clip's gradient by a separate pass."""
    discriminator, logits, x = logits_and_clips(False, n)
    value = penalty(logits, x)
    ones = [one[None].detach().requires_grad_() for one in x]
    gradients = [torch.autograd.grad(discriminator(one).sum(), one, create_graph=True)[0] for one in ones]
    expected = formula(torch.stack([gradient.norm() for gradient in gradients]))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-8)
    weights = list(discriminator.parameters())
    mine, theirs = (torch.autograd.grad(y, weights, allow_unused=True) for y in (value, expected))
    assert max(gradient.abs().max() for gradient in theirs if gradient is not None) > 1e-6
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_a_flat_discriminator_has_finite_penalties():
    weight = torch.zeros(5, requires_grad=True)
    x = torch.randn(2, 5, requires_grad=True)
    for penalty, expected in ((gradient_penalty, 0), (unit_gradient_penalty, 1)):
        value = penalty(x @ weight, x)
        (gradient,) = torch.autograd.grad(value, weight)
        assert value == expected and gradient.isfinite().all()


@pytest.mark.parametrize("norm", [False, True])
def test_finite_differences_estimate_the_squares_of_all_derivatives(norm):
    """Without batch statistics a clip's logit depends on that clip alone, and the sum is `gradient_penalty`."""
    discriminator, logits, x = logits_and_clips(norm)
    jacobian = torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0] for one in logits])
    expected = jacobian.square().sum() / len(x) / 2
    if not norm:
        torch.testing.assert_close(gradient_penalty(logits, x).double(), expected, rtol=1e-6, atol=1e-9)
    generator, scale, values = torch.Generator().manual_seed(0), 1e-4, []
    with torch.no_grad():
        for _ in range(2000):
            moved = x + scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
            values.append(finite_difference_penalty(discriminator(x), discriminator(moved), scale).double())
    found, error = torch.stack(values).mean(), torch.stack(values).std() / len(values) ** 0.5
    assert abs(found - expected) < 4 * error and error < 0.05 * expected


def test_a_finite_difference_is_its_formula_and_differentiable():
    a, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    value = finite_difference_penalty(a, b, 0.3)
    expected = sum(((y - x) / 0.3) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)) / 4 / 2
    assert value.item() == pytest.approx(expected, rel=1e-6)
    mine = torch.autograd.grad(value, (a, b))
    wanted = (b - a).detach() / 0.3**2 / 4
    torch.testing.assert_close(mine, (-wanted, wanted), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["nonsaturating", "minimax", "hinge"])
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


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (2, 2, 2, 2), (1, 5, 2)])
def test_the_mean_over_parts_is_that_over_their_pairs(sizes):
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(8, 5, dtype=torch.float64, generator=generator)
    kinds = torch.tensor([0, 1, 0, 0, 2, 3, 1, 1])
    parts = list(zip(seen.split(sizes), kinds.split(sizes), strict=True))
    alike = [labels[:, None] == labels for _, labels in parts]
    apart = [
        (x[i] - x[j]).abs() for x, labels in parts for i in range(len(x)) for j in range(i) if labels[i] == labels[j]
    ]
    found = mean_over_pairs([mean_differences(x, same) for (x, _), same in zip(parts, alike, strict=True)], alike)
    torch.testing.assert_close(found, torch.stack(apart).mean(0) if apart else torch.zeros(5, dtype=torch.float64))


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
