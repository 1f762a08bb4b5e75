"""What a step is said to cost, against torch's own counts, other counts of the same networks, and real tensors."""

import pytest
import step_cost
import torch
from bench_command import ROOT, run
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvgan.layers import ConvLSTM
from fastvgan.runs.config import RunConfig
from fastvgan.runs.presets import PRESETS


def small(name: str, **model) -> RunConfig:
    """A preset of few features."""
    config = PRESETS[name]
    return config.model_copy(update={"model": config.model.model_copy(update={"base_width": 4, **model})})


def trace(run):
    with step_cost.Tracer() as tracer:
        run()
    return tracer


def stock_flops(run) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops()


def test_flops_of_stock_networks_are_those_of_torchs_counter():
    """Forward and backward of the textbook's networks, in the layers of torch.nn and in ours."""
    from support import networks

    from fastvgan.models import build

    generator, discriminator = networks.generator(), networks.discriminator()
    z, x = torch.randn(2, 100, 1, 1, 1), torch.randn(2, 3, 16, 16, 16, requires_grad=True)
    ours = build(PRESETS["reference"].model)
    pairs = [
        (lambda: generator(z).sum().backward(), lambda: ours[0](z.flatten(1)).sum().backward()),
        (lambda: discriminator(x).sum().backward(), lambda: ours[1](x).sum().backward()),
    ]
    for stock, mine in pairs:
        expected = stock_flops(stock)
        assert expected > 1e9
        assert sum(work.flops for work in trace(stock).work) == expected
        assert sum(work.flops for work in trace(mine).work) == expected


@pytest.mark.parametrize(("stride", "groups", "transposed"), [(1, 1, False), (2, 2, False), (2, 1, True), (3, 2, True)])
def test_flops_of_one_convolution(stride, groups, transposed):
    """Odd sizes, groups, a single clip, non-contiguous input.

    Each of three passes has the forward pass's products; torch's formula of the weight gradient forgets groups.
    """
    from fastvgan.layers import Conv3d, ConvTranspose3d

    kinds = (nn.ConvTranspose3d, ConvTranspose3d) if transposed else (nn.Conv3d, Conv3d)
    stock, mine = (kind(4, 6, (3, 1, 2), stride, groups=groups) for kind in kinds)
    x = torch.randn(1, 5, 7, 9, 4).permute(0, 4, 1, 2, 3).requires_grad_()
    expected = 3 * stock_flops(lambda: stock(x))
    assert groups > 1 or expected == stock_flops(lambda: stock(x).sum().backward())
    found = trace(lambda: mine(x).sum().backward())
    assert sum(work.flops for work in found.work) == expected


@pytest.mark.parametrize("wanted", [True, False])
def test_flops_of_a_conv_lstm_are_those_of_its_convolutions_in_a_loop(wanted):
    """The loop in stock PyTorch, over one state after the other."""
    n, cells, frames, size = 2, 3, 4, 5
    layer = ConvLSTM(2, cells, kernel_size=3)
    x = torch.randn(n, 2, frames, size, size, requires_grad=wanted)
    weights = [torch.randn(4 * cells, c, 3, 3, requires_grad=True) for c in (2, cells)]

    def loop():
        h, c, total = torch.zeros(n, cells, size, size, requires_grad=True), 0, 0
        for step in x.unbind(2):
            gates = sum(
                nn.functional.conv2d(part, weight, padding=1) for part, weight in zip((step, h), weights, strict=True)
            )
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            total = total + h.sum()
        total.backward()

    expected = stock_flops(loop)
    found = trace(lambda: layer(x)[0].sum().backward())
    assert sum(work.flops for work in found.work) == expected


@pytest.mark.parametrize("name", ["reference", "clips-64"])
def test_flops_of_a_step_are_those_of_its_passes(name):
    """The count by layers, of what no loop can leave out, is of another file and by another way."""
    from support import networks

    config = small(name)
    batch = config.training.batch_size
    assert step_cost.count_cost(config, batch).flops == networks.step_flops(model=config.model, batch=batch)


@pytest.mark.parametrize("name", ["reference", "digits", "digits-conv3d", "digits-image", "clips"])
def test_costs_of_a_larger_batch_follow_from_two_small_ones(name):
    config = small(name)
    counted, measured = step_cost.count_cost(config, 12), step_cost.trace_cost(config, 12)
    assert [work.name for work in counted.work] == [work.name for work in measured.work]
    assert (counted.flops, counted.fixed, counted.norms) == (measured.flops, measured.fixed, measured.norms)
    assert counted.bytes == pytest.approx(measured.bytes, rel=1e-3)
    assert counted.peak == pytest.approx(measured.peak, rel=1e-3)


def test_bytes_are_those_of_real_tensors():
    x, y = torch.randn(3, 5), torch.randn(3, 5).to(torch.bfloat16)
    (add,) = trace(lambda: x + y).work
    assert add.bytes == x.nbytes + y.nbytes + (x + y).nbytes
    free = trace(lambda: (x.view(5, 3), x[:, 1:], x.detach(), torch.empty(9))).work
    assert free and not any(work.bytes for work in free)
    filled = trace(lambda: x.add_(1)).work
    assert sum(work.bytes for work in filled) == 2 * x.nbytes  # read and written


def test_memory_is_that_of_tensors_that_are_alive():
    """As torch's own tracker has it, on a network in stock PyTorch; and what is freed no longer counts."""
    tracking = pytest.importorskip("torch.distributed._tools.mem_tracker", reason="this torch has no MemTracker")
    network = nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 3), nn.Tanh())
    x = torch.randn(2, 2, 9, 9, 9)

    def run():
        network(x).sum().backward()
        network.zero_grad()

    found = trace(run)
    tracker = tracking.MemTracker()
    tracker.track_external(network, x)
    held = sum(t.nbytes for t in (*network.parameters(), x))
    with tracker:
        run()
    expected = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - held
    assert max(work.live for work in found.work) == pytest.approx(expected, rel=0.02)
    assert found.live == 0


@pytest.mark.parametrize("name", ["reference", "digits"])
def test_what_is_held_is_what_a_checkpoint_holds(name):
    from fastvgan.training.step.adversarial import networks, optimizers

    config = small(name)
    runner, step = step_cost.make_runner(step_cost.with_batch(config, 4), torch.device("cpu"), torch.float32)
    runner(0)
    fixed = step_cost.trace_cost(config, 4).fixed
    of_networks = [x for network in networks(step).values() for x in network.state_dict().values()]
    moments = [
        x
        for optimizer, _ in optimizers(step).values()
        for s in optimizer.state_dict()["state"].values()
        for x in s.values()
    ]
    assert fixed.state == sum(x.nbytes for x in (*of_networks, *moments))
    grads = [p.grad for network in (step.generator, step.discriminator) for p in network.parameters()]
    assert fixed.gradients == sum(grad.nbytes for grad in grads)
    assert fixed.parameters == tuple(
        sum(p.numel() for p in network.parameters()) for network in (step.generator, step.discriminator)
    )


def test_the_command_prints_the_table_of_the_page():
    text = run("bench/step_cost.py", "--presets", "reference", "clips")
    head, *rows = (line.split() for line in text.splitlines())
    assert head[0] == "preset" and [row[0] for row in rows] == ["reference", "clips"]
    page = (ROOT / "docs" / "explanation" / "scaling.md").read_text(encoding="utf-8")
    for row in rows:
        assert f"| {' | '.join(row)} |" in page
