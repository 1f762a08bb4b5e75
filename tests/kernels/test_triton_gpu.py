"""The Triton kernels on a GPU: what neither the interpreter nor compiling shows."""

import functools
import math

import pytest
import torch
from torch.nn import functional

from fastvgan_kernels import choice, conv_down, conv_lstm, conv_up, conv_weight_grad, fused_conv, lists, norm_act
from fastvgan_kernels.diversity import diversity
from fastvgan_kernels.fused_conv import Geometry, Norm
from fastvgan_kernels.projection import UpsamplingKernel, project
from fastvgan_kernels.triton import tuning

pytestmark = pytest.mark.gpu
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
LAST = {"memory_format": torch.channels_last_3d}
UP = Geometry(True, [2] * 3, [1] * 3, [0] * 3, [1] * 3)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Memory that torch.empty gives is NaN, and what PyTorch cannot do deterministically is an error."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def strict_float32(request):
    """Products of float32 without tf32, except where a test asks for that."""
    torch.backends.cudnn.conv.fp32_precision = getattr(request, "param", "ieee")
    yield
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def random(*shape, dtype=torch.bfloat16):
    torch.manual_seed(sum(shape))
    x = torch.randn(shape, device="cuda", dtype=dtype) / 2
    return x.contiguous(**LAST) if x.dim() == 5 else x


def passes(dtype, inputs=64, outputs=48, size=6, batch=5, kernel=4, stride=2):
    """Each operation with gradients of all that has one: name → (function, arguments)."""
    make = functools.partial(random, dtype=dtype)
    small, large = make(batch, inputs, *[size] * 3), make(batch, outputs, *[size * stride] * 3)
    weight = make(inputs, outputs, *[kernel] * 3) / (inputs * kernel**3 / stride**3) ** 0.5
    bias, scale, shift = make(outputs), make(inputs).float() + 1, make(inputs).float()
    geometry = Geometry(True, [stride] * 3, [1] * 3, [0] * 3, [1] * 3)
    norm = Norm(make(inputs).float(), make(inputs).float().abs() + 0.5, scale, shift, True, 1e-5, "relu", 0.0)

    def run_fused_conv(x, weight, impl):
        wide = torch.promote_types(x.dtype, torch.float32)
        vectors = (vector.to(wide) for vector in norm[:4])
        return fused_conv(x, weight, None, geometry, Norm(*vectors, *norm[4:]), "tanh", statistics=True, impl=impl)

    frames, hidden = make(2, 16, 3, 9, 10), 24
    weights = make(4 * hidden, 16, 3, 3) / 12, make(4 * hidden, hidden, 3, 3) / 12, make(4 * hidden)
    return {
        "conv_up": (lambda x, w, b, impl: conv_up(x, w, b, stride, 1, impl=impl), (small, weight, bias)),
        "conv_down": (lambda x, w, impl: conv_down(x, w, None, stride, 1, impl=impl), (large, weight)),
        "conv_weight_grad": (
            lambda a, b, impl: conv_weight_grad(a, b, kernel, stride, 1, impl=impl),
            (large, small),
        ),
        "fused_conv": (run_fused_conv, (small, weight)),
        "norm_act": (
            lambda x, w, b, impl: norm_act(x, w, b, activation="leaky_relu", impl=impl),
            (small, scale, shift),
        ),
        "conv_lstm": (lambda x, a, b, c, impl: conv_lstm(x, None, None, a, b, c, impl=impl), (frames, *weights)),
    }


NAMES = ["conv_up", "conv_down", "conv_weight_grad", "fused_conv", "norm_act", "conv_lstm"]


@functools.cache
def gradient(shape, dtype):
    """The same values in every dtype; made once, since a captured graph must not copy from the host."""
    torch.manual_seed(0)
    return torch.randn(shape).bfloat16().to("cuda", dtype)


def results(function, arguments, impl="triton"):
    """All outputs and all gradients."""
    inputs = [t.detach().requires_grad_() for t in arguments]
    outputs = function(*inputs, impl=impl)
    outputs = [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if t is not None]
    with_gradient = [t for t in outputs if t.requires_grad]
    dys = [gradient(t.shape, t.dtype) for t in with_gradient]
    return [t.detach() for t in (*outputs, *torch.autograd.grad(with_gradient, inputs, dys))]


