"""The kernel distance against its formula, and its interval against draws of new clips."""

import numpy as np
import pytest
import torch

from fastvgan.metrics.kernel import KernelDistance, kernel_distance


def compute_in_loops(x, y):
    """Gretton et al. 2012, equation 3, with the kernel of Bińkowski et al. 2018, in explicit sums."""

    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


@pytest.mark.parametrize(("m", "n", "d"), [(2, 2, 1), (5, 9, 3), (12, 7, 20)])
def test_it_is_the_published_formula(m, n, d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 2, (m, d)), rng.normal(0, 1, (n, d))
    assert kernel_distance(torch.tensor(x), torch.tensor(y)) == pytest.approx(compute_in_loops(x, y), rel=1e-10)
    assert kernel_distance(torch.tensor(x).float(), torch.tensor(y).half()) == pytest.approx(
        compute_in_loops(x.astype(np.float32).astype(float), y.astype(np.float16).astype(float)), rel=1e-10
    )


def test_it_is_unbiased():
    """The mean over many small draws from one distribution is zero; the biased estimate's would be 2 here."""
    generator = torch.Generator().manual_seed(0)
    values = [kernel_distance(*torch.randn(2, 10, 4, generator=generator)) for _ in range(400)]
    error = np.std(values) / 20
    assert abs(np.mean(values)) < 4 * error and error < 0.1


def test_draws_that_are_even_over_groups_stay_unbiased():
    """Both sets have ten clips of each of two distant groups: the plain estimate is negative, the grouped is not."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(20) % 2
    plain, grouped = [], []
    for _ in range(300):
        a, b = torch.randn(2, 20, 4, generator=generator) + 2.0 * groups[:, None]
        plain.append(KernelDistance(b).distance(a))
        grouped.append(KernelDistance(b, groups).distance(a, groups))
    error = np.std(grouped) / 300**0.5
    assert abs(np.mean(grouped)) < 4 * error
    assert np.mean(plain) < -8 * error


def test_groups_of_uneven_sizes_count_alike():
    """A pair within a group of s counts s / (s - 1) times, so the group has the same weight as between two sets."""
    x = torch.randn(7, 3, dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    kernel = (x @ x.T / 3 + 1) ** 3
    size = torch.bincount(groups)[groups].double()
    weights = torch.where(groups[:, None] == groups, size / (size - 1), torch.ones(7))
    weights.fill_diagonal_(0)
    within = (kernel * weights).sum() / weights.sum()
    y = torch.randn(5, 3, dtype=torch.float64)
    expected = compute_in_loops(x.numpy(), y.numpy()) - (kernel.sum() - kernel.trace()) / 42 + within
    assert KernelDistance(y).distance(x, groups) == pytest.approx(expected.item(), rel=1e-10)


def test_two_clips_of_each_condition_that_was_drawn_stay_unbiased():
    """Conditions are far apart, so the plain estimate for two sets of one distribution is high."""
    generator = torch.Generator().manual_seed(0)
    twins = torch.arange(10).repeat(2)
    plain, paired = [], []
    for _ in range(300):
        conditions, real = torch.randn(2, 20, 4, generator=generator)
        made = conditions[:10].repeat(2, 1) * 2 + torch.randn(20, 4, generator=generator)
        real = real * 2 + torch.randn(20, 4, generator=generator)
        plain.append(KernelDistance(real).distance(made))
        paired.append(KernelDistance(real).distance(made, twins=twins))
    error = np.std(paired) / 300**0.5
    assert abs(np.mean(paired)) < 4 * error
    assert np.mean(plain) > 8 * error


@pytest.mark.parametrize("has_strata", [False, True])
def test_clips_under_conditions_of_the_reference_set_stay_unbiased(has_strata):
    """As with first frames: each generated clip resembles the real one whose condition it has, and no other one."""
    generator = torch.Generator().manual_seed(0)
    twins = torch.arange(16) // 2 * 2
    strata = torch.arange(16) // 4 if has_strata else None
    plain, paired = [], []
    for _ in range(300):
        conditions = torch.randn(16, 4, generator=generator)
        if strata is not None:  # drawn evenly from four captions, which are far apart
            conditions += 3 * torch.randn(4, 4, generator=torch.Generator().manual_seed(1))[strata]
        real = conditions * 2 + 0.1 * torch.randn(16, 4, generator=generator)
        made = conditions[twins] * 2 + 0.1 * torch.randn(16, 4, generator=generator)
        plain.append(KernelDistance(real, strata).distance(made, strata))
        paired.append(KernelDistance(real, strata).distance(made, strata, twins))
    assert abs(np.mean(paired)) < 4 * np.std(paired) / 300**0.5
    assert abs(np.mean(plain)) > 8 * np.std(plain) / 300**0.5


def test_pairs_left_in_a_stratum_weigh_as_much_as_all_would():
    """Strata of 4 clips under 2 conditions each: 8 of 12 ordered pairs are left, with a total weight of 16.

    A clip's pair with the clip of the reference set whose condition it has is left out.
    """
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    strata, twins = torch.arange(8) // 4, torch.arange(8) // 2
    kernel = (x @ x.T / 3 + 1) ** 3
    within = sum(
        kernel[i, j] * (2 if strata[i] == strata[j] else 1) for i in range(8) for j in range(8) if twins[i] != twins[j]
    )
    across = (x @ y.T / 3 + 1) ** 3
    between = np.mean([across[i, j].item() for i in range(8) for j in range(5) if twins[i] != j])
    expected = compute_in_loops(x.numpy(), y.numpy()) - (kernel.sum() - kernel.trace()) / 56 + within / 64
    expected += 2 * (across.mean() - between)
    assert KernelDistance(y).distance(x, strata, twins) == pytest.approx(expected.item(), rel=1e-10)


def test_the_interval_is_as_wide_as_draws_spread():
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(200, 8, generator=generator) + 0.5, torch.randn(200, 8, generator=generator)

    values = [kernel_distance(*draw()) for _ in range(200)]
    spread = np.quantile(values, 0.975) - np.quantile(values, 0.025)
    widths = []
    for seed in range(5):
        a, b = draw()
        interval = KernelDistance(b, seed=seed).interval(a, resamples=200)
        assert interval.low < interval.value < interval.high
        assert interval.value == pytest.approx(kernel_distance(a, b))
        widths.append(interval.high - interval.low)
    assert np.mean(widths) == pytest.approx(spread, rel=0.3)


def test_the_same_seed_gives_the_same_interval():
    a, b = torch.randn(2, 30, 4)
    assert KernelDistance(b, seed=1).interval(a) == KernelDistance(b, seed=1).interval(a)
    assert KernelDistance(b, seed=1).interval(a) != KernelDistance(b, seed=2).interval(a)


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (torch.zeros(1, 4), torch.zeros(3, 4), "N of 2 or more"),
        (torch.zeros(3, 4), torch.zeros(3, 4, 1), "N of 2 or more"),
        (torch.full((3, 4), torch.nan), torch.zeros(3, 4), "finite"),
        (torch.zeros(3, 4), torch.zeros(3, 5), "must have 5 values, as those of real clips, not 4"),
    ],
)
def test_what_cannot_be_measured(a, b, sentence):
    with pytest.raises(ValueError, match=sentence):
        kernel_distance(a, b)
