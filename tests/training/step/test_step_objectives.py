"""Every objective and penalty with every discriminator, in a captured step, in parts, in float16, and resumed."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from recorded import Recorder
from tiny import Unscored, tiny, weights

from fastvgan.data.digits import DigitsSource
from fastvgan.models import Condition
from fastvgan.random_draws import Draws, Purpose, normals
from fastvgan.training.batches import BatchMaker, Inputs
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run import output
from fastvgan.training.run.resume import Start
from fastvgan.training.schedule import follow_schedules
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.graphs import StepRunner
from fastvgan.training.step.results import StepResult
from fastvgan.training.step.tensors import tensors_of

CPU = torch.device("cpu")
EXACT = {"r1": 0.2, "r2": 0.1, "r1_every": 1}
DIFFERENCES = {**EXACT, "penalty": "finite-difference"}
RECIPES = {
    "nonsaturating": {**EXACT, "r1_every": 2},
    "minimax": {**DIFFERENCES, "r1_every": 2},
    "hinge": DIFFERENCES,
    "wgan-gp": {"gp": 10.0},
    "relativistic": EXACT,
    "relativistic+differences": DIFFERENCES,
}
NAMES = ("clip", "difference", "frame")
SUBSETS = [names for size in (1, 2, 3) for names in itertools.combinations(NAMES, size)]


def make(recipe, precision=torch.float32, model=None, **training):
    """A step on the digits, its runner's inputs, and its settings."""
    training = {"objective": recipe.partition("+")[0], **RECIPES[recipe], **training}
    config = tiny({"condition": ("image", "text"), **(model or {})}, **training)
    source = DigitsSource(config.model.frames)
    networks = add_vocabulary(config.model, source)
    step = AdversarialStep(networks, config.training, CPU, precision)
    wrong, size = config.training.wrong_conditions, config.training.batch_size
    maker = BatchMaker(Conditions(networks, source), step.generator, source, 0, wrong, range(size), size)
    return step, maker, config.training


def run(recipe, backend=None, steps=4, **settings):
    step, maker, training = make(recipe, **settings)
    runner = StepRunner(step, maker, "auto" if backend else "off", backend)
    for number in range(steps):
        follow_schedules(step, training, number, steps, 1.0)
        runner(number)
    return {name: tensor.detach().clone() for name, tensor in {**tensors_of(step), "totals": step.totals}.items()}


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_objective_trains_every_discriminator(recipe, names):
    family = "recurrent" if len(names) == 2 else "conv3d"
    model = {"discriminators": names, "frame_every": 2, "family": family, "frames": 8}
    step, maker, _ = make(recipe, model=model, contrast=0.5, wrong_conditions=2, diversity=1.0)
    runner = StepRunner(step, maker, "off")
    before = weights(step)
    for number in range(2):
        runner(number)
    after = weights(step)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert step.skipped_steps == 0
    trained = [name for name, _ in step.discriminator.named_parameters()]
    assert not any(torch.equal(before[f"discriminator/{n}"], after[f"discriminator/{n}"]) for n in trained)
    by_name = dict(zip(StepResult._fields, step.totals[1], strict=True))
    for name in ("r1", "r2", "gp"):
        assert (by_name[name] > 0) == bool(RECIPES[recipe].get(name))


def test_g_compares_a_condition_with_other_ones_where_d_is_shown_wrong_first_frames():
    step, maker, _ = make("nonsaturating", contrast=0.5, wrong_conditions=5)
    runner, column = StepRunner(step, maker, "off"), StepResult._fields.index("g_contrast")
    shown = set()
    for number in (0, 6):
        step.totals.zero_()
        runner(number)
        shown.add(maker.has_wrong_image(maker.draw_wrong_part(number)))
        # Six equal conditions have a cross entropy of log 6, with no gradient.
        assert abs(step.totals[0, column] - math.log(6)) > 1e-4 and step.totals[1, column] == 1
    assert shown == {False, True}


