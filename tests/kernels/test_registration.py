"""What torch asks of a registered operation: opcheck, torch.compile, autocast, torch.func, determinism."""

import pytest
import torch

import fastvgan_kernels.logistic  # noqa: F401  registers its operations
from fastvgan_kernels import conv_down, conv_lstm, conv_lstm_cell, conv_up, conv_weight_grad, group_norm_act, norm_act
from fastvgan_kernels.activations import ACTIVATIONS

OPS = torch.ops.fastvgan
CHANNELS_LAST = {"memory_format": torch.channels_last_3d}


def randn(*shape, grad=True, last=False, dtype=torch.float32):
    x = torch.randn(*shape, dtype=dtype)
    return (x.contiguous(**CHANNELS_LAST) if last else x).requires_grad_(grad)


def conv_samples():
    two, one, zero = [2] * 3, [1] * 3, [0] * 3
    for last in (False, True):
        large, small, weight = randn(2, 4, 6, 6, 6, last=last), randn(2, 6, 3, 3, 3, last=last), randn(6, 2, 4, 4, 4)
        bias = randn(6)
        yield OPS.conv_down.default, (large, weight, bias, two, one, one, 2, "auto")
        yield OPS.conv_up.default, (small, weight, None, two, one, one, one, 2, "auto")
        yield OPS.conv_weight_grad.default, (large, small, [4] * 3, two, one, one, 2, last, "auto")
    one_channel = randn(2, 4, 4, 4, 1, grad=False).permute(0, 4, 1, 2, 3).requires_grad_()
    yield OPS.conv_down.default, (one_channel, randn(1, 1, 1, 1, 1), None, one, zero, one, 1, "auto")
    yield OPS.conv_up.default, (randn(0, 2, 5), randn(2, 1, 3), None, [1], [0], [1], [3], 1, "auto")


def norm_act_samples():
    for activation in ACTIVATIONS:
        last = activation in ("none", "leaky_relu", "silu")
        x, weight, bias = randn(3, 4, 2, 3, 2, last=last), randn(4), randn(4)
        mean, var = torch.randn(4), torch.rand(4) + 0.5
        options = (1e-5, activation, 0.2, "auto")
        dy = randn(3, 4, 2, 3, 2, grad=False)
        yield OPS.norm_act.default, (x, weight, bias, None, None, True, *options, None)
        yield OPS.norm_act.default, (x, None, None, mean, var, last, *options, None)
        yield OPS.norm_act_tracked.default, (x, weight, bias, mean.clone(), var.clone(), 0.1, *options, None)
        yield OPS.norm_act_backward.default, (dy, x.detach(), weight.detach(), None, mean, var, True, *options)
        added = randn(3, 4, 2, 3, 2, last=not last)
        yield OPS.norm_act.default, (x, weight, bias, None, None, True, *options, added)
        yield OPS.norm_act.default, (x, None, None, mean, var, last, *options, added)
        yield OPS.norm_act_tracked.default, (x, None, bias, mean.clone(), var.clone(), 0.1, *options, added)
        detached = dy, x.detach(), added.detach(), weight.detach(), None, mean, var
        yield OPS.norm_act_residual_backward.default, (*detached, True, *options)


def group_norm_act_samples():
    for activation, last in zip(ACTIVATIONS, (True, False) * 3, strict=True):
        x, weight, bias = randn(3, 4, 2, 3, 2, last=last), randn(4), randn(4)
        mean, inverse = torch.randn(3, 2), torch.rand(3, 2) + 0.5
        options = (1e-5, activation, 0.2, "auto")
        dy = randn(3, 4, 2, 3, 2, grad=False)
        yield OPS.group_norm_act.default, (x, 2, weight, bias, *options)
        yield OPS.group_norm_act.default, (x, 4, None, None, *options)
        parameters = weight.detach(), None
        yield OPS.group_norm_act_backward.default, (dy, x.detach(), 2, *parameters, mean, inverse, *options)


def lstm_samples():
    for last in (False, True):
        weights = randn(8, 3, 3, 3), randn(8, 2, 1, 3), randn(8)
        tensors = (randn(2, 3, 3, 4, 4, last=last), randn(2, 2, 4, 4), randn(2, 2, 4, 4), *weights)
        yield OPS.conv_lstm.default, (*tensors, "auto")
        detached = [t.detach() for t in tensors]
        output, c, gates, cells = OPS.conv_lstm_forward.default(*detached, "auto")
        yield OPS.conv_lstm_forward.default, (*detached, "auto")
        wanted = [True, True, False, True, True, True]
        arguments = (output, None, *detached, output, gates, cells, wanted, "auto")
        yield OPS.conv_lstm_backward.default, arguments


