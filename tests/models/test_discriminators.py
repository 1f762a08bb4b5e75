"""Combined discriminators: the inputs of each, and logits under several conditions at once."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import FAMILIES, condition, config

from fastvgan.errors import UserError
from fastvgan.models import Condition, ModelConfig, build
from fastvgan.models.discriminators import select_frames, sum_logits
from fastvgan.models.head import Projection, ScoreHead
from fastvgan.runs.presets import PRESETS

NAMES = ("clip", "frame", "difference")
COMBINED = [names for k in (1, 2, 3) for names in itertools.combinations(NAMES, k)]


@given(n=st.integers(1, 9), frames=st.integers(1, 17), every=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_some_frames_are_those_of_each_clip_in_turn(n, frames, every, seed):
    every = min(every, frames)
    torch.manual_seed(seed)
    x = torch.randn(n, 3, frames, 2, 3).to(memory_format=torch.channels_last_3d).requires_grad_()
    shown = select_frames(x, every)
    assert shown.shape == (n, 3, frames // every, 2, 3)
    expected = torch.zeros_like(x)
    for i in range(n):
        skipped = frames % every if (i // every) % 2 else 0
        for place in range(frames // every):
            frame = skipped + i % every + place * every
            assert torch.equal(shown[i, :, place], x[i, :, frame])
            expected[i, :, frame] = 1
    shown.sum().backward()
    assert torch.equal(x.grad, expected)
    if n >= 2 * every:
        assert expected.sum((0, 1, 3, 4)).all()  # a batch shows every frame


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_and_differences_are_scored_one_by_one(family):
    model = config(family=family, discriminators=NAMES, frames=8, frame_every=2, condition=("text", "image"))
    _, discriminator = build(model)
    discriminator.eval()
    x, c = torch.randn(3, 3, 8, 16, 16), condition(model, 3)
    logits = discriminator.score(discriminator.features(x, c), c)
    assert [part.shape for part in logits] == [(3, 1), (3, 4), (3, 3)]
    alone = discriminator.others
    for i, (name, video) in itertools.product(
        range(3), (("frame", x), ("difference", (x[:, :, 1:] - x[:, :, :-1]) / 2))
    ):
        one = alone[name]
        of_clip = Condition(c.text[i : i + 1], None, c.image[i : i + 1])
        for place in range(logits[1 if name == "frame" else 2].shape[1]):
            skipped = video.shape[2] % 2 if i >= 2 else 0  # by every other pair of clips
            frame = video[i : i + 1, :, [skipped + i % 2 + 2 * place]]
            expected = one.head.score(one.head(one.encoder(frame, of_clip.image)), of_clip)
            torch.testing.assert_close(logits[1 if name == "frame" else 2][i : i + 1, [place]], expected)
    mean = torch.stack([part.mean(1) for part in logits]).mean(0)
    torch.testing.assert_close(discriminator(x, c), mean)
    torch.testing.assert_close(sum_logits(logits), 3 * mean)


@pytest.mark.parametrize("names", COMBINED, ids="+".join)
@pytest.mark.parametrize("norm", ["batch", "none", "group", "spectral"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_bias_the_first_discriminator_scores_pale_clips_otherwise(family, norm, names):
    model = config(family=family, discriminators=names, frame_every=2, condition=(), d_norm=norm, d_bias=True)
    _, discriminator = build(model)
    x = torch.tanh(torch.randn(4, 3, 16, 16, 16))
    with torch.no_grad():
        clear, pale = (discriminator.score(discriminator.features(clips))[0] for clips in (x, x / 2))
    # What convolutions and leaky ReLUs without bias do: norms remove the factor, and without norms it is passed on.
    factor = 1.0 if norm in ("batch", "group") else 0.5
    assert (pale - factor * clear).abs().mean() > 0.03 * clear.abs().mean()


@pytest.mark.parametrize("name", ["clips", "clips-64", "clips-128"])
def test_the_presets_of_own_clips_score_pale_clips_otherwise(name):
    model = PRESETS[name].model.model_copy(update={"base_width": 16, "condition": ()})
    changes = []
    for _ in range(3):  # one draw of weights in ten has a tenth of the mean
        _, discriminator = build(model)
        x = torch.tanh(torch.randn(2, 3, model.frames, model.height, model.width))
        with torch.no_grad():
            clear, pale = discriminator(x), discriminator(x / 2)
        changes.append((pale - clear).abs().mean() / clear.abs().mean())
    assert torch.stack(changes).mean() > 0.03


@pytest.mark.parametrize("norm", ["batch", "spectral"])
@pytest.mark.parametrize("names", COMBINED, ids="+".join)
def test_a_bias_is_in_a_quarter_of_the_units_of_one_kind_of_discriminator(names, norm):
    """All units with one made real clips noisy, and a second discriminator with one slowed the digits."""
    _, discriminator = build(config(discriminators=names, condition=(), base_width=12, d_norm=norm, d_bias=True))
    encoders = {name: each.encoder for name, each in discriminator.others.items()}
    if "clip" in names:
        encoders["clip"] = discriminator.trunk
    for name, encoder in encoders.items():
        bias = (encoder.first if encoder.per_clip is None else encoder.per_clip.first).bias
        if "clip" in names and name != "clip":
            assert bias is None or bias.count_nonzero() == 0
        else:
            torch.testing.assert_close(bias.detach(), torch.tensor([-1.0, 0.0, 1.0] + [0.0] * 9))


@pytest.mark.parametrize("parts", [("text",), ("class", "text"), ("class", "image", "text")], ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_several_conditions_at_once_are_each_of_them(family, parts):
    model = config(family=family, discriminators=NAMES, condition=parts)
    _, discriminator = build(model)
    discriminator.eval()
    x, c = torch.randn(2, 3, 16, 16, 16), condition(model, 2)
    features = discriminator.features(x, c)
    several = [condition(model, 2)._replace(image=c.image) for _ in range(4)]
    stacked = Condition(
        torch.stack([one.text for one in several], 1), torch.stack([one.label for one in several], 1), c.image
    )
    together = discriminator.score(features, stacked)
    for k, one in enumerate(several):
        for mine, theirs in zip(together, discriminator.score(features, one), strict=True):
            torch.testing.assert_close(mine[..., k], theirs)


@pytest.mark.parametrize("names", COMBINED, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_discriminator_learns_and_no_other_is_there(family, names):
    model = config(family=family, discriminators=names, frame_every=2)
    generator, discriminator = build(model)
    clip = generator(generator.noise(3), condition(model, 3))
    discriminator(clip, condition(model, 3)).sum().backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert "embed" in name or parameter.grad.abs().max() > 0, name
    kinds = {name.split(".")[1] if name.startswith("others.") else "clip" for name in discriminator.state_dict()}
    assert kinds == set(names)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.decoder.parameters())


def test_a_head_that_looks_anywhere_sees_a_shape_wherever_it_is():
    head = ScoreHead(config(condition=("class",)), 5, (1, 4, 4), anywhere=True)
    h = torch.randn(2, 5, 3, 4, 4)
    fit = head(h).fit
    expected = torch.einsum("ef,nfp->npe", head.fit.weight[:, :, 0, 0, 0], h.flatten(3).max(3).values)
    torch.testing.assert_close(fit, expected)
    torch.testing.assert_close(head(h.roll((1, 2), (3, 4))).fit, fit)
    placed = ScoreHead(config(condition=("class",)), 5, (1, 4, 4))
    assert not torch.allclose(placed(h.roll((1, 2), (3, 4))).fit, placed(h).fit)


@pytest.mark.parametrize("parts", [(), ("text",)], ids=["none", "text"])
@pytest.mark.parametrize("warp", [False, True])
def test_logits_are_as_exact_under_autocast_as_the_features_allow(parts, warp):
    model = config(discriminators=NAMES, condition=parts, warp=warp)
    _, discriminator = build(model)
    discriminator.eval()
    x, c = torch.randn(2, 3, 16, 16, 16), condition(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        features = discriminator.features(x, c)
        logits = discriminator.score(features, c)
    exact = [Projection(*(None if part is None else part.double() for part in one)) for one in features]
    expected = discriminator.double().score(exact, c)
    for mine, theirs in zip(logits, expected, strict=True):
        assert mine.dtype == (torch.float32 if parts else torch.bfloat16) and theirs.dtype == torch.float64
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


def test_two_frames_of_each_clip_are_seen_at_least():
    model = config(discriminators=("frame", "difference"), frames=5, frame_every=9, condition=())
    _, discriminator = build(model)
    x = torch.randn(3, 3, 5, 16, 16)
    assert [part.shape for part in discriminator.score(discriminator.features(x))] == [(3, 2), (3, 2)]


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (128, 16)])
def test_frames_of_any_size(size):
    model = config(discriminators=("frame",), height=size[0], width=size[1], frames=4, base_width=1, condition=())
    _, discriminator = build(model)
    assert discriminator(torch.randn(2, 3, 4, *size)).shape == (2,)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"discriminators": ()}, "discriminators (): names one or more, each once"),
        ({"discriminators": ("clip", "clip")}, "discriminators clip, clip: names one or more, each once"),
        ({"discriminators": ("sound",)}, "discriminators 'sound': expected one of clip, frame, difference"),
        ({"latent": 4, "motion_latent": 5}, "--motion-latent 5 is more than --latent 4"),
    ],
)
def test_bad_settings_are_one_sentence(values, sentence):
    with pytest.raises(UserError) as raised:
        ModelConfig(**values)
    assert str(raised.value).startswith(sentence) and "\n" not in str(raised.value)
