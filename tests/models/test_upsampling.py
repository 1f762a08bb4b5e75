"""Upsampling without a checkerboard, and the margin of time, against torch.nn's interpolation and convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from fastvgan.layers import ConvTranspose3d
from fastvgan.layers.upsampling import find_upsampling_kernels
from fastvgan.models import ModelConfig, build, build_generator
from fastvgan.models.sizes import add_time_margin, clip_stages, stages
from fastvgan.models.trunk import repeat_ends
from fastvgan.runs.presets import PRESETS
from fastvgan_kernels.projection import project


def config(**values):
    return ModelConfig(**{"condition": (), "latent": 6, "base_width": 2, **values})


def as_convolution(weight):
    """Return the taps a (C_out, C_in, 3, 3, 3) of a weight w = a * (1, 1) of shape (C_in, C_out, 4, 4, 4)."""
    a = weight
    for dim in (2, 3, 4):
        taps = a.unbind(dim)
        a = torch.stack([taps[0], taps[1] - taps[0], taps[2] - taps[1] + taps[0]], dim)
    return a.transpose(0, 1).flip(2, 3, 4)


def test_a_projected_layer_is_a_resize_convolution():
    torch.manual_seed(0)
    layer = ConvTranspose3d(3, 2, 4, 2, 1, bias=False).double()
    project(find_upsampling_kernels(layer))
    x = torch.randn(2, 3, 3, 4, 5, dtype=torch.float64)
    expected = F.conv3d(F.interpolate(x, scale_factor=2, mode="nearest"), as_convolution(layer.weight), padding=1)
    torch.testing.assert_close(layer(x), expected)


@given(kernel=st.sampled_from([3, 4]), stride=st.tuples(*[st.sampled_from([1, 2])] * 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_projection_is_the_nearest_kernel(kernel, stride, seed):
    torch.manual_seed(seed)
    layer = ConvTranspose3d(2, 3, kernel, stride, 1).double()
    before = layer.weight.detach().clone()
    # Orthogonal projection onto the kernels whose alternating sums along the strided dimensions are zero.
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0][:kernel], dtype=torch.float64)
    onto = torch.eye(kernel, dtype=torch.float64) - torch.outer(signs, signs) / kernel
    expected = before
    for dim in (2, 3, 4):
        if stride[dim - 2] == 2:
            expected = torch.tensordot(expected, onto, ([dim], [0])).movedim(-1, dim)
    project(find_upsampling_kernels(layer))
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_kernels_of_a_skipped_step_stay_as_they_are():
    layer = ConvTranspose3d(2, 3, 4, 2, 1)
    before, kernels = layer.weight.detach().clone(), find_upsampling_kernels(layer)
    project(kernels, unless=torch.ones(()))
    assert torch.equal(layer.weight, before)
    project(kernels, unless=torch.zeros(()))
    assert not torch.equal(layer.weight, before)


def test_networks_of_one_seed_differ_by_the_projection_alone():
    torch.manual_seed(0)
    free = build_generator(config())
    torch.manual_seed(0)
    resize = build_generator(config(upsampling="resize"))
    project(find_upsampling_kernels(free))
    for one, other in zip(free.parameters(), resize.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_a_layer_has_no_energy_at_the_grids_frequency(family):
    torch.manual_seed(0)
    energies = {}
    for upsampling in ("transposed", "resize"):
        last = build_generator(config(family=family, upsampling=upsampling, base_width=4)).decoder.last
        x = torch.randn(2, last.in_channels, 6, 16, 16)
        # The zero of a resize-convolution's transfer function at half the sampling rate, away from the borders: where
        # the kernel is a * (1, 1), the alternating sum over the result is zero.
        y = F.conv_transpose3d(x, last.weight, stride=last.stride)
        signs = torch.tensor([1.0, -1.0]).repeat(y.shape[-1] // 2)
        energies[upsampling] = ((y * signs).sum(-1).abs().mean() / y.abs().sum(-1).mean()).item()
    assert energies["resize"] < 1e-6 < 1e-2 < energies["transposed"]


@given(frames=st.integers(4, 64), side=st.sampled_from([16, 32, 64, 128]))
def test_sizes_with_a_margin_add_up(frames, side):
    plain = stages(frames, side, side)
    plan = add_time_margin(plain)
    assert plan[-1].large == (frames, side, side)
    for old, stage in zip(plain, plan, strict=True):
        assert stage.small[0] - old.small[0] in (0, 2) and stage.small[1:] == old.small[1:]
        for small, kernel, stride, padding, large in zip(
            stage.small, stage.kernel, stage.stride, stage.padding, stage.large, strict=True
        ):
            assert (small - 1) * stride - 2 * padding + kernel == large  # torch.nn's formula


@pytest.mark.parametrize("frames", [8, 16])
def test_with_a_margin_all_frames_have_as_many_terms(frames):
    # Count the terms of each frame by layers of ones applied to ones.
    counts = {}
    for margin in (False, True):
        model = config(frames=frames, time_margin=margin)
        plan = clip_stages(model)
        x = torch.ones(1, 1, plan[0].small[0], 1, 1, dtype=torch.float64)
        for stage in plan:
            layer = nn.ConvTranspose3d(
                1, 1, (stage.kernel[0], 1, 1), (stage.stride[0], 1, 1), (stage.padding[0], 0, 0), bias=False
            ).double()
            nn.init.ones_(layer.weight)
            x = layer(x)
        counts[margin] = x.flatten()
        generator = build(model)[0]
        assert generator(generator.noise(2)).shape == (2, 3, frames, 16, 16)
    least = {margin: (terms.min() / terms.max()).item() for margin, terms in counts.items()}
    assert least[False] <= 0.5 and least[True] >= {8: 0.8, 16: 1.0}[frames]


@pytest.mark.parametrize("d_norm", ["batch", "none", "group", "spectral"])
@pytest.mark.parametrize("condition", [(), ("image",)])
@pytest.mark.parametrize("frames", [4, 7, 8])
def test_with_a_margin_d_pads_clips_by_their_first_and_last_frame(d_norm, condition, frames):
    model = config(frames=frames, time_margin=True, d_norm=d_norm, condition=condition)
    plan = clip_stages(model)
    encoder = build(model)[1].double().trunk
    clip = torch.randn(2, 3, frames, 16, 16, dtype=torch.float64)
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64) if condition else None
    count = plan[-1].padding[0]
    with torch.no_grad(), parametrize.cached():  # spectral norm otherwise takes a step of its iteration each time
        features = encoder.encode(clip, image)
        encoder.end_copies = 0
        expected = encoder.encode(F.pad(clip, (0, 0, 0, 0, count, count), mode="replicate"), image)
    assert features.shape[2:] == plan[0].small
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("name", ["clips", "clips-64", "clips-128"])
def test_the_presets_of_own_clips_have_no_ends_and_no_checkerboard(name):
    """D's first layer sees all frames of a still picture alike, and no kernel of G has an alternating sum."""
    model = PRESETS[name].model.model_copy(update={"base_width": 4, "condition": ()})
    generator, discriminator = build(model)
    encoder = discriminator.trunk
    still = torch.randn(2, 3, 1, model.height, model.width).expand(-1, -1, model.frames, -1, -1)
    with torch.no_grad():
        seen = encoder.first(repeat_ends(still, encoder.end_copies))
    torch.testing.assert_close(seen, seen[:, :, :1].expand_as(seen), rtol=1e-4, atol=1e-4)
    kernels = find_upsampling_kernels(generator)
    sums = [(weight * signs).sum(dim).abs().max() for weight, by_dim in kernels for dim, signs in by_dim.items()]
    assert sums and torch.stack(sums).max() < 1e-6


@given(count=st.integers(0, 4), frames=st.integers(1, 5), seed=st.integers(0, 99))
def test_repeated_ends_equal_torchs_replication_padding_twice_differentiated(count, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, frames, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(2, 3, frames + 2 * count, 2, 4, dtype=torch.float64, generator=generator)
    found = []
    for padded in (repeat_ends(x, count), F.pad(x, (0, 0, 0, 0, count, count), mode="replicate")):
        (slope,) = torch.autograd.grad((weight * padded**3).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
        found.append((padded.detach(), slope.detach(), curvature))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs)