def fused_conv_samples():
    two, one, zero = [2] * 3, [1] * 3, [0] * 3
    for last in (False, True):
        norm = torch.randn(4), torch.rand(4) + 0.5, randn(4), randn(4)
        x, weight = randn(3, 4, 4, 4, 4, last=last), randn(4, 6, 4, 4, 4)
        before, after = (last, 1e-5, "relu", 0.0), ("tanh", 0.0)
        up, down = (True, two, one, zero, one, 1, "auto"), (False, two, one, zero, one, 2, "auto")
        nothing = [None] * 6
        vectors = *norm, None, None, weight, randn(6)
        yield OPS.fused_conv.default, (x, *vectors, *nothing[:5], *before, *after, True, False, 0.0, 0.0, *up)
        running = torch.zeros(6), torch.ones(6), torch.tensor(0)
        none = "none", 0.0
        yield (
            OPS.fused_conv.default,
            (x, *vectors, randn(6), randn(6), *running, *before, *none, True, True, 1e-5, 0.1, *up),
        )
        vectors = *nothing, randn(6, 2, 4, 4, 4), None, *nothing[:5]
        yield OPS.fused_conv.default, (x, *vectors, *before, "leaky_relu", 0.2, False, False, 0.0, 0.0, *down)


def logistic_samples():
    for positive in (False, True):
        yield OPS.logistic.default, (randn(3, 5), positive, "auto")
        yield OPS.logistic_backward.default, (torch.tensor(0.7, requires_grad=True), randn(3, 5), positive, "auto")


SAMPLES = [conv_samples, norm_act_samples, group_norm_act_samples, lstm_samples, fused_conv_samples, logistic_samples]


@pytest.mark.parametrize("samples", SAMPLES)
def test_opcheck(samples):
    for op, arguments in samples():
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("samples", SAMPLES)
def test_fake_strides_are_the_real_ones(samples):
    from torch._subclasses.fake_tensor import FakeTensorMode

    for op, arguments in samples():
        real = op(*arguments)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = op(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments))
        real, fake = ((t,) if isinstance(t, torch.Tensor) else t for t in (real, fake))
        assert [(r.shape, r.dtype, r.stride()) for r in real] == [(f.shape, f.dtype, f.stride()) for f in fake]


def network(x, w_up, w_down, scale, w_ih, w_hh):
    y = norm_act(conv_up(x, w_up, stride=2, padding=1), scale, activation="relu")
    y = norm_act(conv_down(y, w_down, stride=2, padding=1), None, None, activation="tanh")
    y = group_norm_act(y, 2, activation="leaky_relu")
    output, h, c = conv_lstm(y, None, None, w_ih, w_hh)
    return output.sum() + conv_lstm_cell(h, h, c, w_hh.repeat(1, 1, 1, 1), w_hh)[0].square().sum()


