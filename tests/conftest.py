"""What all tests share: what the markers need, and hypothesis profiles."""

import importlib.util
import os

import pytest
import torch
from hypothesis import settings
from torch_settings import keep_torch_settings

# Without a GPU Triton's kernels are interpreted, which has to be said before Triton is imported anywhere.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Commands that tests start compute by as many threads, to the same bits, whatever runs beside them.
os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

import fastvgan  # noqa: E402, F401  binds the checkout's kernels/ as fastvgan_kernels before any test imports it
from fastvgan_kernels import extension
from fastvgan_kernels.triton import support as triton_support  # noqa: E402

# The first call of an operation is slow, so a deadline would fail at random. CI repeats the same examples each time.
settings.register_profile("fastvgan", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "fastvgan")


def importable(name: str) -> bool:
    """Whether the module can be imported; it is not imported, since DALI takes seconds."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def pytest_collection_modifyitems(items):
    """Skip the tests whose markers name something that is missing here; pyproject.toml lists the markers."""
    missing = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "extension": extension.reason(),
        "triton": triton_support.reason(),
        "dali": None if importable("nvidia.dali") else "DALI is not installed (pip install nvidia-dali-cuda130)",
    }
    for item in items:
        if "interpreted" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.triton)
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _settings_of_torch_by_file():
    """What a file's own fixtures change, as by training, is not left to the next file."""
    with keep_torch_settings():
        yield


@pytest.fixture(autouse=True)
def _settings_of_torch():
    with keep_torch_settings():
        yield
