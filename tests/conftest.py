"""What all tests share: the gpu marker, and hypothesis profiles."""

import os

import pytest
import torch
from hypothesis import settings

# Without a GPU Triton's kernels are interpreted, which has to be said before Triton is imported anywhere.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Commands that tests start compute by as many threads, to the same bits, whatever runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

import fastvgan  # noqa: E402, F401  binds the checkout's kernels/ as fastvgan_kernels before any test imports it

# The first call of an operation is slow, so a deadline would fail at random. CI repeats the same examples each time.
settings.register_profile("fastvgan", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "fastvgan")


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device; skipped, with that reason, where there is none")


def pytest_collection_modifyitems(config, items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


_BACKENDS = (
    *((torch.backends.cudnn.conv, "fp32_precision"), (torch.backends.cudnn.rnn, "fp32_precision")),
    *((torch.backends.cuda.matmul, "fp32_precision"), (torch.backends.cudnn, "benchmark")),
    *((torch.backends.mkldnn.conv, "fp32_precision"), (torch.backends.mkldnn.matmul, "fp32_precision")),
    *((torch.backends.mkldnn, "enabled"), (torch.utils.deterministic, "fill_uninitialized_memory")),
)


@pytest.fixture(autouse=True)
def _settings_of_torch():
    """What a training sets up for its process, and later tests in this one would compute otherwise by."""
    before = [getattr(*place) for place in _BACKENDS]
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    for place, value in zip(_BACKENDS, before, strict=True):
        if getattr(*place) != value:
            setattr(*place, value)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=warned)
