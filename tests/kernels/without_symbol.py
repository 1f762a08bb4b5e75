"""Checks operations and layers in a torch that lacks one private name; used by test_torch_private.py.

    python tests/kernels/without_symbol.py

Reads lines of an owner, a name and checks, and answers each with one line: `ok`, or the error. Each is checked in
a process forked from this one, which has imported torch and nothing of fastvgan.
"""

import copy
import operator
import os
import sys
import traceback
from contextlib import nullcontext
from unittest import mock

import torch
import torch._dynamo  # noqa: F401  what the checks import of torch, which takes most of a second
import torch._subclasses.fake_tensor
import torch.distributed as dist
from torch import fx, nn
from torch.autograd import forward_ad

sys.path.insert(0, os.getcwd())  # the checkout's packages

SUM = {"rtol": 1e-3, "atol": 1e-3}


def hide(owner: str, name: str) -> None:
    """Import the list of private names as if torch had no such one."""
    real = operator.attrgetter

    def attrgetter(*names):
        if names == (name,):

            def absent(of):
                raise AttributeError(name)

            return absent
        return real(*names)

    with mock.patch.object(operator, "attrgetter", attrgetter):
        import fastvgan  # noqa: F401  binds the checkout's kernels
        from fastvgan_kernels import _torch
    assert (owner, name) in _torch.SYMBOLS


def layers() -> list[tuple[nn.Module, nn.Module, tuple[int, ...]]]:
    """Ours, stock PyTorch's in float64, and an input's shape."""
    from fastvgan import layers as ours
    from fastvgan.layers import Conv2d, GroupNormAct, InstanceNormAct2d

    pairs = [
        (ours.Conv3d(4, 6, 3, 2, 1), nn.Conv3d(4, 6, 3, 2, 1), (2, 4, 4, 6, 6)),
        (Conv2d(4, 6, 3, padding="same"), nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 6, 6)),
        (ours.ConvTranspose3d(4, 3, 4, 2, 1), nn.ConvTranspose3d(4, 3, 4, 2, 1), (2, 4, 2, 3, 3)),
        (ours.BatchNormAct3d(4, activation="relu"), nn.Sequential(nn.BatchNorm3d(4), nn.ReLU()), (2, 4, 2, 3, 3)),
        (GroupNormAct(2, 4, activation="silu"), nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU()), (2, 4, 5, 5)),
        (InstanceNormAct2d(4, activation="tanh"), nn.Sequential(nn.InstanceNorm2d(4), nn.Tanh()), (2, 4, 5, 5)),
        (
            ours.ConvNormAct3d(4, 6, 3, 1, 1, activation="relu"),
            nn.Sequential(nn.Conv3d(4, 6, 3, 1, 1, bias=False), nn.BatchNorm3d(6), nn.ReLU()),
            (2, 4, 3, 4, 4),
        ),
    ]
    for mine, stock, _ in pairs:
        stock.double()
        tensors = list(stock.parameters())
        for one, other in zip(mine.parameters(), tensors, strict=True):
            other.data.copy_(nn.init.normal_(one.data, std=0.5))
    return pairs


def same(found, expected, **tolerance) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), **(tolerance or {"rtol": 1e-4, "atol": 1e-4}))


def check_layers() -> None:
    """Twice, so that what is remembered serves too: values, gradients, evaluation; by auto, and by the operations."""
    for impl in ("auto", "reference"):
        for ours, stock, shape in layers():
            for module in ours.modules():
                if hasattr(module, "impl"):
                    module.impl = impl
            for _ in range(2):
                x = torch.randn(shape, requires_grad=True)
                wide = x.detach().double().requires_grad_()
                y, z = ours(x), stock(wide)
                same(y, z)
                dy = torch.randn(y.shape)
                found = torch.autograd.grad(y, [x, *ours.parameters()], dy)
                expected = torch.autograd.grad(z, [wide, *stock.parameters()], dy.double())
                for one, other in zip(found, expected, strict=True):
                    same(one, other, **SUM)
            ours.eval(), stock.eval()
            with torch.no_grad():
                for context in (nullcontext, lambda: torch.device("cpu")):
                    with context():
                        same(ours(x), stock(wide))


