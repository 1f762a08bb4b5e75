"""The step against the textbook loop in stock PyTorch, the average, and the statistics that go with it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import nn

from fastvgan.losses import OBJECTIVES
from fastvgan.models import Condition
from fastvgan.runs.presets import PRESETS
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.passes import settle_statistics
from fastvgan_kernels.philox import philox_4x32

CPU = torch.device("cpu")


def reference_step(objective, **training):
    preset = PRESETS["reference"]
    model = preset.model.model_copy(update={"base_width": 4, "latent": 5})
    training = preset.training.model_copy(update={"objective": objective, "lr_generator": 1e-3, **training})
    step = AdversarialStep(model, training, CPU, torch.float32)
    in_float64(step)
    return step


def in_float64(step):
    for network in (step.generator, step.discriminator, step.ema):
        network.double()
    for update in (step.g_update, step.d_update):
        for slots in update.optimizer.state.values():
            slots |= {name: slots[name].double() for name in ("exp_avg", "exp_avg_sq")}


def stock_networks(step):
    generator = nn.Sequential(
        nn.ConvTranspose3d(5, 8, 4, 1, 0, bias=False), nn.BatchNorm3d(8), nn.ReLU(),
        nn.ConvTranspose3d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm3d(4), nn.ReLU(),
        nn.ConvTranspose3d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
    ).double()  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv3d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
        nn.Conv3d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm3d(8), nn.LeakyReLU(0.2),
        nn.Conv3d(8, 1, 4, 1, 0, bias=False),
    ).double()  # fmt: skip
    for ours, stock in ((step.generator, generator), (step.discriminator, discriminator)):
        stock.load_state_dict(dict(zip(stock.state_dict(), ours.state_dict().values(), strict=True)))
    return generator, discriminator


def softplus_of_difference(above, below):
    return F.softplus(below - above).mean()


def textbook_losses(objective, real, fake):
    """D's and G's loss from logits in float64."""
    bce = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    if objective == "relativistic":
        return softplus_of_difference(real, fake), softplus_of_difference(fake, real)
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()
    if objective == "wgan-gp":
        return fake.mean() - real.mean(), -fake.mean()
    d_loss = bce(real, ones) + bce(fake, zeros)
    return d_loss, bce(fake, ones) if objective == "nonsaturating" else -bce(fake, zeros)


def textbook_penalty(discriminator, clips, power):
    """Mean of the squared norm of each clip's gradient, or of the squared distance of the norm from 1."""
    clips = clips.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(clips).sum(), clips, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    return norms.square().mean() if power == 0 else (norms - 1).square().mean()


PENALTIES = [{}, {"r1": 0.3, "r2": 0.2, "r1_every": 1}, {"r1": 0.3, "r1_every": 2}, {"gp": 3.0}]


