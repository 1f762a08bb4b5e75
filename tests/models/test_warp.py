"""Clips of a picture that moves, against bilinear sampling written out and against shifts by whole pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import FAMILIES, condition, config

from fastvgan.models import build, build_generator
from fastvgan.models.warp import CHANNELS, Drawn, compose

KEPT = 60.0  # a mask at which all is moved


def raw_of(new, mask, flow):
    return torch.cat([new, mask, flow], 1)


def written_out(raw, image):
    """Vondrick et al. 2016, equation 5, and Jaderberg et al. 2015, equation 5, place by place in float64."""
    raw = raw.double().numpy()
    n, channels, frames, height, width = raw.shape
    channels -= CHANNELS
    new = np.tanh(raw[:, :channels])
    picture = new[:, :, 0] if image is None else image.double().numpy()
    moved = 1 / (1 + np.exp(-(raw[:, channels] + 4)))
    out = np.zeros_like(new)
    for i in range(n):
        at = np.zeros(2)
        for t in range(frames):
            flow = raw[i, channels + 1 :, t]
            mean = flow.mean((1, 2))
            at = at + (0.3 * np.tanh(mean) if t else 0)
            for y in range(height):
                for x in range(width):
                    bend = 0.1 * np.tanh(flow[:, y, x] - mean)
                    # In pixels: the middle of the first one is at 0.
                    column = x + (at + bend)[0] * width / 2
                    row = y + (at + bend)[1] * height / 2
                    value = np.full(channels, -1.0)
                    for r in (int(np.floor(row)), int(np.floor(row)) + 1):
                        for c in (int(np.floor(column)), int(np.floor(column)) + 1):
                            if 0 <= r < height and 0 <= c < width:
                                weight = (1 - abs(row - r)) * (1 - abs(column - c))
                                value += weight * (picture[i, :, r, c] + 1)
                    m = moved[i, t, y, x]
                    out[i, :, t, y, x] = m * value + (1 - m) * new[i, :, t, y, x]
    return out, (1 - moved).mean()


@given(
    n=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    frames=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(1, 7),
    given_image=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_it_is_bilinear_sampling_written_out(n, channels, frames, height, width, given_image, seed):
    torch.manual_seed(seed)
    raw = 2 * torch.randn(n, width, height, frames, channels + CHANNELS).permute(0, 4, 3, 2, 1)  # not contiguous
    image = torch.rand(n, channels, height, width) * 2 - 1 if given_image else None
    clips, share = written_out(raw, image)
    drawn = compose(raw, image)
    assert drawn.clips.dtype == torch.float32 and drawn.clips.is_contiguous(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(drawn.clips.numpy(), clips, atol=2e-5)
    assert drawn.redrawn.item() == pytest.approx(share, abs=1e-5)


def test_a_steady_speed_moves_the_picture_by_whole_pixels():
    picture = torch.rand(1, 3, 8, 8) * 2 - 1
    flow = torch.zeros(1, 2, 4, 8, 8)
    flow[:, 0] = float(np.arctanh(0.25 / 0.3))  # one pixel a frame: a frame of 8 pixels is 2 wide
    raw = raw_of(torch.zeros(1, 3, 4, 8, 8), torch.full((1, 1, 4, 8, 8), KEPT), flow)
    clips = compose(raw, picture).clips
    for t in range(4):
        expected = torch.full((3, 8, 8), -1.0)
        expected[:, :, : 8 - t] = picture[0, :, :, t:]
        torch.testing.assert_close(clips[0, :, t], expected, atol=1e-5, rtol=0)


def test_what_is_not_moved_is_drawn():
    new = torch.randn(2, 3, 4, 5, 6)
    raw = raw_of(new, torch.full((2, 1, 4, 5, 6), -KEPT), torch.randn(2, 2, 4, 5, 6))
    drawn = compose(raw, torch.randn(2, 3, 5, 6))
    torch.testing.assert_close(drawn.clips, new.tanh())
    assert drawn.redrawn.item() == pytest.approx(1)


def test_gradients():
    torch.manual_seed(0)
    raw = torch.randn(2, 3 + CHANNELS, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: tuple(compose(x, y)), (raw, image))
    assert torch.autograd.gradcheck(lambda x: tuple(compose(x, None)), (raw,))


@pytest.mark.parametrize("parts", [(), ("text",), ("image",)], ids=lambda parts: "+".join(parts) or "none")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_that_moves_a_picture(family, parts):
    model = config(family=family, condition=parts, warp=True)
    generator, discriminator = build(model)
    z, c = generator.noise(3), condition(model, 3)
    c = c and c._replace(image=c.image.tanh())
    drawn = generator.draw(z, c)
    assert drawn.clips.shape == (3, 3, 16, 16, 16) and drawn.clips.abs().max() <= 1
    assert 0 < drawn.redrawn < 0.1  # an untrained one moves nearly all
    if parts == ("image",):
        assert (drawn.clips[:, :, 0] - c.image).abs().mean() < 0.1
    (discriminator(drawn.clips, c).sum() + drawn.redrawn).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert all(p.grad.abs().max() > 0 for p in generator.decoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_that_moves_nothing_says_no_share(family):
    generator = build_generator(config(family=family, condition=()))
    drawn = generator.draw(generator.noise(2))
    assert isinstance(drawn, Drawn) and drawn.redrawn is None
