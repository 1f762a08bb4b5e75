"""Each pass of each convolution of the reference networks: forward, data gradient, weight gradient.

Ours are `conv_up`, `conv_down`, `conv_weight_grad` and, followed by tanh, `fused_conv`. Stock PyTorch's gradients are
aten's convolution_backward with one gradient requested. All results are compared with float64 over the whole batch.
"""

from dataclasses import dataclass

import pytest
import torch
from support.networks import BATCH, conv_flops, share_inside
from support.variants import DTYPES, FORMATS, STOCK, assert_as_accurate, bytes_of, describe, device, in_mode, time_call

from fastvgan_kernels import conv_down, conv_up, conv_weight_grad, fused_conv
from fastvgan_kernels.fused_conv import Geometry

LAST = Geometry(True, [2] * 3, [1] * 3, [0] * 3, [1] * 3)  # of the generator's last layer
ALL = ("forward", "data gradient", "weight gradient")


@dataclass(frozen=True)
class Layer:
    """A (transposed) convolution over a cube; it doubles or halves the size, or keeps it (kernel 3, stride 1)."""

    inputs: int
    outputs: int
    size: int
    transposed: bool = False
    tanh: bool = False
    passes: tuple[str, ...] = ALL
    batch: int = BATCH
    kernel: int = 4
    stride: int = 2
    padding: int = 1

    @property
    def small(self) -> int:
        """The size of the smaller side."""
        return self.size if self.transposed else self.size // self.stride

    @property
    def large(self) -> int:
        return self.small * self.stride

    def __str__(self):
        kind = "ConvTranspose3d" if self.transposed else "Conv3d"
        return f"{kind} {self.inputs}→{self.outputs} from {self.size}³"


LAYERS = {
    "up-256-128": Layer(256, 128, 4, transposed=True),
    "up-128-64": Layer(128, 64, 8, transposed=True),
    "down-128-256": Layer(128, 256, 8),
    "last-128-3": Layer(128, 3, 8, transposed=True, tanh=True, passes=("forward", "data gradient")),
    "first-3-128": Layer(3, 128, 16),
}
CASES = [
    pytest.param(layer, which, id=f"{name}-{which.replace(' ', '-')}")
    for name, layer in LAYERS.items()
    for which in layer.passes
]


def problem(layer, dtype, layout):
    """Make x, weight and dy, scaled so that inputs and outputs have variance 1; return them and the FLOPs."""
    torch.manual_seed(0)
    channels = (layer.inputs, layer.outputs) if layer.transposed else (layer.outputs, layer.inputs)
    fan_in = layer.inputs * layer.kernel**3 / (layer.stride**3 if layer.transposed else 1)
    x = torch.randn(layer.batch, layer.inputs, *[layer.size] * 3, device=device())
    weight = torch.randn(*channels, *[layer.kernel] * 3, device=device()) / fan_in**0.5
    after = layer.large if layer.transposed else layer.small
    dy = torch.randn(layer.batch, layer.outputs, *[after] * 3, device=device())
    flops = conv_flops(layer.batch, [layer.small] * 3, weight.shape)
    inside = share_inside(layer.large, layer.small, layer.kernel, layer.stride, layer.padding)
    needed = round(flops * inside**3)
    tensors = [t.to(dtype).contiguous(memory_format=layout) for t in (x, weight, dy)]
    return tensors, {"flops": flops, "needed_flops": needed}


def stock_pass(layer, which):
    geometry = [layer.stride] * 3, [layer.padding] * 3, [1] * 3, layer.transposed, [0] * 3, 1

    def forward(x, weight, dy):
        y = torch.convolution(x, weight, None, *geometry)
        return torch.tanh(y) if layer.tanh else y

    def data_gradient(x, weight, dy):
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, [True, False, False])[0]

    def weight_gradient(x, weight, dy):
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, [False, True, False])[1]

    return {"forward": forward, "data gradient": data_gradient, "weight gradient": weight_gradient}[which]


def our_pass(layer, which):
    there, back = (conv_up, conv_down) if layer.transposed else (conv_down, conv_up)

    def forward(x, weight, dy):
        if layer.tanh:
            return fused_conv(x, weight, None, LAST, activation="tanh")[0]
        return there(x, weight, None, layer.stride, layer.padding)

    def data_gradient(x, weight, dy):
        return back(dy, weight, None, layer.stride, layer.padding)

    def weight_gradient(x, weight, dy):
        large, small = (dy, x) if layer.transposed else (x, dy)
        return conv_weight_grad(large, small, layer.kernel, layer.stride, layer.padding)

    return {"forward": forward, "data gradient": data_gradient, "weight gradient": weight_gradient}[which]


@torch.no_grad()
@pytest.mark.parametrize("variant", [*STOCK, "ours-channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer, which", CASES)
def test_conv(benchmark, layer, which, dtype, variant):
    mode, layout = variant.split("-")
    tensors, flops = problem(layer, DTYPES[dtype], FORMATS[layout])
    # In every pass, x, weight and dy each have the shape of an operand or of the result.
    describe(benchmark, f"{layer}, {which}, {dtype}", variant, dtype, **flops, bytes=bytes_of(*tensors))
    if mode == "ours":
        run, theirs = our_pass(layer, which), stock_pass(layer, which)
        exact = theirs(*(t.double() for t in tensors))
        assert_as_accurate([run(*tensors)], [theirs(*tensors)], [exact], 2 if which == "forward" else 3)
    else:
        run = in_mode(stock_pass(layer, which), mode)
    time_call(benchmark, lambda: run(*tensors))