def conv_norm_silu(f):
    """Return a function of x by our operations (f: fastvgan_kernels) or by torch.nn.functional (f: None)."""
    weight = torch.linspace(-1, 1, 6 * 4 * 27).view(6, 4, 3, 3, 3).sin()

    def ours(x):
        y = f.conv_down(x, weight.to(x.dtype), None, 2, 1, impl="reference")
        return f.group_norm_act(y, 2, None, None, activation="silu", impl="reference").square().sum()

    def stock(x):
        y = nn.functional.conv3d(x, weight.to(x.dtype), None, 2, 1)
        return nn.functional.silu(nn.functional.group_norm(y, 2)).square().sum()

    return stock if f is None else ours


def check_transforms() -> None:
    """torch.func's and forward mode's derivatives, of first and second order, against autograd's of torch.nn."""
    import fastvgan_kernels

    ours, stock = conv_norm_silu(fastvgan_kernels), conv_norm_silu(None)
    x, t = torch.randn(2, 2, 4, 3, 4, 4).unbind()
    wide = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(stock(wide), wide, create_graph=True)
    slope = (gradient * t).sum()
    (second,) = torch.autograd.grad(slope, wide)
    same(torch.func.grad(ours)(x), gradient, **SUM)
    same(torch.func.jvp(ours, (x,), (t,))[1], slope, **SUM)
    same(torch.func.grad(lambda x: (torch.func.grad(ours)(x) * t).sum())(x), second, **SUM)
    same(torch.func.jvp(torch.func.grad(ours), (x,), (t,))[1], second, **SUM)
    each = torch.func.vmap(torch.func.grad(ours))(torch.stack([x, x]))
    same(each[1], gradient, **SUM)
    with forward_ad.dual_level():
        same(forward_ad.unpack_dual(ours(forward_ad.make_dual(x, t))).tangent, slope, **SUM)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(ours(leaf), leaf, create_graph=True)
    same(torch.autograd.grad((first * t).sum(), leaf)[0], second, **SUM)


def check_autocast() -> None:
    """Results in bfloat16 and gradients in float32, also where backward runs under autocast, and of FakeTensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from fastvgan_kernels import conv_down
    from fastvgan_kernels.weight_copies import WeightCopies

    x, weight = torch.randn(2, 16, 3, 5, 5), nn.Parameter(torch.randn(6, 16, 3, 3, 3) / 20)
    wide = weight.detach().double().requires_grad_()
    expected = nn.functional.conv3d(x.double(), wide, None, 1, 1)
    (gradient,) = torch.autograd.grad(expected.sum(), wide)
    copies = WeightCopies([weight], torch.bfloat16)
    copies.refresh()
    for impl in ("auto", "reference"):
        for context in (nullcontext, copies.in_use):
            with torch.autocast("cpu", torch.bfloat16), context():
                y = conv_down(x, weight, None, 1, 1, impl=impl)
                (found,) = torch.autograd.grad(y.sum(), weight)
                assert torch.is_autocast_enabled("cpu")
            assert y.dtype is torch.bfloat16 and found.dtype is torch.float32
            same(y.float(), expected, rtol=0.05, atol=0.05)
            same(found, gradient, rtol=0.05, atol=0.5)
    with torch.no_grad():
        weight.mul_(2)
    with torch.autocast("cpu", torch.bfloat16), copies.in_use():  # out of date now
        same(conv_down(x, weight, None, 1, 1, impl="reference").float(), 2 * expected, rtol=0.05, atol=0.1)
    with FakeTensorMode() as mode:
        y = conv_down(mode.from_tensor(x), mode.from_tensor(weight), None, 1, 1)
        assert y.shape == expected.shape and type(y) is not torch.Tensor


def check_tracing() -> None:
    """torch.jit.trace sees stock PyTorch's operations, torch.fx a layer, and hooks all calls."""
    ours, stock, shape = layers()[0]
    traced = torch.jit.trace(ours, torch.randn(shape))
    assert "fastvgan::" not in str(traced.inlined_graph)
    x = torch.randn(3, *shape[1:])
    same(traced(x), stock(x.double()))
    chain = nn.Sequential(ours, nn.ReLU())
    same(fx.symbolic_trace(chain)(x), stock(x.double()).relu())
    seen = []
    layer, by_stock, shape = layers()[-1]
    layer.conv.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(shape)
    same(layer(x), by_stock(x.double()))
    assert seen == [1]