@pytest.mark.parametrize("penalties", PENALTIES, ids=lambda p: "+".join(p) or "none")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_five_steps_equal_the_textbook_loop(objective, penalties):
    """One pass of G for both updates, and D without weight gradients in G's, must change nothing."""
    step = reference_step(objective, **penalties)
    generator, discriminator = stock_networks(step)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, (0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    draw = torch.Generator().manual_seed(0)
    r1, r2, gp, every = (penalties.get(name, 0.0) for name in ("r1", "r2", "gp", "r1_every"))
    for number in range(5):
        real = torch.rand(4, 3, 16, 16, 16, generator=draw, dtype=torch.float64) * 2 - 1
        z = torch.randn(4, 5, generator=draw, dtype=torch.float64)
        samples = torch.arange(4 * number, 4 * number + 4)
        result = step(number, Inputs(real, z, samples=samples), step.has_gradient_penalty(number))

        noise = z[:, :, None, None, None]
        fake = generator(noise).detach()
        d_optimizer.zero_grad()
        d_loss, _ = textbook_losses(objective, discriminator(real).flatten(), discriminator(fake).flatten())
        cost = d_loss
        if r1 and number % every == 0:
            cost = cost + r1 * every / 2 * textbook_penalty(discriminator, real, 0)
        if r2 and number % every == 0:
            cost = cost + r2 * every / 2 * textbook_penalty(discriminator, fake, 0)
        if gp:
            share = torch.tensor([philox_4x32((0, k, 0, 12), (0, 0))[0] / 2**32 for k in samples.tolist()]).double()
            share = share[:, None, None, None, None]
            cost = cost + gp * textbook_penalty(discriminator, share * real + (1 - share) * fake, 1)
        cost.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        logits = discriminator(real).flatten(), discriminator(generator(noise)).flatten()
        _, g_loss = textbook_losses(objective, *logits)
        g_loss.backward()
        g_optimizer.step()
        torch.testing.assert_close(result.d_loss.double(), d_loss.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result.g_loss.double(), g_loss.detach(), rtol=1e-5, atol=1e-5)
    # Losses are computed in float32, so weights agree to that.
    for ours, stock in ((step.generator, generator), (step.discriminator, discriminator)):
        for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def make(parts=("text",), family="conv3d", **model):
    known = {"vocabulary": tuple("abc"), "caption_length": 2, "class_names": ("x", "y"), "condition": parts}
    config = tiny({**known, "family": family, **model})
    step = AdversarialStep(config.model, config.training, CPU, torch.float32)
    real = torch.rand(4, 3, 16, 16, 16) * 2 - 1
    right = Condition(torch.randint(0, 5, (4, 2)), torch.randint(0, 2, (4,)), real[:, :, 0])
    return step, real, right


@pytest.mark.parametrize("part", ["text", "label", "image"])
@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_the_wrong_condition_enters_d_s_loss(part, family):
    step, real, right = make(("text", "class", "image"), family)
    wrong = right._replace(**{part: getattr(right, part).roll(1, 0)})
    z = step.generator.noise(4)
    first = copy.deepcopy(step)(0, Inputs(real, z, right, wrong, part == "image"))
    again = copy.deepcopy(step)(0, Inputs(real, z, right, right))
    without = copy.deepcopy(step)(0, Inputs(real, z, right, None))
    assert first.d_loss != again.d_loss and without.d_loss != again.d_loss
    discriminator = copy.deepcopy(step).discriminator
    with torch.no_grad():
        fake = step.generator(z, right)
        real_logits, fake_logits = discriminator(real, right), discriminator(fake, right)
        wrong_logits = discriminator(real, wrong)
    expected = F.softplus(-real_logits).mean() + (F.softplus(fake_logits).mean() + F.softplus(wrong_logits).mean()) / 2
    torch.testing.assert_close(first.d_loss, expected, rtol=1e-4, atol=1e-5)


def gradients_of_a_term(step, real, right, z, name, weight):
    """What the term of that name and weight adds to the gradients of G's update."""
    gradients = []
    for value in (0.0, weight):
        copied = copy.deepcopy(step)
        setattr(copied, name, value)
        copied._backward_generator(Inputs(real, z, right, None), copied.generator.draw(z, right), False)
        gradients.append([p.grad for p in copied.generator.parameters()])
    return [term - without for without, term in zip(*gradients, strict=True)]


def test_the_first_frame_term_is_the_mean_squared_difference_from_the_frame_given():
    step, real, right = make(("image",), "recurrent")
    z = step.generator.noise(4)
    found = gradients_of_a_term(step, real, right, z, "first_frame", 3.0)
    plain = copy.deepcopy(step).generator
    wanted = torch.autograd.grad(3 * (plain(z, right)[:, :, 0] - right.image).square().mean(), list(plain.parameters()))
    torch.testing.assert_close(found, list(wanted), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_what_is_new_in_a_frame_costs_its_share(family):
    step, real, right = make(("text",), family, warp=True)
    z = step.generator.noise(4)
    found = gradients_of_a_term(step, real, right, z, "redraw", 30.0)
    plain = copy.deepcopy(step).generator
    share = plain.draw(z, right).redrawn
    wanted = torch.autograd.grad(30 * share, list(plain.parameters()), allow_unused=True, materialize_grads=True)
    assert max(gradient.abs().max() for gradient in wanted) > 0
    torch.testing.assert_close(found, list(wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.1, 1.9, 2.1, 100.0])
def test_the_diversity_target_of_pictures_is_half_that_of_clips(share):
    """Yang et al. 2019, equation 3, written out, the target being `share` of what the first pair of clips has."""
    step, real, right = make(("text",), "recurrent", warp=True)
    right = Condition(right.text[::2].repeat_interleave(2, 0), None, None)  # the term's own pairs
    z = step.generator.noise(4)
    plain = copy.deepcopy(step).generator
    drawn = plain.draw(z, right)
    clips, pictures = (
        torch.stack([(x[i] - x[i + 1]).abs().mean() / (z[i] - z[i + 1]).abs().mean() for i in (0, 2)])
        for x in (drawn.clips, drawn.picture)
    )
    step.diversity_target = share * clips[0].item() + 1e-9
    found = gradients_of_a_term(step, real, right, z, "diversity", 7.0)
    term = clips.clamp(max=step.diversity_target).mean() + pictures.clamp(max=step.diversity_target / 2).mean()
    wanted = torch.autograd.grad(-7 * term, list(plain.parameters()))
    assert bool(max(part.abs().max() for part in wanted) > 0.01) == (share > 0)
    torch.testing.assert_close(found, list(wanted), rtol=1e-3, atol=1e-4)


def test_the_diversity_term_pairs_conditions_and_enters_g_s_update_alone():
    step, real, right = make(("text", "class", "image"))
    z = step.generator.noise(4)
    seen = []
    step.generator.condition.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    plain, diverse = copy.deepcopy(step), copy.deepcopy(step)
    diverse.diversity = 5.0
    before = plain(0, Inputs(real, z, right)), diverse(0, Inputs(real, z, right))
    for part, mine, paired in zip(right, seen[0], seen[1], strict=True):
        assert torch.equal(part, mine) and torch.equal(part[::2], paired[::2]) and torch.equal(part[::2], paired[1::2])
    assert 0 < before[1].diversity < 0.1
    weights = [torch.cat([p.flatten() for p in each.generator.parameters()]) for each in (plain, diverse)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
@pytest.mark.parametrize("parts", [("text",), ("class",), ("text", "class")])
def test_feature_diversity_goes_by_real_clips_of_one_condition(parts, family):
    step, real, _ = make(parts, family)
    right = {"text": torch.tensor([[1, 2], [2, 2]]), "class": torch.tensor([1, 0])}
    right = Condition(*(right[name] if name in parts else None for name in ("text", "class")))
    right = right.rows([0, 0, 1, 0])  # real clips 0, 1 and 3 are of one condition
    step.feature_diversity = 2.0
    z = step.generator.noise(4)
    paired = right.rows([0, 0, 2, 2])

    def compute_features(clips, c):
        """The largest value of each feature, the mean over time, from the networks' parts and not from `Projection`."""
        d = step.discriminator
        maps = [d.trunk(clips, c), *(other.encoder(clips, None) for other in d.others.values())]
        return [h.flatten(3).max(3).values.mean(2) for h in maps]

    pairs = ((0, 1), (0, 3), (1, 3))
    with torch.no_grad():
        wanted = [sum((x[i] - x[j]).abs() for i, j in pairs) / 3 for x in compute_features(real, right)]
    _, ((found, alike),) = copy.deepcopy(step)._backward_discriminator(Inputs(real, z, right, None), real, False, True)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert [(i, j) for i in range(4) for j in range(i + 1, 4) if alike[i, j]] == [*pairs]
    for target, apart in zip(step._real_differences, wanted, strict=True):
        target.copy_(1e3 * apart)  # out of reach, so that all features count
    found = gradients_of_a_term(step, real, paired, z, "feature_diversity", 2.0)
    generator = copy.deepcopy(step).generator
    made = compute_features(generator(z, paired), paired)
    shares = 0
    for x, target in zip(made, step._real_differences, strict=True):
        known = target > 0
        shares = shares + ((x[::2] - x[1::2]).abs().mean(0)[known] / target[known]).sum() / len(target)
    expected = torch.autograd.grad(-2 * shares, list(generator.parameters()), allow_unused=True)
    assert max(gradient.abs().max() for gradient in expected if gradient is not None) > 0
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs, rtol=1e-2, atol=1e-4)


def test_a_share_of_the_diversity_term_is_that_share_of_its_gradient():
    step, real, right = make(("text",))
    z = step.generator.noise(4)
    whole = gradients_of_a_term(step, real, right, z, "diversity", 4.0)
    step.set_diversity(0.25)
    quarter = gradients_of_a_term(step, real, right, z, "diversity", 16.0)
    assert max(gradient.abs().max() for gradient in whole) > 0
    torch.testing.assert_close(quarter, whole, rtol=1e-3, atol=1e-5)


def test_the_average_follows_its_rule():
    step, real, right = make()
    expected = [p.clone() for p in step.generator.parameters()]
    for number in range(3):
        step(number, Inputs(real, step.generator.noise(4), right))
        decay = min(0.99, (1 + number) / (10 + number))
        expected = [
            decay * e + (1 - decay) * p.detach() for e, p in zip(expected, step.generator.parameters(), strict=True)
        ]
    for mine, theirs in zip(step.ema.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert not mine.requires_grad


def test_g_s_update_leaves_no_gradient_in_d_and_d_trainable():
    step, real, right = make()
    z = step.generator.noise(4)
    other = copy.deepcopy(step)
    other.objective = other.objective._replace(generator=lambda logits: 1e3 * logits.sum())
    for each in (step, other):
        each(0, Inputs(real, z, right))
        assert all(p.requires_grad for p in each.discriminator.parameters())
    for mine, theirs in zip(step.discriminator.parameters(), other.discriminator.parameters(), strict=True):
        assert mine.grad.abs().sum() > 0 and torch.equal(mine.grad, theirs.grad)


def test_settled_statistics_are_those_of_the_batches():
    network = nn.Sequential(nn.BatchNorm3d(3, momentum=0.3), nn.ReLU(), nn.BatchNorm3d(3))
    batches = [torch.randn(4, 3, 2, 2, 2) * 2 + 1 for _ in range(3)]

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, z, c):
            return self.inner(z)

    settle_statistics(Called(), [(x, None) for x in batches])
    per_channel = [x.transpose(0, 1).flatten(1) for x in batches]
    torch.testing.assert_close(network[0].running_mean, torch.stack([x.mean(1) for x in per_channel]).mean(0))
    torch.testing.assert_close(network[0].running_var, torch.stack([x.var(1) for x in per_channel]).mean(0))
    assert network[0].momentum == 0.3 and not network[0].training


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_bfloat16_autocast_stays_near_float32(family):
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        config = tiny({"condition": (), "family": family, "base_width": 8})
        step = AdversarialStep(config.model, config.training, CPU, precision)
        real = torch.rand(8, 3, 16, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
        z = step.generator.noise(8, seed=2)
        losses.append(torch.stack([torch.stack(step(k, Inputs(real, z))[:2]) for k in range(10)]))
        assert all(p.dtype == torch.float32 for p in step.generator.parameters())
    torch.testing.assert_close(losses[0], losses[1], rtol=0.1, atol=0.1)
