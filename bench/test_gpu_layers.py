"""Layers of video networks on one GPU in bfloat16, forward and backward: fused against unfused."""

import functools

import pytest
import torch
from support.networks import conv_flops, layer_flops
from support.on_gpu import (
    AUTOTUNE,
    DTYPE,
    EAGER,
    OURS,
    assert_supported,
    compile_variant,
    only_here,
    prepare_call,
    split_variant,
)
from support.variants import (
    DTYPES,
    TINY,
    assert_as_accurate,
    assert_plausible,
    autocast,
    away_from_kink,
    describe,
    device,
    forward_backward,
    in_float64,
    in_layout,
    time_call,
)
from torch import nn

from bench.test_conv import LAST
from bench.test_fused_layers import ours as fused
from bench.test_fused_layers import output_shape, up
from bench.test_norm_act import ACTIVATIONS, TRANSFERS, runner
from bench.test_norm_act import ours as fused_norm
from bench.test_norm_act import problem as norm_problem
from fastvgan_kernels import choice, fused_conv

pytestmark = only_here
VARIANTS = [*EAGER, *AUTOTUNE, *OURS]
MIDDLE = {"256-128-from-8": (256, 128, 8, 64), "128-64-from-16": (128, 64, 16, 64), "128-64-from-32": (128, 64, 32, 16)}
LAST_LAYER = 64, 3, 32, 16  # input and output channels, size, batch
NORM = 32, 64, 32, 32, 32  # 134 MB, more than a GPU's cache holds


