"""64 clips from the trained generator of the preset `reference`: ours against the textbook's in stock PyTorch."""

import pytest
import torch
from support.networks import BATCH, generator, layer_flops
from support.variants import (
    DTYPES,
    STOCK_OF_ALL_DTYPES,
    assert_as_accurate,
    autocast,
    describe,
    device,
    in_float64,
    load_in_order,
    stock,
    time_call,
)

from fastvgan.models import build_generator
from fastvgan.runs.presets import PRESETS


def make_trained_generator():
    """Make a stock generator with batch statistics of its activations, as after training, and its noise."""
    torch.manual_seed(0)
    network = generator().to(device())
    z = torch.randn(BATCH, 100, 1, 1, 1, device=device())
    with torch.no_grad():
        for _ in range(10):
            network(z)
    return network.eval(), z


def make_runner(network, z, dtype):
    @torch.inference_mode()
    def run():
        with autocast(dtype):
            return network(z)

    return run


@pytest.mark.parametrize("variant", [*STOCK_OF_ALL_DTYPES, "ours-fp32", "ours-bf16"])
def test_generator_reference(benchmark, variant):
    dtype = next(name for name in DTYPES if name in variant)
    reference, z = make_trained_generator()
    flops, needed = (sum(layer_flops(generator(), *z.shape, needed=needed)) for needed in (False, True))
    group = f"generator in evaluation, preset reference, batch {BATCH}"
    describe(benchmark, group, variant, dtype, flops=flops, needed_flops=needed)
    if variant.startswith("ours"):
        network = load_in_order(build_generator(PRESETS["reference"].model).to(device()), reference).eval()
        run = make_runner(network, z.flatten(1), dtype)
        exact = in_float64(reference)(z.double()).detach()
        assert_as_accurate([run()], [make_runner(reference, z, dtype)()], [exact], 2)
    else:
        run = make_runner(*stock(reference, variant.removeprefix(f"{dtype}-"), z), dtype)
    time_call(benchmark, run)