def logit_losses(objective, right, fake, wrong):
    """D's loss and, of generated clips, G's, by torch's functions, for one discriminator's logits and K wrong ones."""
    if objective == "relativistic":
        d = (F.softplus(fake - right).mean() + F.softplus(wrong - right[..., None]).mean()) / 2
        return d, F.softplus(right - fake).mean()
    if objective == "hinge":
        d = F.relu(1 - right).mean() + (F.relu(1 + fake).mean() + F.relu(1 + wrong).mean()) / 2
        return d, -fake.mean()
    if objective == "wgan-gp":
        return -right.mean() + (fake.mean() + wrong.mean()) / 2, -fake.mean()
    d = F.softplus(-right).mean() + (F.softplus(fake).mean() + F.softplus(wrong).mean()) / 2
    return d, F.softplus(-fake).mean() if objective == "nonsaturating" else -F.softplus(fake).mean()


def words(purpose, size, n):
    return Draws(0, {purpose: size}, CPU)(torch.arange(n))[purpose]


def moved(clips, purpose):
    n, c, t, h, w = clips.shape
    noise = normals(words(purpose, c * t * h * w, n)).view(n, t, h, w, c).permute(0, 4, 1, 2, 3)
    return clips + 0.01 * noise


def penalties(settings, total, real, fake, right):
    """The weighted penalties, by `total`, which sums the discriminators' mean logits of clips under a condition."""
    cost = 0
    for weight, clips, purpose in ((settings.get("r1"), real, 10), (settings.get("r2"), fake, 11)):
        if weight and "penalty" in settings:
            there = total(moved(clips, Purpose(purpose)), right)
            cost = cost + weight * settings["r1_every"] / 2 * ((there - total(clips, right)) / 0.01).square().mean()
        elif weight:
            x = clips.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(total(x, right).sum(), x, create_graph=True)
            cost = cost + weight * settings["r1_every"] / 2 * gradient.square().flatten(1).sum(1).mean()
    if "gp" in settings:
        share = (words(Purpose.INTERPOLATION, 1, len(real)).double() / 2**32).float().view(-1, 1, 1, 1, 1)
        x = (share * real + (1 - share) * fake).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(total(x, right).sum(), x, create_graph=True)
        cost = cost + settings["gp"] * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return cost


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
@pytest.mark.parametrize(("recipe", "its"), {**RECIPES, "nonsaturating+none": {}}.items())
def test_gradients_are_those_of_the_written_out_losses(recipe, its, family):
    """Of D's and G's update: all three discriminators, three wrong captions per clip, contrast and penalties."""
    objective = recipe.partition("+")[0]
    known = {"vocabulary": tuple("abcdef"), "caption_length": 2, "condition": ("text",), "family": family}
    settings = {"objective": objective, "contrast": 0.7, **its}
    config = tiny({**known, "discriminators": NAMES, "frame_every": 2}, **settings)
    step = AdversarialStep(config.model, config.training, CPU, torch.float32)
    torch.manual_seed(1)
    real, z = torch.rand(4, 3, 16, 16, 16) * 2 - 1, step.generator.noise(4)
    right, wrong = Condition(torch.randint(0, 8, (4, 2))), Condition(torch.randint(0, 8, (4, 3, 2)))
    mine, plain = copy.deepcopy(step), copy.deepcopy(step)
    d, g = plain.discriminator, plain.generator

    def logits(x, c):
        return d.score(d.features(x, right), c)

    def total(x, c):
        return sum(part.mean(1) for part in logits(x, c))

    def contrasts(x):
        pairs = zip(logits(x, right), logits(x, wrong), strict=True)
        rows = (torch.cat([r[..., None], w], -1).flatten(0, 1) for r, w in pairs)
        return sum(F.cross_entropy(row, torch.zeros(len(row), dtype=torch.int64)) for row in rows)

    fake = g(z, right)
    of_d = zip(logits(real, right), logits(fake.detach(), right), logits(real, wrong), strict=True)
    d_loss = sum(logit_losses(objective, *each)[0] for each in of_d)
    cost = d_loss + 0.7 * contrasts(real) + penalties(its, total, real, fake.detach(), right)
    wanted_d = torch.autograd.grad(cost, list(d.parameters()))
    of_g = zip(logits(real, right), logits(fake, right), logits(real, wrong), strict=True)
    g_loss = sum(logit_losses(objective, *each)[1] for each in of_g)
    wanted_g = torch.autograd.grad(g_loss + 0.7 * contrasts(fake), list(g.parameters()))
    inputs = Inputs(real, z, right, wrong, samples=torch.arange(4))
    scalars, _ = mine._backward_discriminator(inputs, mine.generator(z, right).detach(), True, True)
    torch.testing.assert_close(scalars[0], d_loss)
    rtol, of_largest = (2e-3, 2e-3) if its else (1e-3, 0.0)
    for parameter, gradient in zip(mine.discriminator.parameters(), wanted_d, strict=True):
        atol = of_largest * gradient.abs().max().item() + 1e-5
        torch.testing.assert_close(parameter.grad, gradient, rtol=rtol, atol=atol)
    (loss, *_) = mine._backward_generator(inputs, mine.generator.draw(z, right), False)
    torch.testing.assert_close(loss, g_loss)
    for parameter, gradient in zip(mine.generator.parameters(), wanted_g, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_pair_s_probabilities_are_of_its_real_clip():
    step, maker, _ = make("relativistic", model={"condition": ("text",)})
    inputs = maker.make(torch.tensor(0), torch.tensor(0))._replace(wrong=None)
    d = copy.deepcopy(step.discriminator)
    with torch.no_grad():
        real, fake = d(inputs.real, inputs.c), d(step.generator(inputs.z, inputs.c), inputs.c)
    result = step(0, inputs)
    torch.testing.assert_close(result.d_real, (real - fake).sigmoid().mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.d_real + result.d_fake, torch.tensor(1.0))


def test_g_s_update_sees_real_clips_by_the_updated_d_and_trains_no_weight_of_d():
    step, maker, _ = make("relativistic", model={"condition": ("text",)}, r1=0.0, r2=0.0)
    inputs = maker.make(torch.tensor(0), torch.tensor(0))
    start = step.begin(inputs)
    step.update_discriminator(inputs, start)
    gradients = [p.grad.clone() for p in step.discriminator.parameters()]
    d = copy.deepcopy(step.discriminator)
    with torch.no_grad():
        expected = F.softplus(d(inputs.real, inputs.c) - d(start.drawn.clips, inputs.c)).mean()
    step.update_generator(inputs, start)
    torch.testing.assert_close(step._scalars[1], expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(p.grad, g) for p, g in zip(step.discriminator.parameters(), gradients, strict=True))


@pytest.fixture
def _same_kernels(monkeypatch):
    """What auto computes by stock PyTorch's own call it cannot in a recording, and then rounds otherwise."""
    monkeypatch.setenv("FASTVGAN_IMPL", "cpp")


PRECISIONS = dict(zip(RECIPES, [torch.float32, torch.float16, torch.bfloat16] * 2, strict=True))
SHORT = {"condition": ("text",), "frames": 8}


@pytest.mark.usefixtures("_same_kernels")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recorded_step_is_the_eager_one(recipe):
    model = {**SHORT, "discriminators": ("clip", "frame")}
    settings = {"precision": PRECISIONS[recipe], "model": model, "contrast": 0.5, "steps": 17}
    recorder = Recorder()
    eager, replayed = run(recipe, **settings), run(recipe, recorder, **settings)
    assert [name for name in eager if not torch.equal(eager[name], replayed[name])] == []
    assert recorder.captured == 2 + (2 if RECIPES[recipe].get("r1_every") == 2 else 1)  # with and without penalties


@pytest.mark.usefixtures("_same_kernels")
def test_a_recorded_burn_in_is_the_eager_one():
    """Each level of Adam's second beta has its own graphs, which are captured at its first step."""
    changes = {"r1_final": 0.02, "r2_final": 0.5, "beta2_final": 0.9, "burn_in": 0.8}
    settings = {"model": SHORT, "steps": 40, **changes}
    recorder = Recorder()
    eager, replayed = run("relativistic", **settings), run("relativistic", recorder, **settings)
    assert [name for name in eager if not torch.equal(eager[name], replayed[name])] == []
    # Two steps per level; the first capture is in step 11, at level 5 of 0 to 15.
    assert recorder.captured == 3 * 11
    constant = run("relativistic", **{**settings, "beta2_final": None})
    assert any(not torch.equal(eager[name], constant[name]) for name in eager)


@pytest.mark.parametrize("recipe", RECIPES)
def test_parts_of_a_batch_give_the_mean_of_their_gradients(recipe):
    """As those of each part alone, with the random numbers of its clips."""
    whole, maker, _ = make(recipe, accumulate=2)
    inputs = maker.make(torch.tensor(0), torch.tensor(0))
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        half, *_ = make(recipe)
        c, wrong = inputs.c.rows(rows), inputs.wrong.rows(rows)
        half(0, Inputs(inputs.real[rows], inputs.z[rows], c, wrong, samples=inputs.samples[rows]), True)
        halves.append([p.grad for p in half.discriminator.parameters()])
    whole(0, inputs, True)
    for mine, *parts in zip([p.grad for p in whole.discriminator.parameters()], *halves, strict=True):
        scale = mine.abs().max().item()
        torch.testing.assert_close(mine, sum(parts) / 2, rtol=1e-3, atol=1e-3 * scale + 1e-7)


def test_penalties_show_moved_clips_with_the_same_augmentations():
    """Finite differences score clips twice; other augmentations would differ more than any noise."""
    # Rates of almost zero: the two penalties are those of the same weights in every step.
    augment = {"augment": ("color", "cutout", "translation"), "lr_discriminator": 1e-12, "lr_generator": 1e-12}
    step, maker, _ = make("relativistic+differences", model={"d_norm": "none", "frames": 8}, **augment)
    inputs = maker.make(torch.tensor(0), torch.tensor(0))
    first = step.discriminator(*_shown(step.augmentation.real(inputs)))
    again = step._score_real(inputs, inputs.real)
    torch.testing.assert_close(sum(each.mean(1) for each in again) / len(again), first)
    assert not torch.allclose(first, step.discriminator(inputs.real, inputs.c), rtol=0.1)
    exact = make("relativistic", model={"d_norm": "none", "frames": 8}, **augment)[0]
    made = [maker.make(torch.tensor(number), torch.tensor(0)) for number in range(8)]
    penalties = [sum(float(each(number, made[number], True).r1) for number in range(8)) for each in (exact, step)]
    # Eight draws of noise per clip and (e·g)² of mean |g|²: right to within a factor, wrong changes are orders off.
    assert 0.2 < penalties[1] / penalties[0] < 5


def _shown(inputs):
    return inputs.real, inputs.c


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_scaled_loss_in_float16_has_the_gradients_of_float32(recipe):
    gradients = []
    for precision in (torch.float32, torch.float16):
        step, maker, _ = make(recipe, precision, model={**SHORT, "base_width": 8})
        inputs = maker.make(torch.tensor(0), torch.tensor(0))
        for update in (step.d_update, step.g_update):
            update.scale.clamp_(max=256)  # hinge and wgan-gp overflow at the initial scale, which then is halved
        assert step(0, inputs, True).skipped == 0
        # Fused Adam has divided them by the scale.
        gradients.append(torch.cat([p.grad.flatten() for p in step.discriminator.parameters()]))
    similarity = F.cosine_similarity(*gradients, dim=0)
    assert similarity > 0.98 and gradients[1].norm() == pytest.approx(gradients[0].norm().item(), rel=0.05)


def test_finite_differences_need_the_clips_numbers():
    step, maker, _ = make("hinge")
    inputs = maker.make(torch.tensor(0), torch.tensor(0))._replace(samples=None)
    with pytest.raises(ValueError, match="no sample numbers"):
        step(0, inputs, True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_is_the_uninterrupted_one(recipe, tmp_path, monkeypatch):
    """With a burn-in that the run is stopped in."""
    monkeypatch.setattr(output, "Scoring", Unscored)
    changes = {"beta2_final": 0.9, "burn_in": 0.8, "steps": 6, "checkpoint_every": 3}
    changes |= {"r1_final": 0.01} if "r1" in RECIPES[recipe] else {}
    training = {"objective": recipe.partition("+")[0], **RECIPES[recipe], **changes}
    config = tiny(SHORT, **training)
    whole = TrainingLoop(config, Start(tmp_path / "whole"))
    assert whole.run() == 0
    at_three = tmp_path / "whole" / "checkpoints" / "step-3"
    rest = TrainingLoop(config, Start(tmp_path / "rest", at_three))
    assert rest.done == 3 and rest.run() == 0
    mine, theirs = weights(whole.step), weights(rest.step)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert whole.step.d_update.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
