"""The three families: sizes, the published reference network, conditions, and gradients that reach every weight."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastvgan.errors import UserError
from fastvgan.models import Condition, ModelConfig, build
from fastvgan.models.clock import clock_features
from fastvgan.models.sizes import stages
from fastvgan.runs.presets import PRESETS

FAMILIES = ("conv3d", "recurrent")
PARTS = [parts for k in range(4) for parts in itertools.combinations(("text", "class", "image"), k)]


def config(**values):
    known = {"vocabulary": tuple("abcde"), "caption_length": 4, "class_names": ("x", "y", "z"), "base_width": 2}
    return ModelConfig(**{"latent": 6, **known, **values})


def condition(model, n):
    if not model.condition:
        return None
    return Condition(
        text=torch.randint(0, model.vocabulary_size, (n, model.caption_length)),
        label=torch.randint(0, model.classes, (n,)),
        image=torch.randn(n, model.channels, model.height, model.width),
    )


@given(
    frames=st.integers(4, 64),
    height=st.sampled_from([16, 32, 64, 128]),
    width=st.sampled_from([16, 32, 64, 128]),
    temporal=st.booleans(),
)
def test_stages_add_up_in_both_directions(frames, height, width, temporal):
    plan = stages(frames, height, width, temporal)
    assert plan[-1].large == (frames, height, width) and max(plan[0].small[1:]) <= 4
    for before, stage in zip([None, *plan], plan, strict=False):
        assert before is None or before.large == stage.small
        for axis in range(3):
            small, large = stage.small[axis], stage.large[axis]
            kernel, stride, padding = stage.kernel[axis], stage.stride[axis], stage.padding[axis]
            # torch.nn's formulas for the two output sizes
            assert (small - 1) * stride - 2 * padding + kernel == large
            assert (large + 2 * padding - kernel) // stride + 1 == small


@pytest.mark.parametrize("family", FAMILIES)
@given(
    frames=st.integers(4, 64),
    height=st.sampled_from([16, 32, 64]),
    width=st.sampled_from([16, 32, 64]),
    channels=st.sampled_from([1, 3]),
    base_width=st.integers(1, 3),
)
@settings(max_examples=8)
def test_any_size_builds_and_fits(family, frames, height, width, channels, base_width):
    model = config(
        family=family, frames=frames, height=height, width=width, channels=channels, base_width=base_width, condition=()
    )
    generator, discriminator = build(model)
    clip = generator(generator.noise(2))
    assert clip.shape == (2, channels, frames, height, width) and clip.abs().max() <= 1
    assert discriminator(clip).shape == (2,)


@pytest.mark.parametrize("family", FAMILIES)
def test_largest_size(family):
    generator, discriminator = build(
        config(family=family, frames=64, height=128, width=128, base_width=1, condition=())
    )
    with torch.no_grad():
        clip = generator(generator.noise(1).expand(2, *generator.noise(1).shape[1:]))
        assert clip.shape == (2, 3, 64, 128, 128) and discriminator(clip).shape == (2,)


def test_reference_is_the_published_network():
    model = PRESETS["reference"].model
    generator, discriminator = (network.double() for network in build(model))
    stock_g = nn.Sequential(
        nn.ConvTranspose3d(100, 256, 4, 1, 0, bias=False), nn.BatchNorm3d(256), nn.ReLU(),
        nn.ConvTranspose3d(256, 128, 4, 2, 1, bias=False), nn.BatchNorm3d(128), nn.ReLU(),
        nn.ConvTranspose3d(128, 3, 4, 2, 1, bias=False), nn.Tanh(),
    ).double()  # fmt: skip
    stock_d = nn.Sequential(
        nn.Conv3d(3, 128, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
        nn.Conv3d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm3d(256), nn.LeakyReLU(0.2),
        nn.Conv3d(256, 1, 4, 1, 0, bias=False),
    ).double()  # fmt: skip
    for ours, stock in ((generator, stock_g), (discriminator, stock_d)):
        assert [p.shape for p in ours.parameters()] == [p.shape for p in stock.parameters()]
        stock.load_state_dict(dict(zip(stock.state_dict(), ours.state_dict().values(), strict=True)))
    z = generator.noise(4).double()
    clip = generator(z)
    torch.testing.assert_close(clip, stock_g(z[:, :, None, None, None]))
    torch.testing.assert_close(discriminator(clip), stock_d(clip).flatten())


def test_reference_hyperparameters():
    training = PRESETS["reference"].training
    assert (training.batch_size, training.epochs, training.objective) == (64, 100, "nonsaturating")
    assert (training.lr_generator, training.lr_discriminator, training.betas) == (2e-4, 2e-4, (0.5, 0.999))


@pytest.mark.parametrize("parts", PARTS, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_takes_a_gradient_and_every_condition_counts(family, parts):
    torch.manual_seed(0)
    model = config(family=family, condition=parts)
    generator, discriminator = build(model)
    c = condition(model, 3)
    z = generator.noise(3)
    clip = generator(z, c)
    discriminator(clip, c).sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            if "embed" not in name and "parts.label" not in name:
                assert parameter.grad.abs().max() > 0, name
    for part in parts:
        field = {"class": "label"}.get(part, part)
        value = getattr(c, field)
        other = c._replace(**{field: value.roll(1, 0) if part == "image" else (value + 1) % 3})
        assert not torch.allclose(generator(z, other), clip), part
        assert not torch.allclose(discriminator(clip, other), discriminator(clip, c)), part


@pytest.mark.parametrize("parts", PARTS, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_score_are_the_two_halves(family, parts):
    model = config(family=family, condition=parts)
    _, discriminator = build(model)
    x, c = torch.randn(3, 3, 16, 16, 16), condition(model, 3)
    discriminator.eval()
    (score,) = discriminator.score(discriminator.features(x, c), c)
    assert score.shape == (3, 1)
    torch.testing.assert_close(score[:, 0], discriminator(x, c))


@pytest.mark.parametrize("moves", [False, True])
def test_recurrent_clips_have_any_length_and_a_common_beginning(moves):
    model = config(family="recurrent", clock=moves, warp=moves)
    generator, discriminator = build(model)
    generator.eval()
    c = condition(model, 2)
    short, long = (generator(generator.noise(2, 0, n), c) for n in (5, 40))
    assert short.shape[2] == 5 and long.shape[2] == 40
    torch.testing.assert_close(long[:, :, :5], short)
    assert discriminator(long, c).shape == (2,)
    one = generator(generator.noise(2, frames=1), c)
    assert one.shape == (2, 3, 1, 16, 16)


def test_warming_up_is_running_before_the_first_frame_on_its_noise():
    model = config(family="recurrent", motion_latent=2)
    plain, warm = build(model)[0].eval(), build(model.model_copy(update={"warm_up": 3}))[0].eval()
    warm.load_state_dict(plain.state_dict())
    z, c = plain.noise(2, frames=4), condition(model, 2)
    longer = torch.cat([z[:, :1].expand(-1, 3, -1), z], 1)
    assert warm(z, c).shape[2] == 4
    torch.testing.assert_close(warm(z, c), plain(longer, c)[:, :, 3:])
    torch.testing.assert_close(warm(z[:, :2], c), warm(z, c)[:, :, :2])


def test_the_clock_is_sines_and_cosines_of_the_time_since_a_random_start():
    noise, time = torch.tensor([-1.3, 0.0, 0.7], dtype=torch.float64), torch.arange(-2, 5)
    clock = clock_features(noise, time, period=5).numpy()
    assert clock.shape == (3, 7, 8) and clock.dtype == np.float64
    for n, value in enumerate(noise.tolist()):
        since = 10 * (1 + math.erf(value / math.sqrt(2))) / 2  # frames; the normal distribution's share of two periods
        for t in range(7):
            for i, frames in enumerate((10, 5, 2.5, 1.25)):
                angle = 2 * math.pi * (since + t - 2) / frames
                np.testing.assert_allclose(clock[n, t, [i, 4 + i]], [math.sin(angle), math.cos(angle)], atol=1e-9)
    two = clock_features(noise, time, period=5, frequencies=2).numpy()
    np.testing.assert_array_equal(two, clock[:, :, [0, 1, 4, 5]])


@pytest.mark.parametrize("warm_up", [0, 3])
def test_the_input_of_a_frame_depends_on_its_time_only_with_the_clock(warm_up):
    values = {"family": "recurrent", "motion_latent": 0, "latent": 3, "warm_up": warm_up}
    for clock in (False, True):
        model = config(clock=clock, **values)
        generator = build(model)[0].eval()
        inputs = []
        generator.step.register_forward_pre_hook(lambda _, given, inputs=inputs: inputs.append(given[0]))
        z = generator.noise(2)
        generator(z, condition(model, 2))
        assert torch.equal(inputs[0][:, 0], inputs[0][:, 5]) == (not clock)
    torch.testing.assert_close(inputs[0][:, :, -8:], 2 * clock_features(z[:, 0, 0], torch.arange(-warm_up, 16), 16))


def test_3d_convolutions_get_the_time_of_the_start():
    model = config(family="conv3d", clock=True)
    generator = build(model)[0].eval()
    z = generator.noise(2)
    inputs = []
    generator.first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    generator(z, condition(model, 2))
    torch.testing.assert_close(inputs[0].flatten(1)[:, -8:], 2 * clock_features(z[:, 0], torch.zeros(1), 16)[:, 0])


def test_content_noise_is_fixed_and_motion_noise_is_not():
    generator, _ = build(config(family="recurrent", latent=7))
    z = generator.noise(2, frames=3)
    assert z.shape == (2, 3, 7)
    assert torch.equal(z[:, 0, :3], z[:, 2, :3]) and not torch.equal(z[:, 0, 3:], z[:, 2, 3:])
    generator, _ = build(config(family="recurrent", latent=7, motion_latent=1))
    z = generator.noise(2, frames=3)
    assert torch.equal(z[:, 0, :6], z[:, 2, :6]) and not (z[:, 0, 6:] == z[:, 2, 6:]).any()
    generator, _ = build(config(family="recurrent", latent=7, motion_latent=0))
    z = generator.noise(2, frames=3)
    assert z.shape == (2, 3, 7) and torch.equal(z[:, 0], z[:, 2])


@pytest.mark.parametrize("motion", [None, 0, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_s_noise_is_its_own(family, motion):
    """It does not depend on the other clips, nor on the number of frames."""
    generator, _ = build(config(family=family, latent=7, motion_latent=motion))
    frames = (5, 9) if family == "recurrent" else (None, None)
    short, long = (generator.noise(clips, 3, n) for clips, n in zip((4, torch.tensor([2, 0])), frames, strict=True))
    assert short.dtype == torch.float32 and len(short) == 4 and len(long) == 2
    assert torch.equal(long[:, : short.shape[1]], short[[2, 0]])
    assert len(short[:, 0].unique()) > 1 and not torch.equal(generator.noise(4, 4, frames[0]), short)


def test_noise_is_standard_normal():
    for family in FAMILIES:
        z = build(config(family=family, latent=40))[0].noise(500)
        assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"height": 17}, "height 17: must be a power of two from 16 to 128"),
        ({"width": 256}, "width 256: must be a power of two from 16 to 128"),
        ({"frames": 3}, "frames 3: must be at least 4"),
        ({"frames": 65}, "frames 65: must be at most 64"),
        ({"channels": 4}, "channels 4: expected one of 1, 3"),
        ({"condition": ("text", "text")}, "condition text, text: names each part once, or none alone"),
        ({"condition": ("text", "none")}, "condition text, none: names each part once, or none alone"),
        ({"nonsense": 1}, "nonsense: is not a setting"),
    ],
)
def test_bad_settings_are_one_sentence(values, sentence):
    with pytest.raises(UserError) as raised:
        ModelConfig(**values)
    assert str(raised.value).startswith(sentence) and "\n" not in str(raised.value)
