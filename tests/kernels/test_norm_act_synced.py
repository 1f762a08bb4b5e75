"""norm_act_synced and BatchNormAct3d in three processes, against stock PyTorch in one, with all ranks' batches as one.

The processes are started once and compute every case; the tests look at what they left.
"""

import copy
import datetime
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import fastvgan  # noqa: F401  a spawned process has no conftest.py to bind the checkout's kernels/
from fastvgan.layers import BatchNormAct3d, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d, sync_batch_norm
from fastvgan_kernels.norm_act.synced import norm_act_synced
from fastvgan_kernels.triton import support as triton_support

WORLD, CHANNELS = 3, 4
LAST = {"memory_format": torch.channels_last_3d}
ACTIVATE = {
    "none": lambda y: y,
    "relu": functional.relu,
    "leaky_relu": lambda y: functional.leaky_relu(y, 0.2),
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


class Case(NamedTuple):
    """The ranks' inputs, one batch size per rank in use."""

    batches: tuple[int, ...] = (3, 2)
    space: tuple[int, ...] = (2, 3, 2)
    dtype: torch.dtype = torch.float32
    activation: str = "relu"
    affine: bool = True
    half_parameters: bool = False
    tracks: bool = True
    last: bool = False
    offset: float = 0.0
    constant: float = 0.0
    impl: str = "auto"
    autocast: bool = False
    residual: bool = False

    def make(self):
        """x of all ranks, weight and bias, and y's weights in the loss. Ranks and channels differ in mean and scale."""
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(sum(self.batches), CHANNELS, *self.space, generator=draw, dtype=torch.float64)
        channel = [-1] + [1] * len(self.space)
        rank = torch.repeat_interleave(torch.arange(len(self.batches)), torch.tensor(self.batches))
        rank = rank.view(-1, 1, *channel[1:])
        x = x * (1 + rank) + 2 * rank + self.offset + torch.arange(CHANNELS).view(channel)
        weight, bias = torch.rand(2, CHANNELS, generator=draw).double().unbind()
        c = (torch.randn(x.shape, generator=draw, dtype=torch.float64) + self.constant).to(self.dtype)
        parameters = self.dtype if self.half_parameters or self.dtype is torch.float64 else torch.float32
        return x.to(self.dtype), (weight + 0.5).to(parameters), (bias - 0.5).to(parameters), c

    def running(self):
        dtype = torch.promote_types(self.dtype, torch.float32)
        return [torch.full((CHANNELS,), value, dtype=dtype) for value in (0.5, 2.0)]


EXACT = {"dtype": torch.float64}
CASES = {
    **{f"{a} in float64": Case(activation=a, **EXACT) for a in ACTIVATE},
    **{f"{a} in float32": Case(activation=a, last=a in ("tanh", "leaky_relu")) for a in ACTIVATE},
    **{f"{a} in bfloat16": Case(activation=a, dtype=torch.bfloat16, last=a == "relu") for a in ACTIVATE},
    "three ranks": Case((2, 1, 4), activation="tanh", last=True, **EXACT),
    "three ranks in float32": Case((2, 1, 4), activation="leaky_relu"),
    "a rank without clips": Case((3, 0), **EXACT),
    "a rank without clips in float32": Case((0, 3), activation="tanh"),
    "no rank has clips": Case((0, 0)),
    "one value a rank": Case((1, 1), (1, 1, 1), activation="tanh", **EXACT),
    "one value a rank of three, (N, C)": Case((1, 1, 1), ()),
    "spatial size 1": Case((4, 7), (1, 1, 1)),
    "one value in all": Case((0, 1), (1, 1, 1), activation="none"),
    "images": Case((3, 4), (3, 3), activation="leaky_relu"),
    "no parameters": Case(affine=False, activation="tanh", **EXACT),
    "no parameters and nothing kept, in float32": Case(affine=False, tracks=False),
    "parameters in bfloat16": Case(dtype=torch.bfloat16, half_parameters=True),
    "float16": Case(dtype=torch.float16, activation="tanh"),
    "a large offset": Case((16, 9), (4, 4, 4), offset=1e4, activation="none"),
    "a gradient that the statistics take most of": Case(dtype=torch.bfloat16, activation="none", constant=30.0),
    "reference": Case(impl="reference", activation="leaky_relu", last=True),
    "triton": Case(impl="triton", activation="leaky_relu", space=(2,)),
    "triton, a rank without clips": Case((0, 3), impl="triton", space=(1, 2, 1), dtype=torch.float16, last=True),
    "triton, constant": Case(impl="triton", activation="none", dtype=torch.float16, constant=30.0, affine=False),
    "under autocast": Case(autocast=True),
    "a residual in float64": Case(activation="gelu", residual=True, **EXACT),
    "a residual in float32": Case(residual=True, last=True),
    "a residual, a rank without clips": Case((0, 3), activation="silu", residual=True),
}
TRITON = triton_support.is_interpreting()


def results(function, x, weight, bias, c, case):
    """The output and, by their names, gradients of first and second order."""
    inputs = [t.clone().requires_grad_() for t in ((x, weight, bias) if case.affine else (x,))]
    given = [*inputs, *[None] * (3 - len(inputs))]
    if case.residual:
        inputs.append(x.flip(1).mul_(0.5).requires_grad_())
    y = function(*given, inputs[-1] if case.residual else None)
    first = torch.autograd.grad((y * c).sum(), inputs, retain_graph=True)
    # As R1, but of a loss that is not linear in y, so that the penalty depends on all there is.
    (dx,) = torch.autograd.grad((y.square() * c).sum(), inputs[0], create_graph=True)
    second = torch.autograd.grad(dx.square().sum(), inputs)
    names = ["dx", "dweight", "dbias", "dx of the residual"][: len(inputs)]
    names = ["y", *names, *(f"{name} of a penalty" for name in names)]
    return dict(zip(names, (y.detach(), *first, *second), strict=True))


def of_rank(case, rank, group):
    start = sum(case.batches[:rank])
    x, weight, bias, c = case.make()
    x, c = (t[start : start + case.batches[rank]] for t in (x, c))
    x = x.contiguous(**LAST) if case.last else x
    running = case.running() if case.tracks else [None, None]

    def function(x, weight, bias, residual):
        how = 0.1, 1e-5, case.activation, 0.2, case.impl, group, residual
        return norm_act_synced(x, weight, bias, *running, *how)

    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        found = results(function, x, weight, bias, c, case)
    return found | ({"mean": running[0], "var": running[1]} if case.tracks else {})


def in_one(case):
    x, weight, bias, c = (t.double() for t in case.make())
    running = [t.double() for t in case.running()]

    def function(x, weight, bias, residual):
        y = functional.batch_norm(x, *running, weight, bias, True, 0.1, 1e-5)
        y = y if residual is None else y + residual
        return ACTIVATE[case.activation](y)

    found = results(function, x, weight, bias, c, case)
    return found | ({"mean": running[0], "var": running[1]} if case.tracks else {})


class Network(nn.Module):
    """Layers of which the first two would be fused with what follows, were their norms not synchronised."""

    def __init__(self):
        super().__init__()
        self.a = ConvTransposeNormAct3d(20, 18, 4, activation="leaky_relu", negative_slope=0.2)
        self.b = ConvNormAct3d(18, 17, 4, 2, 1, activation="relu")
        self.c = ConvTranspose3d(17, 3, 4, 2, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x))).tanh()