def network_inputs():
    return (
        randn(2, 3, 2, 2, 2, last=True),
        randn(3, 4, 4, 4, 4),
        randn(2, 4, 4, 4, 4),
        randn(4),
        randn(8, 2, 3, 3),
        randn(8, 2, 3, 3),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break_to_the_same_gradients(dynamic):
    torch._dynamo.reset()
    inputs = network_inputs()
    expected = torch.autograd.grad(network(*inputs), inputs)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    actual = torch.autograd.grad(compiled(*inputs), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_compiles_under_autocast():
    torch._dynamo.reset()
    inputs = [t.detach() for t in network_inputs()]

    def half(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return network(*inputs)

    compiled = torch.compile(half, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), half(*inputs), rtol=0.05, atol=0.05)


def test_autocast_computes_in_its_dtype_with_float32_gradients():
    x, w_up, w_down, _, w_ih, w_hh = network_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        up = conv_up(x, w_up, stride=2)
        down = conv_down(x, w_up.transpose(0, 1)[..., :1, :1, :1], torch.zeros(4))
        grad = conv_weight_grad(x, x, 1)
        output, h, c = conv_lstm(down[:, :2], None, None, w_ih, w_hh)
        h2, c2 = conv_lstm_cell(down[:, :2, 0], h.float(), c, w_ih, w_hh)
        normed = norm_act(up, torch.ones(4))
    assert {t.dtype for t in (up, down, grad, output, h, h2, normed)} == {torch.bfloat16}
    assert {t.dtype for t in (c, c2)} == {torch.float32}
    (up.float().sum() + h2.float().sum()).backward()
    assert {t.grad.dtype for t in (x, w_up, w_ih, w_hh)} == {torch.float32}


def test_autocast_leaves_float64_alone():
    x, w = randn(1, 2, 4, dtype=torch.float64), randn(2, 2, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv_down(x, w).dtype == torch.float64


def test_backward_inside_autocast_keeps_the_dtypes_of_forward():
    x, w = randn(1, 2, 4), randn(2, 2, 3)
    exact = torch.autograd.grad(conv_down(x, w).square().sum(), (x, w))
    y = conv_down(x, w).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(torch.autograd.grad(y, (x, w)), exact, rtol=0, atol=0)


def test_vmap_is_a_loop():
    x, w = randn(3, 2, 2, 4, 4, grad=False), randn(3, 5, 2, 3, 3, grad=False)
    torch.testing.assert_close(
        torch.vmap(conv_down)(x, w), torch.stack([conv_down(a, b) for a, b in zip(x, w, strict=True)])
    )
    shared = torch.vmap(conv_up, in_dims=(0, None))(x, w[0].transpose(0, 1))
    torch.testing.assert_close(shared[1], conv_up(x[1], w[0].transpose(0, 1)))
    normed = torch.vmap(lambda x: norm_act(x, activation="relu"))(x)
    torch.testing.assert_close(normed[2], norm_act(x[2], activation="relu"))


def test_vmap_over_no_examples_gives_none():
    x, w = randn(0, 2, 2, 4, 4), randn(2, 5, 3, 3)
    y = torch.vmap(conv_up, in_dims=(0, None))(x, w)
    one = torch.nn.functional.conv_transpose2d(x.new_zeros(x.shape[1:]), w)
    assert y.shape == (0, *one.shape) and y.dtype == one.dtype
    dx, dw = torch.autograd.grad(y.sum(), (x, w))
    assert dx.shape == x.shape and torch.equal(dw, torch.zeros_like(w))
    assert torch.vmap(lambda x: norm_act(x, activation="relu"))(x).shape == x.shape
    x, w_ih, w_hh = randn(2, 3, 0, 2, 4, 4), randn(0, 8, 3, 3, 3), randn(8, 2, 3, 3)
    output, h, c = torch.vmap(conv_lstm, in_dims=(2, None, None, 0, None))(x, None, None, w_ih, w_hh)
    assert output.shape == (0, 2, 2, 2, 4, 4) and h.shape == c.shape == (0, 2, 2, 4, 4)
    each = torch.vmap(torch.func.grad(lambda w, x: conv_up(x, w).sum()), in_dims=(None, 1))(randn(2, 5, 3, 3), x[0])
    assert each.shape == (0, 2, 5, 3, 3)


def test_functional_transforms():
    x, w = randn(3, 2, 4, grad=False), randn(2, 2, 3, grad=False)

    def loss(w, x):
        return norm_act(conv_down(x.unsqueeze(0), w), activation="tanh").square().sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x)
    leaf = w.clone().requires_grad_()
    torch.testing.assert_close(each[1], torch.autograd.grad(loss(leaf, x[1]), leaf)[0], rtol=1e-4, atol=1e-4)
    second = torch.func.grad(lambda w: torch.func.grad(loss)(w, x[0]).square().sum())(w)
    (first,) = torch.autograd.grad(loss(leaf, x[0]), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-3)


def test_deterministic():
    inputs = network_inputs()
    torch.use_deterministic_algorithms(True)
    try:
        runs = [torch.autograd.grad(network(*inputs), inputs) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(*runs, rtol=0, atol=0)


def test_modes_and_meta_tensors_see_the_operation():
    seen = []

    class Logged(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            seen.append(str(op))
            return op(*args, **(kwargs or {}))

    with Logged():
        conv_down(randn(1, 2, 4), randn(2, 2, 3)).sum().backward()
    assert {"fastvgan.conv_down.default", "fastvgan.conv_up.default", "fastvgan.conv_weight_grad.default"} <= set(seen)
    meta = conv_down(randn(1, 2, 4).to("meta"), randn(2, 2, 3).to("meta"))
    assert meta.is_meta and meta.shape == (1, 2, 2)
