"""Augmentations and the coherence term within a step: what D is shown, how the probability adapts, what stays equal."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import Recorder
from test_graphs import everything, make, run
from tiny import tiny

from fastvgan.errors import UserError
from fastvgan.models import Condition
from fastvgan.random_draws import Draws, Purpose
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.augment import WORDS, ChangeMaker, apply_changes
from fastvgan.training.batches import Inputs, with_wrong_images
from fastvgan.training.coherence import coherence
from fastvgan.training.step.adversarial import AdversarialStep, StepResult
from fastvgan.training.step.augmentation import Augmentation
from fastvgan.training.step.passes import select_rows
from fastvgan.training.step.tensors import copy_into, tensors_of

CPU = torch.device("cpu")
ALL = ("color", "translation", "cutout")
# With this target the probability rises unless an untrained D takes all real clips for generated ones.
ADAPTIVE = {"augment": ALL, "augment_target": -0.9, "augment_clips": 100}


def changed(use, samples, seed, clips, *images, probability=1.0):
    words = Draws(seed, {use: WORDS})(samples)[use]
    make = ChangeMaker(ALL, *clips.shape[3:], CPU)
    return apply_changes(make(words, torch.tensor(probability)), clips, *images)


def conditional_step(**training):
    known = {"vocabulary": tuple("abc"), "caption_length": 2, "class_names": ("x", "y")}
    config = tiny({**known, "condition": ("text", "image"), "frames": 8}, augment=ALL, seed=5, **training)
    step = AdversarialStep(config.model, config.training, CPU, torch.float32)
    real = torch.rand(4, 3, 8, 16, 16) * 2 - 1
    right = Condition(torch.randint(0, 5, (4, 2)), None, real[:, :, 0])
    return step, real, right


@pytest.mark.parametrize("is_image_wrong", [False, True])
def test_d_and_g_are_shown_changed_clips_with_changed_first_frames(is_image_wrong):
    """The losses of both updates, written out, with three independent draws per clip."""
    step, real, right = conditional_step(first_frame=2.0)
    other = right.image[[1, 0, 3, 2]]
    wrong = right._replace(image=other) if is_image_wrong else right._replace(text=right.text.roll(1, 0))
    z, samples = step.generator.noise(4), torch.tensor([40, 41, 42, 2**33])
    plain = copy.deepcopy(step)
    with torch.no_grad():
        fake = plain.generator(z, right)
        shown, image, instead = changed(Purpose.AUGMENT_REAL, samples, 5, real, right.image, wrong.image)
        others, its_image = changed(Purpose.AUGMENT_FAKE, samples, 5, fake, right.image)
        on_real = plain.discriminator(shown, right._replace(image=image))
        on_wrong = plain.discriminator(shown, wrong._replace(image=instead))
        on_fake = plain.discriminator(others, right._replace(image=its_image))
    expected = F.softplus(-on_real).mean() + (F.softplus(on_fake).mean() + F.softplus(on_wrong).mean()) / 2
    assert not torch.equal(shown, real) and not torch.equal(image, right.image)
    found = step(0, Inputs(real, z, right, wrong, is_image_wrong, samples))
    torch.testing.assert_close(found.d_loss, expected, rtol=1e-4, atol=1e-5)
    # G's update, from the same weights of D on: its gradient in the generator's parameters.
    mine = copy.deepcopy(plain)
    mine._backward_generator(Inputs(real, z, right, None, False, samples), mine.generator.draw(z, right), False)
    clips = plain.generator(z, right)
    mixed, its_image = changed(Purpose.AUGMENT_GENERATOR, samples, 5, clips, right.image)
    loss = F.softplus(-plain.discriminator(mixed, right._replace(image=its_image))).mean()
    loss = loss + 2 * (clips[:, :, 0] - right.image).square().mean()  # of the clip as it is, not as D sees it
    for parameter, gradient in zip(
        mine.generator.parameters(), torch.autograd.grad(loss, list(plain.generator.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_the_gradient_penalty_is_of_the_clips_before_their_changes():
    config = tiny({"condition": ()}, augment=ALL, r1=1.0)
    step = AdversarialStep(config.model, config.training, CPU, torch.float32)
    real, samples = torch.rand(4, 3, 16, 16, 16) * 2 - 1, torch.arange(4)
    plain = copy.deepcopy(step).discriminator
    x = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(changed(Purpose.AUGMENT_REAL, samples, 0, x)[0], None).sum(), x)
    found = step(0, Inputs(real, step.generator.noise(4), samples=samples), regularise=True)
    torch.testing.assert_close(found.r1, gradient.square().flatten(1).sum(1).mean() / 2, rtol=1e-4, atol=1e-6)


def test_the_three_uses_are_drawn_apart():
    samples = torch.arange(1000)
    uses = Purpose.AUGMENT_REAL, Purpose.AUGMENT_FAKE, Purpose.AUGMENT_GENERATOR
    words = torch.stack([Draws(3, {use: WORDS})(samples)[use] for use in uses]).double().flatten(1)
    assert (torch.corrcoef(words) - torch.eye(3)).abs().max() < 0.05 and len(set(map(int, uses))) == 3
    assert len({int(use) for use in Purpose}) == len(Purpose.__members__)  # two names of one value would be one purpose


@pytest.mark.parametrize("settings", [{"augment": ()}, {"augment": ALL, "augment_strength": 0.0}])
def test_without_strength_a_step_is_that_without_augmentations(settings):
    results = []
    for each in ({}, settings):
        step, maker, _ = make(**each)
        results.append(run(step, maker, "off", steps=4))
    assert results[0].keys() == results[1].keys()
    assert [name for name in results[0] if not torch.equal(results[0][name], results[1][name])] == []


def test_adaptation_from_zero_is_that_without_augmentations_until_it_rises():
    config = {"augment": ALL, "augment_target": 0.99}  # D never is that sure
    results = []
    for each in ({}, config):
        step, maker, _ = make(**each)
        found = run(step, maker, "off", steps=6)
        results.append({name: found[name] for name in found if name.split("/")[0] in ("generator", "discriminator")})
    assert [name for name in results[0] if not torch.equal(results[0][name], results[1][name])] == []


@pytest.mark.parametrize(
    ("family", "precision", "more"),
    [("conv3d", torch.float32, {"r1": 0.1, "r1_every": 2}), ("recurrent", torch.bfloat16, {"accumulate": 2})],
)
def test_a_recorded_step_is_the_eager_one(family, precision, more, monkeypatch):
    """With an adapting probability, a coherence term, and steps that are left out."""
    results = []
    monkeypatch.setenv("FASTVGAN_IMPL", "cpp")  # stock PyTorch's own calls round differently in a recording
    for backend in (None, Recorder()):
        step, maker, _ = make(precision, model={"family": family}, coherence=2.0, **ADAPTIVE, **more)
        results.append(run(step, maker, "auto" if backend else "off", backend, 34, poison=(5, 30)))
    eager, replayed = results
    assert [name for name in eager if not torch.equal(eager[name], replayed[name])] == []
    assert 0 < eager["state/augment/probability"] <= 1 and all(tensor.isfinite().all() for tensor in eager.values())
    counted = eager["totals"][1, StepResult._fields.index("augment")]
    assert counted == 34  # each step has its probability, those left out, too


def train(step, maker, numbers):
    for number in numbers:
        part = maker.draw_wrong_part(number)
        inputs = maker.make(torch.tensor(number), torch.tensor(part))
        step(number, with_wrong_images(inputs) if maker.has_wrong_image(part) else inputs)
    return {name: tensor.detach().clone() for name, tensor in tensors_of(step).items()}


def test_a_resumed_step_goes_on_with_the_probability():
    step, maker, _ = make(**ADAPTIVE)
    straight = train(step, maker, range(11))
    first, maker, _ = make(**ADAPTIVE)
    saved = train(first, maker, range(6))
    assert saved["state/augment/steps"] == 2 and saved["state/augment/probability"] > 0
    second, maker, _ = make(**ADAPTIVE)
    copy_into(second, saved)
    again = train(second, maker, range(6, 11))
    assert [name for name in again if not torch.equal(again[name], straight[name])] == []
    second.reset()
    assert {float(x) for x in second.augmentation.state().values()} == {0.0}


def test_a_step_reports_the_probability_that_it_used():
    step, maker, _ = make(**ADAPTIVE)
    train(step, maker, range(3))
    result = step(3, maker.make(torch.tensor(3), torch.tensor(0)))
    assert result.augment == 0 < step.augmentation.probability


def test_parts_of_a_batch_have_their_own_samples():
    inputs = Inputs(torch.zeros(4, 1), torch.zeros(4, 1), samples=torch.arange(4))
    assert select_rows(inputs, slice(2, 4)).samples.tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"Inputs\.samples"):
        step, real, right = conditional_step()
        step(0, Inputs(real, step.generator.noise(4), right))


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=60),
    st.floats(-0.875, 0.875, width=32, allow_subnormal=False), st.sampled_from([0.3, 1.0]),
)  # fmt: skip
@settings(max_examples=50)
def test_the_probability_follows_the_paper_s_rule(steps, target, most):
    """Karras et al. 2020, section 3.1 and training_loop.py of their code, in Python's numbers; bad steps leave it."""
    config = TrainingConfig(
        augment=ALL, augment_target=target, augment_strength=most, augment_clips=1000, batch_size=64
    )
    mine = Augmentation(config, 16, 16, CPU)
    probability, signs = 0.0, []
    for sign, is_bad in steps:
        sign = round(sign * 32) / 32  # the mean of 64 signs
        mine.adapt(torch.tensor(math.nan if is_bad else sign), torch.tensor(float(is_bad)))
        if not is_bad:
            signs.append(sign)
        if len(signs) == 4:
            difference = sum(signs) / 4 - target
            if abs(difference) < 1e-6:  # float32 may see another sign
                return
            probability = min(max(probability + math.copysign(64 * 4 / 1000, difference), 0.0), most)
            signs = []
        assert mine.probability.item() == pytest.approx(probability, abs=1e-5)