def network_and_input():
    torch.manual_seed(0)
    network, x = Network().to(**LAST), torch.randn(12, 20, 1, 1, 1)
    return network, torch.cat([x[:6], 3 * x[6:] + 1])


def train_network(rank, group):
    """Two steps of DistributedDataParallel, in which a copy of the network takes the second."""
    network, x = network_and_input()
    network = copy.deepcopy(sync_batch_norm(network, group))
    assert network.a.norm.process_group is group
    averaged = DistributedDataParallel(network, process_group=group, broadcast_buffers=False)
    for _ in range(2):
        averaged(x.chunk(2)[rank]).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters()} | dict(network.named_buffers())


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=60),
    )
    pair, found = dist.new_group([0, 1]), {}
    if rank == 2:
        with pytest.raises(ValueError, match="this rank is not in the process group"):
            sync_batch_norm(BatchNormAct3d(2), pair)
    for name, case in CASES.items():
        if rank < len(case.batches) and (case.impl != "triton" or TRITON):
            found[name] = of_rank(case, rank, None if len(case.batches) == WORLD else pair)
    if rank < 2:
        found["network"] = train_network(rank, pair)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of each rank, by the case's name."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(run_rank, (str(folder),), WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def together(ranks):
    """What one process with all ranks' batches would have: rows one after the other, parameters' gradients summed."""
    names = [[rank[name] for rank in ranks] for name in ranks[0]]
    joined = (torch.cat(t) if name.startswith(("y", "dx")) else sum(t) for name, t in zip(ranks[0], names, strict=True))
    return dict(zip(ranks[0], joined, strict=True)) | {k: ranks[0][k] for k in ("mean", "var") if k in ranks[0]}


