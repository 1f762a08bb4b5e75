"""Each pass of convolutions of video networks on one GPU, in bfloat16: our operations against cuDNN.

Ours are `conv_up`, `conv_down` and `conv_weight_grad`.

torch.compile is measured only in the forward pass: it calls cuDNN for the gradients as eager PyTorch does.
"""

import functools
from dataclasses import replace

import pytest
import torch
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
from support.variants import DTYPES, FORMATS, TINY, assert_as_accurate, assert_plausible, bytes_of, describe, time_call

from bench.test_conv import Layer, our_pass, problem, stock_pass

pytestmark = only_here

same = functools.partial(Layer, kernel=3, stride=1)
LAYERS = {  # 7 to 275 GFLOP per pass, sizes of 4³ to 64³
    "up-512-256-from-4": Layer(512, 256, 4, transposed=True, batch=64),
    "up-256-128-from-8": Layer(256, 128, 8, transposed=True, batch=64),
    "up-128-64-from-16": Layer(128, 64, 16, transposed=True, batch=32),
    "up-128-64-from-32": Layer(128, 64, 32, transposed=True, batch=8),
    "down-64-128-from-64": Layer(64, 128, 64, batch=8),
    "down-128-256-from-32": Layer(128, 256, 32, batch=16),
    "down-256-512-from-16": Layer(256, 512, 16, batch=16),
    "down-256-512-from-8": Layer(256, 512, 8, batch=16),
    "same-64-64-at-64": same(64, 64, 64, batch=4),
    "same-128-128-at-32": same(128, 128, 32, batch=8),
    "same-256-256-at-16": same(256, 256, 16, batch=16),
    "same-512-512-at-8": same(512, 512, 8, batch=16),
    "same-64-64-at-16": same(64, 64, 16, batch=8),
}
CASES = [
    pytest.param(layer, which, variant, id=f"{name}-{which.replace(' ', '-')}-{variant}")
    for name, layer in LAYERS.items()
    for which in layer.passes
    for variant in (*EAGER, *(AUTOTUNE if which == "forward" else ()), *OURS)
]
OPERATIONS = "conv_up", "conv_down", "conv_weight_grad"


def group(layer, which):
    facts = f"kernel {layer.kernel}, stride {layer.stride}, batch {layer.batch}"
    return f"GPU: {layer}, {facts}, {which}, {DTYPE}"


def shrink_if_tiny(layer):
    return replace(layer, inputs=layer.inputs // 16, outputs=layer.outputs // 16, size=2, batch=2) if TINY else layer


@functools.lru_cache(maxsize=1)
def compute_expected(layer, which):
    """Compute the result in float64, and by stock PyTorch in our layout; all variants of a problem share them."""
    tensors, _ = problem(layer, DTYPES[DTYPE], FORMATS["channels_last"])
    stock = stock_pass(layer, which)
    return stock(*(t.double() for t in tensors)), stock(*tensors)


@torch.no_grad()
@pytest.mark.parametrize("layer, which, variant", CASES)
def test_gpu_conv(benchmark, layer, which, variant):
    mode, layout, _ = split_variant(variant)
    name, layer = group(layer, which), shrink_if_tiny(layer)
    tensors, flops = problem(layer, DTYPES[DTYPE], layout)
    describe(benchmark, name, variant, DTYPE, **flops, bytes=bytes_of(*tensors))
    exact, stock = compute_expected(layer, which)
    if mode == "ours":
        assert_supported(tensors[0], *OPERATIONS)
        function = our_pass(layer, which)
        assert_as_accurate([function(*tensors)], [stock], [exact], 2 if which == "forward" else 3)
    else:
        function = compile_variant(stock_pass(layer, which), variant)
        assert_plausible([function(*tensors)], [exact])
    time_call(benchmark, prepare_call(lambda: (function(*tensors),), variant), seconds=0.3)
