"""One adversarial step of the preset `reference`: the textbook loop in stock PyTorch against ours."""

import functools

import pytest
import torch
from support.memory import peak_bytes
from support.networks import BATCH, step_flops
from support.stock_loop import StockLoop
from support.variants import DTYPES, STOCK_OF_ALL_DTYPES, describe, device, load_in_order, time_call

from fastvgan.runs.presets import PRESETS
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep

CONFIG = PRESETS["reference"]


def inputs(layout=torch.channels_last_3d):
    torch.manual_seed(1)
    real = torch.rand(BATCH, 3, 16, 16, 16, device=device()).mul(2).sub(1).contiguous(memory_format=layout)
    return real, torch.randn(BATCH, 100, device=device())


@functools.cache
def exact_losses():
    """Compute both losses of the stock loop's first step in float64; G's after D's update."""
    real, z = inputs()
    return torch.stack(StockLoop("fp64-eager-contiguous")(real.double(), z.double()[:, :, None, None, None]))


def check(step, real, z, dtype):
    """Check both losses of our first step, with the same weights, against the exact ones."""
    stock = StockLoop("fp32-eager-contiguous")
    load_in_order(step.generator, stock.generator)
    load_in_order(step.discriminator, stock.discriminator)
    mine = step(0, Inputs(real, z))
    loose = {"fp32": 1e-3 if device().type == "cpu" else 1e-2, "bf16": 5e-2}[dtype]  # tf32 on a GPU
    torch.testing.assert_close(torch.stack((mine.d_loss, mine.g_loss)), exact_losses(), rtol=loose, atol=loose)


@pytest.mark.parametrize("variant", [*(f"stock-{name}" for name in STOCK_OF_ALL_DTYPES), "ours-fp32", "ours-bf16"])
def test_train_step_reference(benchmark, variant):
    dtype = next(name for name in DTYPES if name in variant)
    group = f"train step, preset reference, batch {BATCH}"
    describe(
        benchmark,
        group,
        variant.removeprefix("stock-"),
        dtype,
        flops=step_flops(),
        needed_flops=step_flops(True),
        videos=BATCH,
    )
    if variant.startswith("stock"):
        stock = StockLoop(variant.removeprefix("stock-"))
        real, z = inputs(stock.layout)
        z = z[:, :, None, None, None]
        run = lambda: stock(real, z)  # noqa: E731
    else:
        step = AdversarialStep(CONFIG.model, CONFIG.training, device(), DTYPES[dtype])
        real, z = inputs()
        check(step, real, z, dtype)
        run = lambda: step(0, Inputs(real, z))  # noqa: E731
    time_call(benchmark, run, seconds=7, fewest=7)
    if benchmark.enabled:  # after warm-up, when the optimisers' state and the gradients exist already
        benchmark.extra_info["peak_bytes"] = peak_bytes(run)
