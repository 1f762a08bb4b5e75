"""A convolutional LSTM over 16 steps of 64x64 on one GPU in bfloat16, under autocast."""

import functools

import pytest
import torch
from support.networks import conv_flops, share_inside
from support.on_gpu import DTYPE, EAGER, OURS, assert_supported, compile_variant, only_here, prepare_call, split_variant
from support.variants import DTYPES, TINY, describe, device, forward_backward, in_layout, relative_error, time_call

from bench.test_conv_lstm import KERNEL, LOOSE, OutputOnly, PlainConvLSTM, check
from bench.test_gpu_layers import forward_alone

pytestmark = only_here

CHANNELS, STEPS, SIZE = 128, 16, 64
# torch.compile takes a minute or more for sixteen steps, so only its fastest variants are run: captured, in our layout.
VARIANTS = [*EAGER, "compile-channels_last-graph", "autotune-channels_last-graph", *OURS]
PASSES = {"forward": (forward_alone, 1), "forward + backward": (forward_backward, 3)}
CASES = [
    pytest.param(batch, what, id=f"{batch}-{what.replace(' + ', '-')}")
    for batch, what in ((16, "forward + backward"), (16, "forward"), (2, "forward + backward"))
]


def problem(batch):
    """Make the stock network, x and dy; return them with the FLOPs of a pass, also counted without padding."""
    channels, steps, size, batch = (4, 2, 3, 2) if TINY else (CHANNELS, STEPS, SIZE, batch)
    torch.manual_seed(0)
    plain = PlainConvLSTM(channels).to(device())
    x = torch.randn(batch, channels, steps, size, size, device=device(), dtype=DTYPES[DTYPE])
    flops = steps * conv_flops(batch, (size, size), plain.gates.weight.shape)
    return plain, x, torch.randn_like(x), flops, round(flops * share_inside(size, size, KERNEL, 1, KERNEL // 2) ** 2)


@functools.lru_cache(maxsize=1)
def compute_expected(batch, what):
    """Compute the results by stock PyTorch in float32, contiguous and eager."""
    plain, x, dy, *_ = problem(batch)
    return PASSES[what][0](plain, x.float(), dy.float(), "fp32")()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch, what", CASES)
def test_gpu_conv_lstm(benchmark, batch, what, variant):
    mode, layout, _ = split_variant(variant)
    plain, x, dy, flops, needed = problem(batch)
    runs, passes = PASSES[what]
    group = f"GPU: ConvLSTM {CHANNELS}→{CHANNELS}, {STEPS} steps of {SIZE}x{SIZE}, batch {batch}, {what}, {DTYPE}"
    moved = 2 * passes * x.numel() * x.element_size()  # x and the output; in backward these again, dx and dy
    describe(benchmark, group, variant, DTYPE, flops=passes * flops, needed_flops=passes * needed, bytes=moved)
    x, plain = x.contiguous(memory_format=layout), in_layout(plain, layout)
    if mode == "ours":
        assert_supported(x, "conv_lstm", "conv_down", "conv_up", "conv_weight_grad")
        check(plain, x, dy, DTYPE)
        run = runs(OutputOnly(plain), x, dy, DTYPE)
    else:
        run = runs(compile_variant(plain, variant), x, dy, DTYPE)
        for theirs, right in zip(run(), compute_expected(batch, what), strict=True):
            error = relative_error(theirs, right)
            assert error < LOOSE[DTYPE], f"stock is off by {error:.2g}"
    time_call(benchmark, prepare_call(run, variant), seconds=0.5)
