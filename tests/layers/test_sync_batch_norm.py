"""sync_batch_norm in one process: what it changes and what it leaves, and what torch asks of the operation.

tests/kernels/test_norm_act_synced.py is of several processes.
"""

import copy
import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fastvgan.layers import BatchNormAct3d, ConvTransposeNormAct3d, fuse, sync_batch_norm
from fastvgan.layers.deferred import Pending, conv_norm
from fastvgan_kernels import norm_act
from fastvgan_kernels.norm_act import synced

OPS = torch.ops.fastvgan
LAST = {"memory_format": torch.channels_last_3d}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """The default group, with this process alone."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    folder = tmp_path_factory.mktemp("group")
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def arguments(group, last=False, dtype=torch.float32, activation="leaky_relu"):
    x = torch.randn(3, 4, 2, 3, 2, dtype=dtype) + 1
    x = x.contiguous(**LAST) if last else x
    weight, bias = torch.rand(2, 4, dtype=torch.promote_types(dtype, torch.float32)).unbind()
    tensors = (x.requires_grad_(), (weight + 0.5).requires_grad_(), bias.clone().requires_grad_())
    return *tensors, 1e-5, activation, 0.2, "auto", group.group_name


def backward_arguments(group, **options):
    x, weight, bias, *rest = (t.detach() if isinstance(t, torch.Tensor) else t for t in arguments(group, **options))
    var, mean = torch.var_mean(x.to(weight.dtype), (0, 2, 3, 4), correction=0)
    return torch.randn_like(x), x, weight, bias, mean, var, torch.tensor(36.0, dtype=torch.float64), *rest


def test_without_a_group_there_is_nothing_to_synchronise():
    assert BatchNormAct3d(2).process_group is None
    with pytest.raises(ValueError, match="call torch.distributed.init_process_group first"):
        sync_batch_norm(BatchNormAct3d(2))


def test_it_sets_the_group_of_every_norm_and_changes_nothing_else(group):
    layer, subgroup = ConvTransposeNormAct3d(2, 3, 4), dist.new_group([0])
    model = nn.Sequential(layer, nn.BatchNorm3d(3), BatchNormAct3d(3))
    before = list(model.state_dict())
    assert sync_batch_norm(model) is model and list(model.state_dict()) == before
    assert layer.norm.process_group is group and model[2].process_group is group
    assert sync_batch_norm(model[2], subgroup).process_group is subgroup and layer.norm.process_group is group
    layer.norm.process_group = None
    assert layer.norm.process_group is None
    assert sync_batch_norm(fuse(model))[1].process_group is group


def test_a_copy_and_a_pickled_module_have_the_same_group(group):
    norm, buffer = sync_batch_norm(BatchNormAct3d(2)), io.BytesIO()
    assert copy.deepcopy(norm).process_group is group
    torch.save(norm, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).process_group is group


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_a_group_of_one_gives_what_the_plain_layer_gives(group, options):
    plain = BatchNormAct3d(4, activation="tanh", **options)
    ours = sync_batch_norm(copy.deepcopy(plain))
    for training in (True, True, False, True):
        x, grads = torch.randn(3, 4, 2, 3, 3) + 1, []
        for norm in (plain.train(training), ours.train(training)):
            leaf = x.clone().requires_grad_()
            y = norm(leaf)
            grads.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *norm.parameters()])])
        torch.testing.assert_close(*grads, rtol=0, atol=0)
        torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours(torch.randn(1, 4, 1, 1, 1))
    with pytest.raises(ValueError, match="expected 5D input"):
        ours(torch.randn(1, 4, 1, 1))


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "tanh", "silu", "gelu"])
@pytest.mark.parametrize("last", [False, True])
def test_the_operation_in_one_process_is_norm_act(group, activation, last):
    x, weight, bias, *rest = arguments(group, last, activation=activation)
    mine = OPS.norm_act_synced(x, weight, bias, *rest)[0]
    plain = norm_act(x, weight, bias, activation=activation, negative_slope=0.2)
    torch.testing.assert_close(mine, plain)
    grads = (torch.autograd.grad(y.square().sum(), (x, weight, bias)) for y in (mine, plain))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_derivatives(group):
    x, weight, bias, *rest = arguments(group, dtype=torch.float64, activation="tanh")
    inputs = [t.detach()[:2, ..., :1].requires_grad_() if t.dim() > 1 else t for t in (x, weight, bias)]

    def function(*inputs):
        return OPS.norm_act_synced(*inputs, *rest)[0]

    assert torch.autograd.gradcheck(function, inputs) and torch.autograd.gradgradcheck(function, inputs)


def samples(group):
    for last, dtype, activation in ((False, torch.float32, "relu"), (True, torch.bfloat16, "tanh")):
        options = {"last": last, "dtype": dtype, "activation": activation}
        x, weight, bias, *rest = arguments(group, **options)
        yield OPS.norm_act_synced.default, (x, weight, bias, *rest)
        yield OPS.norm_act_synced_tracked.default, (x, weight, bias, torch.zeros(4), torch.ones(4), 0.1, *rest)
        yield OPS.norm_act_synced_backward.default, backward_arguments(group, **options)


def test_opcheck(group):
    for op, given in samples(group):
        torch.library.opcheck(op, given)


def test_fake_strides_are_the_real_ones(group):
    from torch._subclasses.fake_tensor import FakeTensorMode

    for op, given in samples(group):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = op(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in given))
        real = op(*given)
        assert [(r.shape, r.dtype, r.stride()) for r in real] == [(f.shape, f.dtype, f.stride()) for f in fake]


def test_one_collective_each_way_and_no_wait_for_the_device(group):
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            seen.append(str(op))
            return op(*args, **(kwargs or {}))

    with torch.no_grad(), Seen():
        synced._kernel(*arguments(group))
        synced._backward_kernel(*backward_arguments(group))
    assert [op for op in seen if "c10d" in op] == ["c10d.allreduce_.default"] * 2
    assert not [op for op in seen if "_local_scalar_dense" in op or "nonzero" in op]


@pytest.mark.extension
def test_statistics_of_all_ranks_are_not_taken_with_the_convolution(group):
    """They would be the statistics of this rank alone. Evaluation takes no statistics."""
    layer, x = ConvTransposeNormAct3d(20, 18, 4).to(**LAST), torch.randn(16, 20, 1, 1, 1)
    assert isinstance(conv_norm(layer.conv, layer.norm, x), Pending)
    assert not isinstance(conv_norm(layer.conv, sync_batch_norm(layer.norm), x), Pending)
    assert isinstance(conv_norm(layer.conv, layer.norm.eval(), x), Pending)


def test_it_compiles_without_a_break(group):
    """The layer, and the function that it calls with several ranks."""
    plain, x = BatchNormAct3d(4, activation="relu"), torch.randn(3, 4, 2, 3, 3)
    norms, grads = [plain, *(sync_batch_norm(copy.deepcopy(plain)) for _ in range(2))], []

    def by_all(x):
        norm = norms[2]
        return synced._by_all(
            *(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, 0.1),
            *(norm.eps, norm.activation, 0.0, "auto", group.group_name),
        )

    torch._dynamo.reset()
    compiled = [torch.compile(f, fullgraph=True, backend="aot_eager") for f in (norms[1], by_all)]
    for norm, function in zip(norms, (plain, *compiled), strict=True):
        function(x).square().sum().backward()
        grads.append([*(p.grad for p in norm.parameters()), norm.running_mean, norm.running_var])
    for mine in grads[1:]:
        torch.testing.assert_close(mine, grads[0])


@pytest.mark.parametrize("early_stop", [True, False])
def test_a_checkpoint_moves_the_statistics_as_often_as_torch_does(group, early_stop):
    """With the norm last, where recomputation stops early; by the function that is called with several ranks."""
    stock, ours = nn.BatchNorm3d(4), BatchNormAct3d(4)
    conv = nn.Conv3d(4, 4, 1)

    def by_all(x):
        options = ours.eps, "none", 0.0, "auto", group.group_name
        x = conv(x)
        return synced._by_all(x, ours.weight, ours.bias, ours.running_mean, ours.running_var, 0.1, *options)

    x, grads = torch.randn(3, 4, 2, 3, 3), []
    for norm, function in ((stock, lambda x: stock(conv(x))), (ours, by_all)):
        y = checkpoint(function, x.clone().requires_grad_(), use_reentrant=False, early_stop=early_stop)
        y.square().sum().backward()
        grads.append([y, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_the_operation_can_be_captured_in_a_cuda_graph(group):
    given = [a.detach().cuda() if isinstance(a, torch.Tensor) else a for a in arguments(group)]
    x, weight, bias = (t.requires_grad_() for t in given[:3])

    def step():
        y = OPS.norm_act_synced(*given)[0]
        return y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        captured = step()
    with torch.no_grad():
        x.mul_(3).add_(1)
    graph.replay()
    torch.testing.assert_close(captured, step())