def check_fuse() -> None:
    """A network computes the same after fuse()."""
    from fastvgan.layers import fuse

    stock = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1))
    wide, x = copy.deepcopy(stock).double(), torch.randn(2, 3, 3, 4, 4)
    fused = fuse(stock)
    same(fused(x), wide(x.double()))
    with torch.no_grad():
        same(fused.eval()(x), wide.eval()(x.double()))


def check_adam() -> None:
    """Steps of Adam with scaled gradients, one of which a flag forbids, against torch's in float64."""
    from fastvgan_kernels import _torch

    parameters, steps = [torch.randn(3), torch.randn(2, 2)], [torch.tensor(0.0), torch.tensor(0.0)]
    moments = [torch.zeros_like(x) for x in parameters], [torch.zeros_like(x) for x in parameters]
    theirs = [nn.Parameter(x.double()) for x in parameters]
    adam = torch.optim.Adam(theirs, 0.01, (0.5, 0.9))
    for number in range(4):
        grads, found = [torch.randn_like(x) for x in parameters], torch.tensor(float(number == 2))
        for step in steps:
            step += 1 - found
        settings = torch.tensor(0.01), 0.5, 0.9, 1e-8
        _torch.adam_(parameters, [8 * x for x in grads], moments, steps, settings, torch.tensor(8.0), found)
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = None if found else grad.double()
        adam.step()
        for x, y in zip(parameters, theirs, strict=True):
            torch.testing.assert_close(x.double(), y.detach(), rtol=1e-4, atol=1e-6)


def check_lists() -> None:
    """What a training step does to lists of tensors, on the CPU's path and a GPU's."""
    from fastvgan.training.step import update
    from fastvgan_kernels import lists

    for fast in (False, True):
        with mock.patch.object(lists.reference, "lists_are_fast", lambda device, fast=fast: fast):
            means, new = [torch.randn(3), torch.randn(2, 2)], [torch.randn(3), torch.randn(2, 2)]
            expected = [m.double().lerp(n.double(), 0.25) for m, n in zip(means, new, strict=True)]
            lists.average_into(means, new, torch.tensor(0.25))
            for one, other in zip(means, expected, strict=True):
                same(one, other)
    for bad in (0, 1):
        tensors = [torch.randn(3), torch.tensor([float("nan"), 1.0])]
        before, kept = [x.clone() for x in tensors], lists.copy_bytes(tensors)
        for x in tensors:
            x.add_(1)
        after = [x.clone() for x in tensors]
        lists.restore_where(torch.tensor(bad), tensors, kept)
        for x, y in zip(tensors, before if bad else after, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    network = nn.Linear(3, 2)
    change = update.Update(network, 1e-3, (0.0, 0.9), False)
    x, total = torch.randn(5, 3), [torch.zeros(2, 3).double(), torch.zeros(2).double()]
    for scale in (1.0, 2.0):
        change.backward(network(x * scale).square().sum())
        y = nn.functional.linear(x.double() * scale, network.weight.double(), network.bias.double())
        total[0] += 2 * y.detach().T @ (x.double() * scale)
        total[1] += 2 * y.detach().sum(0)
    for parameter, expected in zip(network.parameters(), total, strict=True):
        same(parameter.grad, expected)
    same(update.gradient_norm(change.parameters), torch.cat([t.flatten() for t in total]).norm())


def check_groups() -> None:
    """A layer finds its process group again by name: the default one, and another."""
    from fastvgan import layers as ours

    store = dist.HashStore()
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    for group in (dist.group.WORLD, dist.new_group([0])):
        layer = ours.BatchNormAct3d(2)
        layer.process_group = group
        assert layer.process_group is group or layer.process_group.group_name == group.group_name
    dist.destroy_process_group()


def answer(owner: str, name: str, *checks: str) -> str:
    """`ok`, or what went wrong, in a line."""
    if owner != "nothing":
        hide(owner, name)
    torch.manual_seed(0)
    for check in checks:
        try:
            globals()[f"check_{check}"]()
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)
            where = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in last[::-1][:8])
            return " ".join(f"{check}: {type(error).__name__}: {error} ({where})".split())
    return "ok"


def main() -> None:
    torch.set_num_threads(1)
    torch.optim.Adam([nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch's compiler
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, answer(*line.split())[:4000].encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            print(pipe.read() or "the process died", flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
