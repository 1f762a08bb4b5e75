"""Shared code of the benchmarks for one GPU: variants, CUDA graphs, and a tiny mode that finds errors without a GPU.

FASTVGAN_BENCH_TINY=1 shrinks every problem, so that Triton's interpreter on a CPU, or a GPU under compute-sanitizer,
computes it quickly. The CPU's benchmarks stay large enough for auto to choose the same implementations as at full size.
The times then mean nothing.
"""

import os

import pytest
import torch
from support.variants import FORMATS, TINY, device, in_mode, relative_error

import fastvgan  # noqa: F401  (binds a checkout's kernels/ as fastvgan_kernels)
from fastvgan_kernels import choice
from fastvgan_kernels.measured.capture import launches_are_captured

ON_GPU = device().type == "cuda"
DTYPE = "bf16" if ON_GPU else "fp32"  # the interpreter computes bfloat16 products incorrectly

EAGER = [f"eager-{layout}{graph}" for layout in FORMATS for graph in ("", "-graph")]
AUTOTUNE = ["autotune-channels_last", "autotune-channels_last-graph", "autotune-contiguous-graph"]
OURS = ["ours-channels_last", "ours-channels_last-graph"]

only_here = pytest.mark.skipif(
    not (ON_GPU or TINY), reason="no CUDA device; FASTVGAN_BENCH_TINY=1 runs the code on the CPU"
)


def choose_implementation() -> str:
    """Return the implementation to measure; on a GPU this is Triton, also where auto does not choose it yet."""
    interpreted = TINY and os.environ.get("TRITON_INTERPRET") == "1"
    return os.environ.get(choice.ENVIRONMENT) or ("triton" if ON_GPU or interpreted else "auto")


def assert_supported(x: torch.Tensor, *operations: str) -> None:
    """Raise ValueError with all reasons if the preferred implementation refuses one of these operations."""
    for operation in operations:
        choice.pick(operation, choose_implementation(), x)


def split_variant(variant: str) -> tuple[str, torch.memory_format, bool]:
    """Split a name such as "eager-channels_last-graph": return mode, memory format, and whether to use a CUDA graph."""
    mode, layout, *graph = variant.split("-")
    return mode, FORMATS[layout], bool(graph)


def compile_variant(function, variant: str):
    """Return a stock function or module, compiled if the variant asks for it."""
    mode, _, graph = split_variant(variant)
    if mode == "autotune" and not ON_GPU:
        pytest.skip("max-autotune needs a GPU")
    return in_mode(function, f"{mode}-graph" if mode == "autotune" and graph else mode)


def prepare_call(run, variant: str):
    """Return the function to time: unchanged, or as a CUDA graph that was checked to return the same results.

    Launching a small problem takes longer than computing it; CUDA graphs compare the kernels alone.
    """
    if not split_variant(variant)[2]:
        return run
    wanted = [result.clone() for result in run()]
    replay = capture_graph(run)
    for again, before in zip(replay(), wanted, strict=True):
        # cuDNN sums some gradients in a different order each time.
        error = relative_error(again, before)
        assert error < 16 * torch.finfo(before.dtype).eps, "the CUDA graph returns other results"
    return replay


def capture_graph(function):
    """Capture the function in a CUDA graph and return a function that replays it; without a GPU, the function."""
    if not ON_GPU:
        return function
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    # Compiling and choosing, which happen once, must not happen in the capture.
    with torch.cuda.stream(aside), launches_are_captured():
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), launches_are_captured():
        results = function()

    def replay():
        graph.replay()
        return results

    return replay
