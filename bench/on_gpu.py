"""What the benchmarks for one GPU share: their variants, CUDA graphs, and a tiny mode that finds errors without a GPU.

FASTVGAN_BENCH_TINY=1 shrinks every problem until Triton's interpreter computes it on a CPU in no time, and a GPU under
compute-sanitizer. The benchmarks of the CPU keep as much as it takes for auto to choose the same implementations as
at full size. What is timed then says nothing.
"""

import os

import pytest
import torch
from variants import FORMATS, TINY, device, in_mode, off

import fastvgan  # noqa: F401  (binds a checkout's kernels/ as fastvgan_kernels)
from fastvgan_kernels import choice
from fastvgan_kernels.measured.capture import launches_are_captured

ON_GPU = device().type == "cuda"
DTYPE = "bf16" if ON_GPU else "fp32"  # the interpreter computes bfloat16 products incorrectly

EAGER = [f"eager-{layout}{graph}" for layout in FORMATS for graph in ("", "-graph")]
AUTOTUNE = ["autotune-channels_last", "autotune-channels_last-graph", "autotune-contiguous-graph"]
OURS = ["ours-channels_last", "ours-channels_last-graph"]

only_here = pytest.mark.skipif(
    not (ON_GPU or TINY), reason="no CUDA device; FASTVGAN_BENCH_TINY=1 tries the code on the CPU"
)


def preferred() -> str:
    """The implementation that is measured: on a GPU auto does not take it until it has been."""
    interpreted = TINY and os.environ.get("TRITON_INTERPRET") == "1"
    return os.environ.get(choice.ENVIRONMENT) or ("triton" if ON_GPU or interpreted else "auto")


def assert_serves(x: torch.Tensor, *operations: str) -> None:
    """Fail with every reason if the preferred implementation would leave one of these to another one."""
    for operation in operations:
        choice.pick(operation, preferred(), x)


def parts(variant: str) -> tuple[str, torch.memory_format, bool]:
    """Mode, memory format, and whether it is replayed as a CUDA graph: "eager-channels_last-graph" and so on."""
    mode, layout, *graph = variant.split("-")
    return mode, FORMATS[layout], bool(graph)


def compiled(function, variant: str):
    """A stock function or module in the variant's mode."""
    mode, _, graph = parts(variant)
    if mode == "autotune" and not ON_GPU:
        pytest.skip("max-autotune is for a GPU")
    return in_mode(function, f"{mode}-graph" if mode == "autotune" and graph else mode)


def ready(run, variant: str):
    """The function as the variant asks for it to be timed: as it is, or as a graph that gives the same results.

    Of small problems an eager call takes longer to launch than to compute; as a graph the kernels alone are compared.
    """
    if not parts(variant)[2]:
        return run
    wanted = [result.clone() for result in run()]
    replay = captured(run)
    for again, before in zip(replay(), wanted, strict=True):
        # cuDNN adds some gradients up in another order each time.
        assert off(again, before) < 16 * torch.finfo(before.dtype).eps, "the graph gives something else"
    return replay


def captured(function):
    """The function's work as a CUDA graph, replayed by each call; without a GPU the function itself."""
    if not ON_GPU:
        return function
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with (
        torch.cuda.stream(aside),
        launches_are_captured(),
    ):  # what is done once, compiling and choosing, must not be done in the capture
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
