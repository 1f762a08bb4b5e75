"""An update against torch's own GradScaler and Adam; what is not finite stays out, and the penalty is R1."""

import math

import pytest
import torch
from test_graphs import everything, make
from tiny import tiny
from torch import nn

from fastvgan.losses import gradient_penalty
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.update import Update

BETAS = (0.5, 0.999)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def losses(net, step):
    """Of which some are not finite, and some have gradients that only the scale makes overflow."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
    loss = net(x).square().mean()
    if step % 7 == 3:
        return loss * math.inf
    return loss * 3e38 if step % 11 == 1 else loss


def test_a_scaled_update_is_that_of_torchs_scaler(monkeypatch):
    from fastvgan.training.step import update as module

    monkeypatch.setattr(module, "_GROWTH_INTERVAL", 3)
    mine, theirs = network(), network()
    update = Update(mine, 1e-2, BETAS, is_scaled=True)
    adam = torch.optim.Adam(theirs.parameters(), 1e-2, BETAS)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    scales = set()
    for step in range(60):
        update.clear()
        loss = losses(mine, step)
        update.backward(loss)
        update.apply(loss)
        adam.zero_grad()
        scaler.scale(losses(theirs, step)).backward()
        scaler.step(adam)
        scaler.update()
        assert update.scale.item() == scaler.get_scale()
        scales.add(update.scale.item())
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert len(scales) > 3


def test_an_unscaled_update_is_adam_with_the_norm_of_its_gradients():
    mine, theirs = network(), network()
    update = Update(mine, 1e-2, BETAS, is_scaled=False)
    adam = torch.optim.Adam(theirs.parameters(), 1e-2, BETAS)
    for step in range(20):
        share = 1 - step / 40
        update.set_share(share)
        adam.param_groups[0]["lr"] = 1e-2 * share
        x = torch.randn(4, 3)
        update.clear()
        loss = mine(x).square().mean()
        update.backward(loss)
        norm = update.apply(loss)
        adam.zero_grad()
        theirs(x).square().mean().backward()
        expected = sum(p.grad.double().square().sum() for p in theirs.parameters()).sqrt()
        torch.testing.assert_close(norm.double(), expected, rtol=1e-5, atol=0)
        adam.step()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_changes_nothing_and_is_counted(bad, where):
    net = network()
    update = Update(net, 1e-2, BETAS, is_scaled=False)
    counted = []
    for step in range(6):
        before = [p.detach().clone() for p in net.parameters()]
        slots = [slot.clone() for slots in update.optimizer.state.values() for slot in slots.values()]
        update.clear()
        loss = net(torch.ones(2, 3)).mean()
        update.backward(loss)
        poisoned = step in (2, 3, 5)
        if poisoned and where == "gradient":
            next(net.parameters()).grad.view(-1)[1] = bad
        update.apply(loss + bad if poisoned and where == "loss" else loss)
        counted.append(update.in_a_row.item())
        assert update.found.item() == poisoned
        same = all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
        moments = [slot for slots in update.optimizer.state.values() for slot in slots.values()]
        same_moments = all(torch.equal(p, q) for p, q in zip(moments, slots, strict=True))
        assert same == same_moments == poisoned
    assert counted == [0, 0, 1, 2, 0, 1]


def test_overflow_that_a_smaller_scale_fixes_is_no_trouble():
    update = Update(network(), 1e-2, BETAS, is_scaled=True)
    rows = []
    for step in range(20):
        update.clear()
        for parameter in update.parameters:
            parameter.grad = torch.full_like(parameter, math.inf if step < 18 else 1.0)
        update.apply(torch.tensor(1.0))
        rows.append(update.in_a_row.item())
    assert rows[:16] == [0] * 16 and rows[16:18] == [1, 2] and rows[18:] == [0, 0]


def test_a_skipped_step_leaves_statistics_and_average_finite():
    step, *_ = make(parts=())
    real, z = torch.rand(4, 3, 16, 16, 16), step.generator.noise(4)
    step(0, Inputs(real, z))
    before = {name: tensor.detach().clone() for name, tensor in everything(step).items()}
    result = step(1, Inputs(real, z * math.nan))
    assert result.skipped == 1 and torch.isnan(result.g_loss) and torch.isnan(result.d_loss)
    after = everything(step)
    for name in before:
        assert torch.isfinite(after[name]).all(), name
        if not name.startswith(("ema/", "state/", "totals")):
            assert torch.equal(before[name], after[name]), name
    assert step.totals[0].isfinite().all()
    assert step(2, Inputs(real, z)).skipped == 0


def test_the_penalty_is_half_the_mean_squared_gradient():
    """For D(x) = <w, x>² / 2 the gradient is <w, x> w."""
    w, x = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(5, 3, 2, 4, 4, dtype=torch.float64)
    x.requires_grad_()
    w.requires_grad_()
    inner = (x * w).flatten(1).sum(1)
    penalty = gradient_penalty(inner.square() / 2, x)
    expected = ((inner.square() * w.square().sum()).mean() / 2).float()
    torch.testing.assert_close(penalty, expected, rtol=1e-5, atol=1e-5)
    (mine,), (theirs,) = torch.autograd.grad(penalty, w, retain_graph=True), torch.autograd.grad(expected, w)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_lazy_regularisation_adds_the_penalty_to_d_s_gradient(family):
    config = tiny({"condition": (), "family": family}, r1=3.0, r1_every=4)
    cpu = torch.device("cpu")
    step = AdversarialStep(config.model, config.training, cpu, torch.float32)
    plain = AdversarialStep(config.model, config.training, cpu, torch.float32)
    assert [step.has_gradient_penalty(n) for n in range(6)] == [True, False, False, False, True, False]
    real, z = torch.rand(4, 3, 16, 16, 16), step.generator.noise(4)
    discriminator = plain.discriminator
    x = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    value = gradient.square().sum((1, 2, 3, 4)).mean() / 2
    wanted = torch.autograd.grad(3.0 * 4 * value, list(discriminator.parameters()), allow_unused=True)
    plain = AdversarialStep(config.model, config.training, cpu, torch.float32)
    assert torch.isnan(plain(1, Inputs(real, z)).r1)
    result = step(0, Inputs(real, z), regularise=True)
    torch.testing.assert_close(result.r1, value.detach(), rtol=1e-4, atol=1e-6)
    parameters = zip(step.discriminator.parameters(), plain.discriminator.parameters(), wanted, strict=True)
    for mine, theirs, extra in parameters:
        extra = 0 if extra is None else extra
        torch.testing.assert_close(mine.grad, theirs.grad + extra, rtol=1e-3, atol=1e-5)


def test_parts_of_a_batch_give_the_mean_of_their_gradients():
    """Two parts of two clips: the losses' gradients are the means of those of each part alone."""
    whole, *_ = make(parts=(), accumulate=2)
    real, z = torch.rand(4, 3, 16, 16, 16), whole.generator.noise(4)
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        half, *_ = make(parts=())
        half(0, Inputs(real[rows], z[rows]))
        halves.append([p.grad for p in half.discriminator.parameters()])
    whole(0, Inputs(real, z))
    for mine, *parts in zip([p.grad for p in whole.discriminator.parameters()], *halves, strict=True):
        torch.testing.assert_close(mine, sum(parts) / 2, rtol=1e-4, atol=1e-6)
