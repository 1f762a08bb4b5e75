"""What all tests share: the gpu marker, and hypothesis profiles."""

import os

import pytest
import torch
from hypothesis import settings
from torch_settings import torch_settings_kept

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


@pytest.fixture(autouse=True, scope="module")
def _settings_of_torch_by_file():
    """What a file's own fixtures change, as by training, is not left to the next file."""
    with torch_settings_kept():
        yield


@pytest.fixture(autouse=True)
def _settings_of_torch():
    with torch_settings_kept():
        yield