def assert_near(name, mine, exact, tolerance):
    """By the largest value, since gradients are sums of what is far larger than some of them."""
    assert mine.shape == exact.shape, name
    error = (mine.double() - exact.double()).abs().max() if mine.numel() else torch.zeros(())
    scale = exact.double().abs().max() if exact.numel() else torch.zeros(())
    assert error <= tolerance * (scale + 1e-2), f"{name}: {error:.3g} of {scale:.3g}"


TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 0.012, torch.float16: 2e-3}
# Second order of half precision goes by a first order that has been rounded.
OF_PENALTY = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.05, torch.float16: 5e-3}
OF_ITS_OWN = ("no rank has clips", "one value in all")


@pytest.mark.parametrize("name", [name for name in CASES if name not in OF_ITS_OWN])
def test_ranks_together_are_one_process(found, name):
    case = CASES[name]
    if case.impl == "triton" and not TRITON:
        pytest.skip("Triton compiles for the GPU here and does not interpret")
    ranks, exact = [rank[name] for rank in found[: len(case.batches)]], in_one(case)
    for rank, batch in zip(ranks, case.batches, strict=True):
        assert rank["y"].shape[0] == batch and rank["y"].dtype == rank["dx"].dtype == case.dtype
        for kept in ("mean", "var"):
            assert kept not in rank or torch.equal(rank[kept], ranks[0][kept])
    mine = together(ranks)
    assert list(mine) == list(exact)
    for key, tensor in mine.items():
        if case.constant and "penalty" in key:
            continue  # the loss's own gradient, torch's in bfloat16, is off by as much as what is left of it
        tolerance = (OF_PENALTY if "penalty" in key else TOLERANCE)[case.dtype]
        if case.offset and key not in ("mean", "var"):
            tolerance = 1e-3  # of which float32 keeps that many digits
        assert_near(key, tensor, exact[key], tolerance)
    if case.last and case.batches[0] > 1:
        assert ranks[0]["y"].is_contiguous(**LAST) and ranks[0]["dx"].is_contiguous(**LAST)
    if case.affine:
        expected = case.make()[1].dtype
        assert ranks[0]["dweight"].dtype == ranks[0]["dbias"].dtype == expected


def test_ranks_that_hold_no_clips_leave_the_statistics_alone(found):
    for rank in found[:2]:
        mean, var = CASES["no rank has clips"].running()
        assert torch.equal(rank["no rank has clips"]["mean"], mean)
        assert torch.equal(rank["no rank has clips"]["var"], var)
        assert rank["no rank has clips"]["dweight"].eq(0).all()


def test_a_single_value_per_channel_is_its_own_mean(found):
    case = CASES["one value in all"]
    x, _, bias, _ = case.make()
    for rank in found[:2]:
        mine = rank["one value in all"]
        torch.testing.assert_close(mine["y"], bias.view(1, -1, 1, 1, 1)[: len(mine["y"])], rtol=0, atol=1e-3)
        torch.testing.assert_close(mine["mean"], 0.45 + 0.1 * x[0].flatten())
        torch.testing.assert_close(mine["var"], torch.full((CHANNELS,), 1.8))
        torch.testing.assert_close(mine["dx"], torch.zeros_like(mine["dx"]), rtol=0, atol=1e-4)


def test_a_network_of_two_ranks_is_the_stock_one_of_both_batches(found):
    network, x = network_and_input()
    up = lambda *args: nn.ConvTranspose3d(*args, bias=False)  # noqa: E731
    stock = nn.Sequential(
        *(up(20, 18, 4), nn.BatchNorm3d(18), nn.LeakyReLU(0.2)),
        *(nn.Conv3d(18, 17, 4, 2, 1, bias=False), nn.BatchNorm3d(17), nn.ReLU()),
        *(nn.ConvTranspose3d(17, 3, 4, 2, 1), nn.Tanh()),
    )
    stock.load_state_dict(dict(zip(stock.state_dict(), network.state_dict().values(), strict=True)))
    stock.double()
    for _ in range(2):
        stock(x.double()).square().mean().backward()
    exact = [p.grad for p in stock.parameters()] + list(stock.buffers())
    for rank in found[:2]:
        for (name, tensor), wanted in zip(rank["network"].items(), exact, strict=True):
            assert_near(name, tensor, wanted, 1e-4)
            assert torch.equal(tensor, found[0]["network"][name]), name
