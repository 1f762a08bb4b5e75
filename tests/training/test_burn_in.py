"""Schedules of the burn-in against their formula, and combinations of flags that no step can serve."""

import math

import pytest
import torch
from tiny import tiny

from fastvgan.errors import UserError
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.schedule import LEVELS, beta_at, beta_level, between, follow_schedules, share_passed
from fastvgan.training.step.adversarial import AdversarialStep


def test_the_change_is_half_a_cosine_that_ends_with_the_burn_in():
    steps, share, first, last = 200, 0.25, 2.0, 0.2
    for done in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * done / (share * steps)))
        expected = first + (1 - decay) * (last - first) if done < share * steps else last
        assert between(first, last, share_passed(done, steps, share)) == pytest.approx(expected, abs=1e-12)
    assert between(0.3, 0.3, 0.123) == 0.3  # the very number, so that runs without a burn-in keep their bits


def test_adam_s_second_beta_takes_sixteen_values_from_the_first_to_the_last():
    levels = [beta_level(share_passed(done, 1000, 0.5)) for done in range(1000)]
    assert levels == sorted(levels) and set(levels) == set(range(LEVELS)) and levels[499:] == [15] * 501
    values = [beta_at(0.9, 0.99, level) for level in range(LEVELS)]
    assert values[0] == 0.9 and values[-1] == pytest.approx(0.99, abs=1e-15) and values == sorted(values)


@pytest.mark.parametrize(("done", "wanted"), [(0, (8.0, 1.2)), (5, (5.0, 1.2)), (10, (2.0, 1.2)), (19, (2.0, 1.2))])
def test_a_penalty_s_weight_counts_for_the_steps_without_it_throughout_a_run(done, wanted):
    config = tiny({"condition": ()}, r1=2.0, r1_final=0.5, r2=0.3, r1_every=4, burn_in=0.5)
    step = AdversarialStep(config.model, config.training, torch.device("cpu"), torch.float32)
    follow_schedules(step, config.training, done, 20, 1.0)
    clips = torch.ones(2, 3, 1, 1, 1, requires_grad=True)
    logits = [clips.flatten(1).sum(1, keepdim=True)]  # whose gradient has a squared norm of 3
    for penalty, weight in zip((step.penalties.r1, step.penalties.r2), wanted, strict=True):
        found = penalty(logits, clips, None, lambda moved: [])
        assert found.value == 1.5 and found.cost.item() == pytest.approx(1.5 * weight)


R3GAN = {"objective": "relativistic", "r1": 1.0, "r2": 1.0, "r1_every": 1}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"objective": "wgan-gp"}, "--objective wgan-gp needs a gradient penalty, .* pass --gp 10"),
        ({"objective": "wgan-gp", "r1": 1.0}, "pass --gp 10"),
        ({**R3GAN, "r1_every": 16}, "not every 16 steps; pass --r1-every 1"),
        ({"penalty_scale": 0.1, "r1": 1.0}, "--penalty-scale 0.1 needs --penalty finite-difference"),
        ({"penalty": "finite-difference"}, "no penalty to compute; pass --r1 or --r2"),
        ({"penalty": "finite-difference", "r1": 1.0, "gp": 1.0}, "not the norm of --gp"),
        ({"r1": 1.0, "r1_final": 0.1}, "--r1-final 0.1 needs .* pass --burn-in 0.5"),
        ({"burn_in": 0.5}, "--burn-in 0.5 changes nothing without --r1-final"),
        ({"r2_final": 0.1, "burn_in": 0.5}, "--r2-final 0.1 needs the weight to start from; pass --r2, too"),
        ({"objective": "hinges"}, "expected one of nonsaturating, minimax, hinge, wgan-gp, relativistic"),
    ],
)
def test_what_no_step_can_serve_is_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainingConfig(**settings)


def test_what_a_step_can_serve_is_accepted_and_older_files_keep_their_meaning():
    TrainingConfig(**R3GAN, r1_final=0.1, r2_final=0.1, beta2_final=0.99, burn_in=0.5, contrast=1.0)
    TrainingConfig(objective="wgan-gp", gp=10.0, beta2_final=0.9, burn_in=1.0)
    TrainingConfig(penalty="finite-difference", penalty_scale=0.1, r2=1.0)
    old = TrainingConfig.model_validate({"r1": 0.5, "r1_every": 4})
    assert (old.r2, old.gp, old.penalty, old.burn_in, old.r1_final) == (0, 0, "exact", 0, None)
    assert torch.tensor(between(old.r1, old.r1, 1.0) * old.r1_every).item() == 2.0