def assert_as_accurate(ours, stock, exact, dtype):
    """At most three times stock's error against float64, or a few roundings."""
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        off, allowed = ((value.double() - right).abs().max() for value in (mine, theirs))
        room = 8 * torch.finfo(dtype).eps * right.abs().max()
        assert off <= 3 * allowed + room, f"off by {off:.3g}, stock by {allowed:.3g}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward(name, dtype):
    function, arguments = passes(dtype)[name]
    exact = results(function, [t.double() for t in arguments], "reference")
    assert_as_accurate(results(function, arguments), results(function, arguments, "reference"), exact, dtype)


@pytest.mark.parametrize("strict_float32", ["tf32"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_tf32_where_it_is_allowed(name, strict_float32):
    function, arguments = passes(torch.float32)[name]
    exact = results(function, [t.double() for t in arguments], "reference")
    for mine, right in zip(results(function, arguments), exact, strict=True):
        assert (mine.double() - right).abs().max() <= 5e-3 * right.abs().max()


@pytest.mark.parametrize("kernel, stride", [(3, 1), (4, 2)])  # with padding 1 sizes are multiplied by the stride
@pytest.mark.parametrize("channels", [(3, 128), (64, 3), (128, 256), (1, 1), (33, 17)])
def test_shapes(channels, kernel, stride):
    problems = passes(torch.float16, *channels, size=5, batch=3, kernel=kernel, stride=stride)
    for name in ("conv_up", "conv_down", "conv_weight_grad"):
        function, arguments = problems[name]
        exact = results(function, [t.double() for t in arguments], "reference")
        stock = results(function, arguments, "reference")
        assert_as_accurate(results(function, arguments), stock, exact, torch.float16)


@pytest.mark.parametrize("name", NAMES)
def test_results_can_be_repeated_to_the_bit(name):
    function, arguments = passes(torch.bfloat16, batch=16)[name]
    first = results(function, arguments)
    for _ in range(5):
        assert all(map(torch.equal, results(function, arguments), first))


@pytest.mark.parametrize("name", NAMES)
def test_on_another_stream(name):
    function, arguments = passes(torch.bfloat16)[name]
    first, stream = results(function, arguments), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # what does not wait for this stream reads arguments before they are there
        late = [t * 1 for t in arguments]
        second = results(function, late)
    stream.synchronize()
    assert all(map(torch.equal, second, first))


@pytest.mark.parametrize("name", NAMES)
def test_captured_in_a_graph_and_replayed_on_other_values(name):
    function, arguments = passes(torch.bfloat16)[name]
    static = [t.clone() for t in arguments]
    results(function, static)  # compiles, and chooses tiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(function, static)
    for old, new in zip(static, arguments, strict=True):
        old.copy_(new.flip(0))
    graph.replay()
    wanted = results(function, [t.flip(0).contiguous(**LAST) if t.dim() == 5 else t.flip(0) for t in arguments])
    torch.cuda.synchronize()
    assert all(map(torch.equal, captured, wanted))


@pytest.mark.parametrize("name", NAMES)
def test_compiled_without_a_graph_break(name):
    function, arguments = passes(torch.bfloat16)[name]
    compiled = torch.compile(functools.partial(function, impl="triton"), fullgraph=True)
    plain = function(*arguments, impl="triton")
    both = (compiled(*arguments), plain)
    outputs = [o if isinstance(o, tuple) else (o,) for o in both]
    assert all(torch.equal(mine, right) for mine, right in zip(*outputs, strict=True))


def test_tuning_tries_and_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv(tuning.TUNE, "1")
    monkeypatch.setenv(tuning.CACHE, str(tmp_path))
    monkeypatch.setattr(tuning, "_chosen", {})
    tuning.forget()
    for function, arguments in passes(torch.bfloat16).values():
        exact = results(function, [t.double() for t in arguments], "reference")
        stock = results(function, arguments, "reference")
        assert_as_accurate(results(function, arguments), stock, exact, torch.bfloat16)
    assert (tmp_path / tuning.FILE).stat().st_size > 100
    tuning.forget()


def test_more_than_two_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("too little memory is free on the GPU")
    n, channels, size = 65, 64, (8, 256, 256)  # 2.2 billion
    x = torch.empty((n, *size, channels), device="cuda", dtype=torch.bfloat16).movedim(-1, 1)
    x.zero_()
    x[-1] = random(channels, *size)
    weight = random(32, channels, 4, 4, 4) / 64
    y = conv_down(x, weight, None, 2, 1, impl="triton")
    last = conv_down(x[-1:].clone(**{"memory_format": torch.channels_last_3d}), weight, None, 2, 1, impl="triton")
    assert torch.equal(y[-1:], last) and not y[:-1].any()
    back = conv_up(y, weight, None, 2, 1, impl="triton")
    assert torch.equal(back[-1:], conv_up(last, weight, None, 2, 1, impl="triton"))
    normed = norm_act(x, activation="relu", impl="triton")
    mean, var = x[-1].double().mean((1, 2, 3)) / n, x[-1].double().square().mean((1, 2, 3)) / n
    exact = (x[-1].double() - mean.view(-1, 1, 1, 1)) / (var - mean.square() + 1e-5).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(normed[-1].double(), exact.relu(), rtol=0.02, atol=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_on_a_device_that_is_not_the_current_one():
    for function, arguments in passes(torch.bfloat16).values():
        plain = function(*arguments, impl="triton")
        there = function(*(t.to("cuda:1") for t in arguments), impl="triton")
        first = [o[0] if isinstance(o, tuple) else o for o in (plain, there)]
        assert first[1].device.index == 1 and torch.equal(first[1].to("cuda:0"), first[0])


def test_the_last_layer_is_written_whole():
    x, weight = random(2, 64, 5, 6, 7), random(64, 3, 4, 4, 4) / 20
    y, _, _ = fused_conv(x, weight, None, UP, activation="tanh", impl="triton")
    exact = functional.conv_transpose3d(x.double(), weight.double(), stride=2, padding=1).tanh()
    assert y.isfinite().all() and not math.isnan(y.float().sum().item())
    assert (y.double() - exact).abs().max() < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel, stride", [(3, 1), (4, 2)])
@pytest.mark.parametrize("channels", [(64, 3), (128, 1), (17, 4), (3, 128)])
def test_kernels_for_few_channels(monkeypatch, channels, kernel, stride, dtype):
    """As asked for by FASTVGAN_IMPL; lines of 30 and of 15 or 30 elements, which are loaded two at a time or one."""
    monkeypatch.setenv(choice.ENVIRONMENT, "triton")
    problems = passes(dtype, *channels, size=5, batch=3, kernel=kernel, stride=stride)
    for name in ("conv_up", "conv_down", "conv_weight_grad"):
        function, arguments = problems[name]
        exact = results(function, [t.double() for t in arguments], "reference")
        assert_as_accurate(results(function, arguments), results(function, arguments, "reference"), exact, dtype)


def updates(device):
    """What a step does with Triton's kernels for lists, weights and clips: all that comes of it, on the CPU."""
    torch.manual_seed(0)
    shapes = [(256, 128, 4, 4, 4), (64, 3, 4, 4, 4), (1,), (5000,), *[(7, 33)] * 70]
    weights = [torch.randn(shape).to(device) for shape in shapes]
    weights[1] = weights[1].contiguous(**LAST)
    means = [torch.randn(shape).to(device) for shape in shapes]
    means[1] = means[1].contiguous(**LAST)
    copies = [torch.empty_like(x, dtype=torch.bfloat16) for x in weights]
    copies[1] = copies[1].movedim(0, -1).contiguous().movedim(-1, 0)
    lists.copy_into(copies, weights)
    lists.average_into(means, weights, torch.tensor(0.25, device=device))
    exact = torch.stack([x.double().square().sum() for x in weights]).sum().sqrt()
    norm = torch.linalg.vector_norm(lists.norms(weights)) / exact
    kept = [x.clone() for x in means]
    buffers = means[2:]
    before = lists.copy_bytes(buffers)
    for flag in (0.0, 1.0):
        lists.restore_where(torch.tensor(flag, device=device), [x.add_(1) for x in buffers], before)
        kept += [x.clone() for x in buffers]
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], device=device)
    signs = {2: signs.view(-1, 1, 1), 3: signs.view(-1, 1), 4: signs}
    project([UpsamplingKernel(weight, signs) for weight in weights[:2]], torch.tensor(0.0, device=device))
    clips, noise = torch.randn(9, 3, 16, 32, 32).to(device), torch.randn(9, 120).to(device)
    varied = diversity(clips.contiguous(**LAST), noise, 1.0)
    sigmoids = lists.mean_sigmoids([[clips[0], noise], [noise, clips[1]]])
    return [x.cpu() for x in (*copies, *kept, *weights[:2], norm, varied, sigmoids)]


def test_what_a_step_does_to_lists_weights_and_clips(monkeypatch):
    monkeypatch.setenv(choice.ENVIRONMENT, "triton")
    found = updates("cuda")
    monkeypatch.setenv(choice.ENVIRONMENT, "reference")
    for ours, stock in zip(found, updates("cpu"), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-4)
