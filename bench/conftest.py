"""Settings, fixtures and hooks of all benchmarks."""

import gc
import os
import platform
import re
import time
from pathlib import Path

import pytest
import torch
from support import selection
from support.case_seconds import read_record
from support.watch import Watch

import fastvgan  # noqa: F401  (binds a checkout's kernels/ as fastvgan_kernels)
from fastvgan.machine.versions import find_version

_START = time.monotonic()
_CHECKS = pytest.StashKey[bool]()
_SLOW_TO_CHECK = re.compile(r"test_scale\.py|test_gpu_|compile|2threads")  # tests/bench runs small parts of them


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="with --benchmark-only: run every benchmark, not only one shape per layer and the whole jobs",
    )


def pytest_configure(config):
    """Check each benchmark's results once, on a small problem, without --benchmark-only or --benchmark-json.

    A FASTVGAN_BENCH_TINY set by the user is kept. The modules in this folder read it at import, so the hooks and
    fixtures below import them late.
    """
    options = config.option
    measures = options.benchmark_only or options.benchmark_json or "FASTVGAN_BENCH_TINY" in os.environ
    # A pytest-xdist worker inherits its controller's changed environment.
    config.stash[_CHECKS] = getattr(config, "workerinput", {}).get("benchmarks_check", not measures)
    if config.stash[_CHECKS]:
        os.environ["FASTVGAN_BENCH_TINY"] = "1"
        options.benchmark_disable = True
    elif selection.is_directory_run(config) and not config.getoption("full", False):
        options.benchmark_quiet = True  # only the table of ratios at the end; --benchmark-verbose prints all variants


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["benchmarks_check"] = node.config.stash[_CHECKS]


def pytest_runtest_setup(item):
    """Skip the remaining benchmarks after FASTVGAN_BENCH_SECONDS, so that pytest writes the results so far."""
    if time.monotonic() - _START > _limit():
        pytest.skip("FASTVGAN_BENCH_SECONDS have passed")


def _limit() -> float:
    text = os.environ.get("FASTVGAN_BENCH_SECONDS") or "inf"
    try:
        return float(text)
    except ValueError:
        raise pytest.UsageError(f"FASTVGAN_BENCH_SECONDS={text}: expected a number") from None


@pytest.hookimpl(trylast=True)  # after -k
def pytest_collection_modifyitems(config, items):
    from support.variants import TINY, clock, device

    on_gpu = device().type == "cuda"
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in ours:
        if on_gpu:
            item.add_marker(pytest.mark.benchmark(timer=clock))
        if config.stash[_CHECKS] and _SLOW_TO_CHECK.search(f"{item.path.name}::{item.name}"):
            item.add_marker(pytest.mark.skip(reason="runs only with --benchmark-only"))
    if config.stash[_CHECKS]:
        return
    kept, dropped = selection.select(config, ours)
    if dropped:
        unwanted = set(dropped)
        items[:] = [item for item in items if item not in unwanted]
        config.hook.pytest_deselected(items=dropped)
    measured = [item.nodeid for item in kept if selection.runs_here(item, on_gpu, TINY)]
    config.pluginmanager.register(Watch(config, measured, read_record(), _limit()), "fastvgan-watch")


@pytest.fixture(autouse=True)
def compile_afresh():
    """Reset torch.compile: after a few recompilations for new shapes, it stops specialising or runs eagerly."""
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def at_its_best(monkeypatch, request):
    """Enable cuDNN's autotuner for stock PyTorch and, on a GPU, select Triton for ours."""
    from support.on_gpu import choose_implementation
    from support.variants import device

    if choose_implementation() != "auto" and not request.config.stash[_CHECKS]:
        monkeypatch.setenv("FASTVGAN_IMPL", choose_implementation())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    yield
    if device().type == "cuda":  # free the memory of graphs and cached results for the next benchmark
        gc.collect()
        torch.cuda.empty_cache()


def pytest_benchmark_update_machine_info(config, machine_info):
    """Record the hardware and the versions; remove the machine's name."""
    from support.variants import TINY, device

    machine_info.pop("node", None)
    cpu = machine_info.get("cpu", {})
    on_gpu = device().type == "cuda"
    machine_info["fastvgan"] = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cpu": cpu.get("brand_raw") or platform.processor() or platform.machine(),
        "cores": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": on_gpu or bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu.get("flags", ()))),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": find_version("triton"),
    }
    if TINY:
        machine_info["fastvgan"]["tiny"] = True


def pytest_benchmark_update_commit_info(config, commit_info):
    """Take the commit from FASTVGAN_COMMIT in a copy without .git."""
    if commit_info.get("id") in (None, "unversioned", "unknown"):
        commit_info["id"] = os.environ.get("FASTVGAN_COMMIT") or "unknown"