def test_from_zero_to_one_takes_as_many_clips_as_said():
    mine = Augmentation(TrainingConfig(augment=ALL, augment_target=0.6, augment_clips=6400), 16, 16, CPU)
    for number in range(100):
        assert (mine.probability.item() < 0.9999) == (number * 64 < 6400)
        mine.adapt(torch.tensor(1.0), torch.tensor(0.0))
    assert mine.probability.item() == 1


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"augment_target": 0.6}, "--augment-target needs changes to adapt; add --augment color translation cutout"),
        ({"augment": ("color", "color")}, "names each change once, or none alone"),
        ({"augment": ("color", "none")}, "names each change once, or none alone"),
        ({"augment": ("blur",)}, "augment 'blur': expected one of color, translation, cutout, none"),
        ({"augment_strength": 1.5}, "augment_strength 1.5: must be at most 1"),
        ({"coherence": -1}, "must be at least 0"),
    ],
)
def test_bad_settings_are_named(given_settings, message):
    with pytest.raises(UserError, match=message):
        TrainingConfig(**given_settings)
    assert TrainingConfig(augment=("none",)).augment == () and TrainingConfig(augment=["cutout"]).augment == ("cutout",)


@given(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(2, 6), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40)
def test_the_coherence_term_is_its_formula(n, channels, frames, height, width):
    shape = n, channels, frames, height, width
    clips, real = (torch.randn(shape, dtype=torch.float64) for _ in "ab")

    def change(x, t):
        return sum(
            float(x[i, c, t + 1, h, w] - x[i, c, t, h, w]) ** 2
            for i in range(n) for c in range(channels) for h in range(height) for w in range(width)
        ) / (n * channels * height * width)  # fmt: skip

    wanted = [change(real, t) for t in range(frames - 1)]
    found = [change(clips, t) for t in range(frames - 1)]
    size = max(sum(wanted) / len(wanted), 1e-4)
    expected = sum((f - w) ** 2 for f, w in zip(found, wanted, strict=True)) / len(wanted) / size**2
    assert coherence(clips, real).item() == pytest.approx(expected, rel=1e-9)


