"""A convolution, batch norm and an activation in training, forward and backward: one module of ours against three.

bf16 means autocast over float32 parameters; the variants with "pure" in the same group have bf16 parameters.
"""

import copy

import pytest
import torch
from support.networks import BATCH, layer_flops
from support.variants import (
    DTYPES,
    FORMATS,
    STOCK,
    assert_as_accurate,
    away_from_kink,
    describe,
    device,
    forward_backward,
    in_float64,
    load_in_order,
    stock,
    time_call,
)
from torch import nn

from fastvgan.layers import ConvNormAct3d, ConvTransposeNormAct3d

GEOMETRY = 4, 2, 1  # kernel, stride, padding


def up(inputs, outputs):
    conv = nn.ConvTranspose3d(inputs, outputs, *GEOMETRY, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.ReLU())


def down(inputs, outputs):
    conv = nn.Conv3d(inputs, outputs, *GEOMETRY, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.LeakyReLU(0.2))


def ours(reference):
    conv, _, activation = reference
    if isinstance(activation, nn.ReLU):
        layer = ConvTransposeNormAct3d(conv.in_channels, conv.out_channels, *GEOMETRY, activation="relu")
    else:
        leaky = {"activation": "leaky_relu", "negative_slope": activation.negative_slope}
        layer = ConvNormAct3d(conv.in_channels, conv.out_channels, *GEOMETRY, **leaky)
    return load_in_order(layer.to(device(), conv.weight.dtype, memory_format=torch.channels_last_3d), reference)


LAYERS = {  # id: name, stock module, input channels and size
    "up-256-128": ("ConvTranspose3d + BatchNorm3d + ReLU 256→128 from 4³", lambda: up(256, 128), 256, 4),
    "up-128-64": ("ConvTranspose3d + BatchNorm3d + ReLU 128→64 from 8³", lambda: up(128, 64), 128, 8),
    "down-128-256": ("Conv3d + BatchNorm3d + LeakyReLU 128→256 from 8³", lambda: down(128, 256), 128, 8),
}
OURS = "ours-channels_last"
VARIANTS = [("fp32", variant) for variant in (*STOCK, OURS)] + [
    ("bf16", variant) for variant in (*STOCK, *(f"{v}-pure" for v in STOCK), OURS, f"{OURS}-pure")
]


def output_shape(module, shape):
    return copy.deepcopy(module).to("meta")(torch.empty(shape, device="meta", dtype=module[0].weight.dtype)).shape


def check(module, reference, x, dy, autocast_to):
    exact = in_float64(reference)
    with torch.no_grad():
        dy = away_from_kink(dy, exact[:2](x.double()))
    mine, theirs = (forward_backward(m, x, dy, autocast_to)() for m in (module, reference))
    assert_as_accurate(mine, theirs, forward_backward(exact, x.double(), dy.double())(), 3)


@pytest.mark.parametrize("dtype, variant", VARIANTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_fused_layer(benchmark, layer, dtype, variant):
    name, make, channels, size = LAYERS[layer]
    shape = BATCH, channels, size, size, size
    flops, needed = (3 * sum(layer_flops(make(), *shape, needed=needed)) for needed in (False, True))
    describe(benchmark, f"{name}, {dtype}", variant, dtype, flops=flops, needed_flops=needed)
    variant, pure = variant.removesuffix("-pure"), variant.endswith("-pure")
    torch.manual_seed(0)
    reference = make().to(device(), DTYPES[dtype] if pure else torch.float32)
    x = torch.randn(shape, device=device(), dtype=DTYPES[dtype])
    dy = torch.randn(output_shape(reference, shape), device=device(), dtype=DTYPES[dtype])
    autocast_to = "fp32" if pure else dtype
    if variant == OURS:
        x = x.contiguous(memory_format=FORMATS["channels_last"])
        module = ours(reference)
        check(module, reference, x, dy, autocast_to)
    else:
        module, x = stock(reference, variant, x)
    time_call(benchmark, forward_backward(module, x, dy, autocast_to))