def shrink_if_tiny(inputs, outputs, size, batch):
    return (inputs // 16, max(3, outputs // 16), 2, 2) if TINY else (inputs, outputs, size, batch)


def inputs_of(module, channels, size, batch):
    """Make x and dy in the measured dtype."""
    shape = batch, channels, size, size, size
    x = torch.randn(shape, device=device(), dtype=DTYPES[DTYPE])
    return x, torch.randn(output_shape(module, shape), device=device(), dtype=DTYPES[DTYPE])


class Last(nn.Module):
    """A generator's last layer by our operation: a transposed convolution fused with tanh."""

    def __init__(self, stock):
        super().__init__()
        self.weight = nn.Parameter(stock[0].weight.detach().clone(memory_format=torch.preserve_format))

    def forward(self, x):
        return fused_conv(x, self.weight, None, LAST, activation="tanh")[0]


def last():
    return nn.Sequential(nn.ConvTranspose3d(LAST_LAYER[0] if not TINY else 4, 3, 4, 2, 1, bias=False), nn.Tanh())


def forward_alone(module, x, dy, autocast_to):
    @torch.no_grad()
    def run():
        with autocast(autocast_to):
            return (module(x),)

    return run


def compare(benchmark, variant, runner, reference, ours, x, dy, factor):
    """Check and time a variant of a layer whose `runner` takes a module, x, dy and the dtype of autocast.

    Args:
        reference: the stock module, in float32.
        ours: returns our module for a stock module.
        factor: our error may be this many times stock's.
    """
    mode, layout, _ = split_variant(variant)
    exact = runner(in_float64(reference), x.double(), dy.double(), "fp32")()
    stock = in_layout(reference, layout)
    x = x.contiguous(memory_format=layout)
    if mode == "ours":
        run = runner(ours(stock), x, dy, DTYPE)
        assert_as_accurate(run(), runner(stock, x, dy, DTYPE)(), exact, factor)
    else:
        run = runner(compile_variant(stock, variant), x, dy, DTYPE)
        assert_plausible(run(), exact)
    time_call(benchmark, prepare_call(run, variant), seconds=0.3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", MIDDLE)
def test_gpu_fused_layer(benchmark, layer, variant):
    """ConvTranspose3d, BatchNorm3d and ReLU in training, under autocast."""
    name = "GPU: ConvTranspose3d + BatchNorm3d + ReLU {}→{} from {}³, batch {}".format(*MIDDLE[layer])
    name = f"{name}, forward + backward, {DTYPE}"
    inputs, outputs, size, batch = shrink_if_tiny(*MIDDLE[layer])
    torch.manual_seed(0)
    reference = up(inputs, outputs).to(device())
    x, dy = inputs_of(reference, inputs, size, batch)
    flops, needed = (3 * sum(layer_flops(up(inputs, outputs), *x.shape, needed=n)) for n in (False, True))
    # x is read twice and dx is written. Forward writes the convolution's output, reads it when its mean is known, and
    # writes y; backward reads this output and dy twice, before and after their sums are known.
    moved = (3 * x.numel() + 7 * dy.numel()) * x.element_size()
    describe(benchmark, name, variant, DTYPE, flops=flops, needed_flops=needed, bytes=moved)
    assert_supported(x, "conv_up", "conv_down", "conv_weight_grad", "norm_act")
    with torch.no_grad():
        dy = away_from_kink(dy, in_float64(reference)[:2](x.double()))
    compare(benchmark, variant, forward_backward, reference, fused, x, dy, 3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", ["forward", "forward + backward"], ids=["forward", "forward-backward"])
def test_gpu_last_layer(benchmark, what, variant):
    """A transposed convolution to 3 channels, and tanh, under autocast."""
    torch.manual_seed(0)
    reference = last().to(device())
    name = "GPU: ConvTranspose3d + tanh {}→{} from {}³, batch {}".format(*LAST_LAYER)
    inputs, _, size, batch = shrink_if_tiny(*LAST_LAYER)
    x, dy = inputs_of(reference, inputs, size, batch)
    passes, of_x, of_y = (1, 1, 1) if what == "forward" else (3, 3, 3)  # backward: x, dy and y are read, dx written
    flops = passes * conv_flops(batch, [size] * 3, reference[0].weight.shape)
    moved = (of_x * x.numel() + of_y * dy.numel()) * x.element_size()
    describe(benchmark, f"{name}, {what}, {DTYPE}", variant, DTYPE, flops=flops, bytes=moved)
    assert_supported(x, "conv_up", "conv_down", "conv_weight_grad")
    runs = forward_alone if what == "forward" else forward_backward
    compare(benchmark, variant, runs, reference, Last, x, dy, 3)


NORMS = ["ours-contiguous", "ours-contiguous-graph", "ours_cuda-channels_last", "ours_cuda-channels_last-graph"]


@functools.lru_cache(maxsize=1)
def compute_exact_norm(activation, what):
    """Make x, dy and the stock module; return them with the results in float64."""
    shape = (2, 8, 2, 2, 2) if TINY else NORM
    x, dy, reference = norm_problem(shape, DTYPES[DTYPE], activation)
    with torch.no_grad():
        dy = away_from_kink(dy, in_float64(reference)[0](x.double()))
    return x, dy, reference, runner(in_float64(reference), x.double(), dy.double(), what)()


@pytest.mark.parametrize("variant", [*EAGER, *AUTOTUNE, *OURS, *NORMS])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("what", TRANSFERS, ids=["evaluation", "forward", "forward-backward"])
def test_gpu_norm_act(benchmark, what, activation, variant):
    """BatchNorm3d and an activation, on a tensor larger than any cache."""
    mode, layout, _ = split_variant(variant)
    x, dy, reference, exact = compute_exact_norm(activation, what)
    moved = TRANSFERS[what] * x.numel() * x.element_size()
    describe(benchmark, f"GPU: BatchNorm3d + {activation} {NORM}, {what}, {DTYPE}", variant, DTYPE, bytes=moved)
    x = x.contiguous(memory_format=layout)
    if mode.startswith("ours"):
        module = fused_norm(reference, activation)
        if mode == "ours_cuda":
            module.impl = "cuda"
            skip_unless_cuda_supports(x)
        else:
            assert_supported(x, "norm_act")
        run = runner(module, x, dy, what)
        assert_as_accurate(run(), runner(reference, x, dy, what)(), exact, 3)
    else:
        run = runner(compile_variant(reference, variant), x, dy, what)
        assert_plausible(run(), exact)
    time_call(benchmark, prepare_call(run, variant), seconds=0.3)


def skip_unless_cuda_supports(x):
    try:
        choice.pick("norm_act", "cuda", x)
    except ValueError as error:
        pytest.skip(str(error))
