"""Compiles Triton kernels for an absent GPU: their host code runs with a driver that launches nothing.

Arguments and specialisation are those of a launch on that GPU. It needs a separate process, because Triton either
compiles or interprets.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import fastvgan  # noqa: F401
from fastvgan_kernels import choice
from fastvgan_kernels.conv import triton as conv
from fastvgan_kernels.conv.fusion import Fusion
from fastvgan_kernels.conv.geometry import Geometry
from fastvgan_kernels.conv.triton import (
    conv_fused,
    conv_weight_grad,
    conv_with_parts,
    merge_before_norm,
)
from fastvgan_kernels.conv_lstm import triton as lstm
from fastvgan_kernels.conv_lstm.protocol import Inputs, NeedsGrad, Saved
from fastvgan_kernels.diversity import triton as diversity
from fastvgan_kernels.finite import triton as finite
from fastvgan_kernels.lists import triton as lists
from fastvgan_kernels.logistic import triton as logistic
from fastvgan_kernels.norm_act import triton as norm
from fastvgan_kernels.norm_act.following import Following
from fastvgan_kernels.norm_act.protocol import Norm
from fastvgan_kernels.philox import triton as philox
from fastvgan_kernels.projection import UpsamplingKernel
from fastvgan_kernels.projection import triton as projection
from fastvgan_kernels.triton import configs as triton_configs
from fastvgan_kernels.triton import tuning

SHARED_KIB = {80: 163, 86: 99, 90: 227, 100: 227, 120: 99}  # that a block can have
_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32, "ieee": torch.float32}


class Driver:
    """A GPU of some architecture, as far as compiling goes."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch  # caches of compiled kernels are by device

    def get_current_stream(self, device):
        return 0

    def launcher_cls(self, src, metadata):
        return lambda *args: None


def compile_kernels(architecture: int, call: Callable[[], object]) -> list:
    """The kernels that `call` launches, compiled for the architecture and launched nowhere."""
    kernels, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernels.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    driver.set_active(Driver(architecture))
    with mock.patch.object(JITFunction, "run", compile_only):
        call()
    return kernels


