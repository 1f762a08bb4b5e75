"""The whole training step on one GPU: variants of stock PyTorch's loop, from the textbook version on, against ours."""

import pytest
import torch
from support.memory import graphs_bytes, peak_bytes
from support.networks import step_flops
from support.on_gpu import DTYPE, ON_GPU, assert_supported, capture_graph, only_here, split_variant
from support.our_step import CHECKED, Ours, batch_of, problem, stock_inputs
from support.stock_loop import StockLoop
from support.variants import DTYPES, TINY, describe, device, time_call

from fastvgan.runs.presets import PRESETS
from fastvgan_kernels import choice

pytestmark = only_here

# The textbook loop, faster versions that users of stock PyTorch can write, and these as one CUDA graph.
STOCK = ["fp32-eager-contiguous", "bf16-eager-channels_last", "bf16-compile-channels_last"]
STOCK += ["bf16-compile-channels_last-graph", "bf16-autotune-channels_last-graph"]
# On a GPU, auto leaves convolutions to stock PyTorch until ours are measured there; then only the step is ours.
OURS = [f"{ours}-channels_last{graph}" for ours in ("ours_auto", "ours_triton") for graph in ("", "-graph")]


def ours(preset: str, mode: str, graphs: bool, monkeypatch):
    """Return a function that runs our step, and one that returns whether all losses and gradients were finite."""
    monkeypatch.setenv(choice.ENVIRONMENT, mode.removeprefix("ours_"))
    if mode == "ours_triton":
        skip_unless_supported()
    mine = Ours(preset, graphs)
    mine.check()
    return mine.make_runner(mine.problem.batch), mine.is_finite


def skip_unless_supported() -> None:
    try:
        x = torch.empty(2, 2, 2, 2, 2, device=device(), dtype=DTYPES[DTYPE])
        assert_supported(x, "conv_up", "conv_down", "conv_weight_grad", "norm_act")
    except ValueError as error:
        pytest.skip(str(error))


def stock(preset: str, variant: str, graph: bool):
    """Return the same two functions for the stock loop."""
    if "autotune" in variant and not ON_GPU:
        pytest.skip("max-autotune needs a GPU")
    model, size, _ = problem(preset)
    fused = variant != "fp32-eager-contiguous"
    adam = {"fused": True, "capturable": graph and ON_GPU} if fused else {}
    loop = StockLoop(variant, model, **adam)
    real, z = stock_inputs(batch_of(model, size), loop.layout)
    run = lambda: loop(real, z)  # noqa: E731
    run = capture_graph(run) if graph else run
    return run, lambda: torch.isfinite(torch.stack(run())).all()


def facts_of(preset: str, dtype: str) -> dict:
    """Return the facts of one step for the report, and the precision of its float32 convolutions."""
    model, size, _ = problem(preset)
    flops, needed = (step_flops(n, model, size) for n in (False, True))
    facts = {"flops": flops, "needed_flops": needed, "videos": size}
    if dtype == "fp32":
        facts["cudnn_fp32_precision"] = torch.backends.cudnn.conv.fp32_precision
    return facts


@pytest.mark.parametrize("preset", CHECKED)
@pytest.mark.parametrize("variant", [*OURS, *STOCK])  # the slowest to compile are last
def test_gpu_train_step(benchmark, monkeypatch, preset, variant):
    dtype = next((name for name in DTYPES if variant.startswith(name)), DTYPE)
    mode, _, graph = split_variant(variant.removeprefix(f"{dtype}-"))
    group = f"GPU: train step, preset {preset}, batch {PRESETS[preset].training.batch_size}"
    describe(benchmark, group, variant, dtype, **facts_of(preset, dtype))
    if mode.startswith("ours"):
        run, is_finite = ours(preset, mode, graph, monkeypatch)
    else:
        run, is_finite = stock(preset, variant, graph)
    time_call(benchmark, run, seconds=1)
    assert is_finite(), "losses or gradients are not finite"
    if benchmark.enabled and not TINY:
        # The peak of a warm step, above weights and moments, which all variants have. The memory pool of a graph exists
        # before the step, so it is added.
        benchmark.extra_info["peak_bytes"] = peak_bytes(run) + (graphs_bytes() if graph and ON_GPU else 0)
