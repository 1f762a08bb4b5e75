"""Clips of a moving picture against bilinear sampling in loops and against shifts by whole pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import FAMILIES, condition, config

from fastvgan.models import build, build_generator
from fastvgan.models.warp import CHANNELS, GeneratorOutput, MotionPath, compose

KEPT = 60.0  # a mask at which all is moved


def compute_in_loops(raw, place, image):
    """Vondrick et al. 2016, equation 5, and Jaderberg et al. 2015, equation 5, pixel by pixel in float64."""
    raw, place = raw.double().numpy(), place.double().numpy()
    n, channels, frames, height, width = raw.shape
    channels -= CHANNELS
    new = np.tanh(raw[:, :channels])
    picture = new[:, :, 0] if image is None else image.double().numpy()
    moved = 1 / (1 + np.exp(-(raw[:, channels] + 4)))
    out = np.zeros_like(new)
    for i in range(n):
        for t in range(frames):
            at = place[i, :, t] - (0 if image is None else place[i, :, 0])
            for y in range(height):
                for x in range(width):
                    # In pixels: the middle of the first one is at 0, and a frame is 2 wide.
                    column, row = x + at[0] * width / 2, y + at[1] * height / 2
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
    place = torch.randn(n, frames, 2).transpose(1, 2)  # not contiguous
    clips, share = compute_in_loops(raw, place, image)
    drawn = compose(raw, place, image)
    assert drawn.clips.dtype == torch.float32 and drawn.clips.is_contiguous(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(drawn.clips.numpy(), clips, atol=2e-5)
    assert drawn.redrawn.item() == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("given_image", [False, True])
def test_a_picture_moves_by_whole_pixels(given_image):
    picture = torch.rand(1, 3, 8, 8) * 1.8 - 0.9
    pixels = torch.tensor([1, 3, 0, 2])  # to the left; a frame of 8 pixels is 2 wide
    place = torch.stack([0.25 * pixels, torch.zeros(4)])[None]
    new = torch.zeros(1, 3, 4, 8, 8)
    if not given_image:
        new[:, :, 0] = torch.atanh(picture)
    raw = torch.cat([new, torch.full((1, 1, 4, 8, 8), KEPT)], 1)
    clips = compose(raw, place, picture if given_image else None).clips
    for t, by in enumerate((pixels - pixels[0] if given_image else pixels).tolist()):
        expected = torch.full((3, 8, 8), -1.0)
        expected[:, :, max(0, -by) : 8 - max(0, by)] = picture[0, :, :, max(0, by) : 8 + min(0, by)]
        torch.testing.assert_close(clips[0, :, t], expected, atol=1e-5, rtol=0)


def test_frames_move_independently_of_each_other():
    torch.manual_seed(0)
    raw, place = torch.randn(1, 3 + CHANNELS, 4, 6, 6), torch.randn(1, 2, 4)
    picture, order = torch.rand(1, 3, 6, 6), [0, 3, 1, 2]
    shuffled = compose(raw[:, :, order], place[:, :, order], picture).clips
    torch.testing.assert_close(shuffled, compose(raw, place, picture).clips[:, :, order])


def test_what_is_not_moved_is_drawn():
    new = torch.randn(2, 3, 4, 5, 6)
    raw = torch.cat([new, torch.full((2, 1, 4, 5, 6), -KEPT)], 1)
    drawn = compose(raw, torch.randn(2, 2, 4), torch.randn(2, 3, 5, 6))
    torch.testing.assert_close(drawn.clips, new.tanh())
    assert drawn.redrawn.item() == pytest.approx(1)


def test_gradients():
    torch.manual_seed(0)
    raw = torch.randn(2, 3 + CHANNELS, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    place = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    image = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert compose(raw, place, image).picture is None
    assert torch.autograd.gradcheck(lambda *given: compose(*given)[:2], (raw, place, image))
    assert torch.autograd.gradcheck(lambda *given: tuple(compose(*given, None)), (raw, place))


def test_the_picture_is_what_a_frame_shows_where_nothing_is_moved_or_new():
    raw = torch.randn(2, 4, 3, 5, 6)
    raw[:, 3] = KEPT
    drawn = compose(raw, torch.zeros(2, 2, 3), None)
    torch.testing.assert_close(drawn.clips, drawn.picture[:, :, None].expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(drawn.picture, raw[:, :3, 0].tanh())


@pytest.mark.parametrize("returns", [True, False])
def test_a_path_is_one_ellipse_or_two_and_the_same_wherever_a_clip_starts_on_it(returns):
    torch.manual_seed(0)
    path, noise, known = MotionPath(5, 4, 8, returns).double(), *torch.randn(2, 3, 5, dtype=torch.float64)
    known = known[:, :4]

    def start(turns):
        return torch.special.ndtri(torch.full((3,), turns, dtype=torch.float64))

    places = path(noise, known, start(0.3), 32)
    assert places.shape == (3, 2, 32) and places.std(2).min() > 0
    lines = np.abs(np.fft.rfft(places.detach().numpy()))  # of 32 frames: 2 is once in 16, 4 is once in 8
    at_rest = [i for i in range(17) if i not in ({0, 4} if returns else {0, 2, 4})]
    assert lines[:, :, at_rest].max() < 1e-9 and lines[:, :, 4 if returns else 2].min() > 1e-3
    torch.testing.assert_close(path(noise, known, start(0.3 + 3 / 16), 29), places[:, :, 3:])
    torch.testing.assert_close(path(noise, known, None, 7), path(noise, known, start(0.5), 7))
    far = np.abs(np.fft.rfft(path(1e6 * noise, known, start(0.3), 32).detach().numpy())) / 16
    # Each coefficient is 2/3 or -2/3: the middle, and a sine and a cosine.
    np.testing.assert_allclose(far[:, :, [0, 4]], np.broadcast_to([4 / 3, math.sqrt(8) / 3], (3, 2, 2)))


def test_paths_begin_as_ellipses_of_all_kinds():
    torch.manual_seed(0)
    places = MotionPath(100, 128, 16, True)(torch.randn(200, 100), torch.randn(200, 128), None, 16)
    spectrum = np.fft.rfft(places.detach().numpy())[:, :, 1]  # once in a clip, of x and of y
    across, down = spectrum.T
    # 1 and -1 are circles, the one way round and the other; 0 is a line.
    roundness = 2 * (across * down.conj()).imag / (np.abs(spectrum) ** 2).sum(1)
    assert np.abs(roundness).max() > 0.9 and np.abs(roundness).min() < 0.1 and 0.2 < np.std(roundness) < 0.8
    assert 0.2 < np.abs(spectrum).mean() / 8 < 0.7


def test_a_condition_says_as_much_of_a_path_however_large_it_is():
    torch.manual_seed(0)
    path, noise, known = MotionPath(100, 128, 8, True), torch.randn(1, 100).expand(50, -1), torch.randn(50, 128)
    places = path(noise, known, None, 8)
    assert 0.1 < places.std(0).mean() < 0.4  # each condition starts with another path
    torch.testing.assert_close(path(noise, 1000 * known + 7, None, 8), places, atol=1e-3, rtol=0)


def test_a_path_is_as_exact_under_autocast():
    torch.manual_seed(0)
    path, given = MotionPath(5, 4, 8, True), (torch.randn(3, 5), torch.randn(3, 4), torch.randn(3))
    with torch.autocast("cpu", torch.bfloat16):
        places = path(*given, 32)
    assert torch.equal(places, path(*given, 32))


@pytest.mark.parametrize("clock", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_clips_start_at_times_of_their_own_and_return_only_with_the_clock(family, clock):
    generator = build_generator(config(family=family, condition=(), warp=True, clock=clock)).eval()
    z, given = generator.noise(4), []
    generator.path.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    generator.draw(z)
    ((_, _, start_noise, frames),) = given
    assert frames == 16 and generator.path.returns == clock
    assert torch.equal(start_noise, z.flatten(1)[:, 0]) if clock else start_noise is None


@pytest.mark.parametrize("parts", [(), ("text",), ("image",)], ids=lambda parts: "+".join(parts) or "none")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_that_moves_a_picture(family, parts):
    torch.manual_seed(0)
    model = config(family=family, condition=parts, warp=True)
    generator, discriminator = build(model)
    z, c = generator.noise(3), condition(model, 3)
    c = c and c._replace(image=c.image.tanh())
    drawn = generator.draw(z, c)
    assert drawn.clips.shape == (3, 3, 16, 16, 16) and drawn.clips.abs().max() <= 1
    assert 0 < drawn.redrawn < 0.1  # an untrained one moves nearly all
    if parts == ("image",):
        assert (drawn.clips[:, :, 0] - c.image).abs().mean() < c.image.abs().mean() / 20  # not moved
    (discriminator(drawn.clips, c).sum() + drawn.redrawn).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert all(p.grad.abs().max() > 0 for part in (generator.decoder, generator.path) for p in part.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_that_moves_nothing_says_no_share(family):
    generator = build_generator(config(family=family, condition=()))
    drawn = generator.draw(generator.noise(2))
    assert isinstance(drawn, GeneratorOutput) and drawn.redrawn is None