def test_neither_flicker_nor_standing_still_pays():
    real = torch.randn(3, 3, 6, 4, 4, dtype=torch.float64).cumsum(2)
    assert coherence(real, real) == 0
    even = torch.arange(6.0, dtype=torch.float64)[:, None, None].expand(3, 3, 6, 4, 4)
    assert coherence(even[:, :, :1].expand_as(even), even) == pytest.approx(1)
    assert coherence(2 * even, even) == pytest.approx(9) and coherence(even * 0, even * 0) == 0
    x = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda clips: coherence(clips, real[:2, :1, :3, :2, :2]), x)


def test_the_coherence_of_a_batch_is_that_of_its_halves():
    """The value in both processes, and the mean of their gradients, which DistributedDataParallel takes."""
    clips, real = torch.randn(4, 3, 5, 4, 4, dtype=torch.float64), torch.randn(4, 3, 5, 4, 4, dtype=torch.float64)
    means = [torch.stack([(x[:, :, t + 1] - x[:, :, t]).square().mean() for t in range(4)]) for x in (real, clips)]
    whole = clips.clone().requires_grad_()
    total = coherence(whole, real)
    (wanted,) = torch.autograd.grad(total, whole)
    found = []
    for rows in (slice(0, 2), slice(2, 4)):
        half, everywhere = clips[rows].clone().requires_grad_(), iter(means)
        value = coherence(half, real[rows], lambda _, means=everywhere: next(means))
        torch.testing.assert_close(value, total)
        found.append(torch.autograd.grad(value, half)[0] / 2)
    torch.testing.assert_close(torch.cat(found), wanted)


def test_the_coherence_term_enters_g_s_update():
    step, real, right = conditional_step(coherence=3.0)
    step.augmentation.is_used = False
    z = step.generator.noise(4)
    inputs = Inputs(real, z, right)
    gradients = []
    for weight in (0.0, 3.0):
        copied = copy.deepcopy(step)
        copied.coherence = weight
        copied._backward_generator(inputs, copied.generator.draw(z, right), False)
        gradients.append([p.grad for p in copied.generator.parameters()])
    plain = copy.deepcopy(step).generator
    term = 3 * coherence(plain(z, right), real)
    wanted = torch.autograd.grad(term, list(plain.parameters()))
    found = [both - without for without, both in zip(*gradients, strict=True)]
    assert max(gradient.abs().max() for gradient in wanted) > 1e-3
    torch.testing.assert_close(found, list(wanted), rtol=1e-2, atol=1e-4)


def test_everything_that_a_checkpoint_needs_is_in_the_state():
    step, _, _ = make(**ADAPTIVE)
    assert {"state/augment/probability", "state/augment/signs", "state/augment/steps"} <= everything(step).keys()
    step, _, _ = make(augment=ALL)
    assert not [name for name in everything(step) if "augment" in name]