def build(architecture: int, name: str, dtype: str) -> list[tuple[tuning.Config, dict]]:
    """Every configuration that is shipped for a kernel of PRODUCTS or ROWS, and what became of it."""
    if name in PRODUCTS:
        table, call, kernel = PRODUCTS[name]
        shipped = triton_configs.table(table, dtype, DTYPES[dtype], tuning.family(architecture // 10))
    else:
        last, call, kernel = ROWS[name]
        shipped = triton_configs.for_rows(last)
    if DTYPES[dtype] == torch.float32:
        torch.backends.cudnn.conv.fp32_precision = dtype
    results = []
    for config in shipped:
        if config.least_shared_bytes() > SHARED_KIB[architecture] * 1024:
            continue
        with mock.patch.object(tuning, "choose", lambda *_, config=config: config):
            found = compile_kernels(architecture, lambda: call(DTYPES[dtype]))
        results += [(config, report(k)) for k in found if k.metadata.name == kernel]
    return results


def build_odd(architecture: int, dtype: str) -> list[str]:
    """Every operation on sizes that Triton compiles specially, by whatever it chooses: the names of the kernels."""
    dtype = DTYPES[dtype]
    sizes = ((1, 1), (1, 1, 1)), ((1, 3), (1, 4, 1)), ((3, 1), (5, 1, 1)), ((33, 16), (3, 2, 16))
    found = []
    for dims, (channels, size) in [*((3, each) for each in sizes), (1, sizes[1]), (2, sizes[1])]:
        found += compile_kernels(architecture, lambda c=channels, s=size, d=dims: _every_operation(dtype, *c, s[:d]))
    found += compile_kernels(architecture, lambda: _weights(dtype))
    for key, blocks in (((0, 0), 1), ((1, 0), 29), ((7, 2**32 - 1), 16)):
        counters = torch.empty(blocks, 2, dtype=torch.int64)
        found += compile_kernels(architecture, lambda c=counters, k=key: philox.philox(torch.arange(3), c, k))
    return sorted({kernel.metadata.name for kernel in found})


def _every_operation(dtype, inputs, outputs, size):
    for groups, layout in ((1, "first"), (2, "last")):
        small, large = (torch.empty(3, groups * c, *size, dtype=dtype) for c in (inputs, outputs))
        if layout == "last":
            small, large = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (small, large))
        dims, bias = len(size), torch.empty(groups * outputs, dtype=dtype)
        up, down = (
            torch.empty(groups * inputs, outputs, *[3] * dims),
            torch.empty(groups * inputs, outputs, *[1] * dims),
        )
        geometry = Geometry(True, [2] * dims, [0] * dims, [1] * dims, [2] * dims, groups)
        conv_fused(small, up, bias, geometry, Fusion(statistics=True))
        followed = conv_with_parts(small, up, None, geometry, Fusion(statistics=True))
        vectors = [torch.empty(groups * outputs) for _ in range(4)]
        running = *vectors[2:], torch.empty((), dtype=torch.int64)
        merge_before_norm(*followed, Following(*vectors[:2], 1e-5, *running, 0.1))
        merge_before_norm(*followed, Following(None, None, 1e-5))
        geometry = Geometry(False, [1] * dims, [1] * dims, [0] * dims, [1] * dims, groups)
        conv_fused(large, down.to(dtype), None, geometry, Fusion())
        conv_weight_grad(large, small, [1] * dims, [1] * dims, [0] * dims, [1] * dims, groups)
        diversity.diversity(large, torch.empty(3, inputs), 1)
        diversity.diversity(small, torch.empty(3, 7), 0.5)
        vectors = [torch.empty(groups * inputs) for _ in range(4)]
        norm.norm_act(small, Norm(None, None, None, None, True, 1e-5, "relu", 0.0))
        norm.norm_act_backward(small, small, Norm(*vectors, False, 1e-5, "tanh", 0.0))
        norm.norm_act_residual(small, small, Norm(*vectors, False, 1e-5, "silu", 0.0))
        norm.norm_act_residual_backward(small, small, small, Norm(*vectors, True, 1e-5, "gelu", 0.0))
        _scalars(dtype, groups * inputs)
    _whole_lstm(dtype, inputs, outputs, [*size, 1, 1][:3])


def _scalars(dtype, count):
    logits, scalar = torch.empty(count, dtype=dtype), torch.empty(())
    for positive in (False, True):
        logistic.logistic(logits, positive)
        logistic.logistic_backward(scalar, logits, positive)
    for in_a_row in (None, torch.empty((), dtype=torch.int32)):
        finite.check_norms(torch.empty(count), scalar, scalar, in_a_row, None if in_a_row is None else torch.empty(3))
    finite.add_finite([scalar] * count, torch.empty(count), torch.empty(2, count))


def _weights(dtype):
    """What an update does to weights, in more than one launch, of sizes that Triton compiles specially."""
    shapes = [(1,), (16,), (5000,), (32, 3, 4, 4, 4), *[(3, 32, 1, 4, 4)] * 61]
    tensors = [torch.empty(shape) for shape in shapes]
    one = torch.ones(1)
    projection.project([UpsamplingKernel(tensors[3], {2: one, 3: one, 4: one})], torch.empty(()))
    projection.project([UpsamplingKernel(torch.empty(1, 1, 1, 3, 2), {4: one})], None)
    for some in tensors, tensors[:1]:
        lists.norms(some)
        lists.mean_sigmoids([[x.to(dtype) for x in some[:2]]] * 3)
        lists.average_into(some, some, torch.empty(()))
        lists.restore_where(torch.empty(()), *([x.view(-1).view(torch.uint8) for x in some] for _ in range(2)))
        lists.copy_into([x.movedim(0, -1).to(dtype).contiguous().movedim(-1, 0) for x in some], some)


def _whole_lstm(dtype, inputs, hidden, size):
    x = torch.empty(3, inputs, *size, dtype=dtype)
    h, c = (torch.empty(3, hidden, *size[1:], dtype=dtype) for _ in range(2))
    w_ih, w_hh = (torch.empty(4 * hidden, *rest, dtype=dtype) for rest in ((inputs, 1, 3), (hidden, 3, 1)))
    # The convolutions between the steps refuse what is not on a GPU.
    with mock.patch.object(choice, "pick", lambda *_: conv):
        inputs = Inputs(x, h, c, w_ih, w_hh, None)
        output, cell, gates, cells = lstm.forward(inputs, None)
        lstm.backward(None, cell, inputs, Saved(output, gates, cells), NeedsGrad(*[True] * 6), None)


def report(kernel) -> dict:
    """What a test wants to know of a compiled kernel."""
    ptx = kernel.asm["ptx"]
    # Registers that are too few go to the stack, which nothing else here uses.
    usage = _usage(kernel.asm["cubin"])
    return {
        "kernel": kernel.metadata.name,
        "shared": kernel.metadata.shared,
        "registers": usage["REG"],
        "stack": usage["STACK"],
        "tensor_cores": sorted(set(re.findall(r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)\b", ptx))),
        "copy_engine": "cp.async.bulk.tensor" in ptx,
        "multiply_add": "fma.rn.f32" in ptx,
    }


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def _rows(dtype, n, channels, *space):
    return torch.empty((n, *space, channels), dtype=dtype).movedim(-1, 1)


def _down(dtype, inputs=128, outputs=256, fusion=None):
    weight = _rows(dtype, outputs, inputs, 4, 4, 4)
    x = _rows(dtype, 16, inputs, 16, 16, 16)
    return conv_fused(x, weight, None, Geometry(False, [2] * 3, [1] * 3, [0] * 3, [1] * 3), fusion or Fusion())


def _up(dtype, inputs=256, outputs=128, fusion=None, bias=None, groups=1):
    x, weight = _rows(dtype, 16, groups * inputs, 8, 8, 8), _rows(dtype, groups * inputs, outputs, 4, 4, 4)
    return conv_fused(x, weight, bias, Geometry(True, [2] * 3, [1] * 3, [0] * 3, [1] * 3, groups), fusion or Fusion())


def _fusion(channels, **rest):
    return Fusion(torch.empty(channels), torch.empty(channels), "leaky_relu", 0.2, **rest)


def _weight_grad(dtype, inputs=128, outputs=256):
    large, small = _rows(dtype, 16, inputs, 16, 16, 16), _rows(dtype, 16, outputs, 8, 8, 8)
    return conv_weight_grad(large, small, [4] * 3, [2] * 3, [1] * 3, [1] * 3, 1)


def _lstm_step(dtype, backward):
    n, hidden, size = 4, 128, (2, 64, 64)
    gates, w = _rows(dtype, n, 4 * hidden, *size), _rows(dtype, 4 * hidden, hidden, 3, 3)
    output, cells = _rows(dtype, n, hidden, *size), _rows(torch.float32, n, hidden, *size)
    now, before = (slice(None), slice(None), 1), (slice(None), slice(None), 0)
    config = tuning.choose(None, None, None)
    if not backward:
        return lstm._step(config, w, output[before], cells[before], gates[now], output[now], cells[now])
    d_pre, dc = torch.empty_like(gates), torch.empty_like(cells)
    states = gates[before], cells[before], cells[now], dc[now], dc[before], d_pre[before]
    return lstm._step_backward(config, w, output[before], d_pre[now], *states)


def _norm(dtype, last, part):
    x = _rows(dtype, 64, 128, 8, 8, 8) if last else torch.empty((64, 128, 8, 8, 8), dtype=dtype)
    vectors = [torch.empty(128) for _ in range(4)]
    if part.startswith("backward"):
        return norm.norm_act_backward(x, x, Norm(*vectors, True, 1e-5, "tanh", 0.0))
    statistics = vectors[2:] if part == "forward" else [None, None]
    return norm.norm_act(x, Norm(*statistics, *vectors[:2], part != "forward", 1e-5, "leaky_relu", 0.2))


# What is launched → (the table its configurations are in, the call, the name of the kernel to look at).
PRODUCTS = {
    "down": ("gather", _down, "gather_kernel"),
    "up": ("gather", _up, "gather_kernel"),
    "up, statistics": (
        "gather_fused",
        lambda d: _up(d, 256, 128, Fusion(statistics=True), torch.empty(128)),
        "gather_kernel",
    ),
    "down, norm": ("gather_fused", lambda d: _down(d, fusion=_fusion(128)), "gather_kernel"),
    "up, norm, statistics": ("gather_fused", lambda d: _up(d, fusion=_fusion(256, statistics=True)), "gather_kernel"),
    "up, few channels": ("gather_merged", lambda d: _up(d, 64, 3, groups=2), "gather_kernel"),
    "down, some channels": ("gather_flat", lambda d: _down(d, 8, 128), "gather_kernel"),
    "last layer": ("up_few", lambda d: _up(d, 64, 3, Fusion(activation="tanh"), torch.empty(3)), "up_few_kernel"),
    "last layer, norm": ("up_few", lambda d: _up(d, 64, 3, _fusion(64, activation="tanh")), "up_few_kernel"),
    "first layer": ("down_few", lambda d: _down(d, 3, 128, Fusion(activation="leaky_relu")), "down_few_kernel"),
    "weight gradient": ("weight_grad", _weight_grad, "weight_grad_kernel"),
    "weight gradient, some channels": ("weight_grad_flat", lambda d: _weight_grad(d, 8, 128), "weight_grad_kernel"),
    "weight gradient, few channels": ("grad_few", lambda d: _weight_grad(d, 3, 128), "grad_few_kernel"),
    "lstm step": ("conv_lstm_forward", lambda d: _lstm_step(d, False), "step_kernel"),
    "lstm step, backward": ("conv_lstm_backward", lambda d: _lstm_step(d, True), "step_backward_kernel"),
}
ROWS = {
    f"{kernel}, channels {'last' if last else 'first'}": (
        last,
        lambda d, last=last, part=kernel: _norm(d, last, part),
        f"{kernel}_kernel",
    )
    for kernel in ("statistics", "forward", "backward_sums", "backward")
    for last in (True, False)
}
