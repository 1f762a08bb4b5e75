"""Every Triton kernel with every shipped configuration, compiled for each architecture: no GPU is needed for that."""

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from triton_ahead import PRODUCTS, ROWS, SHARED_KIB, build, build_odd  # noqa: E402

pytestmark = pytest.mark.triton
TENSOR_CORES = {90: "wgmma.mma_async", 100: "tcgen05.mma"}  # of a whole warp group, which takes 64 rows
CASES = [
    *itertools.product((80, 90, 100), PRODUCTS, ("bf16", "tf32")),
    *itertools.product((80, 90, 100), ROWS, ("bf16",)),
    *itertools.product((86, 120), PRODUCTS, ("bf16",)),  # little shared memory
    # Without tensor cores the architectures differ little, and the shared memory is that of tf32.
    *itertools.product((90,), [*PRODUCTS, *ROWS], ("ieee",)),
]
ODD = [(80, "ieee"), (90, "bf16"), (100, "tf32")]


@pytest.fixture(scope="module")
def compiler():
    """A process that does not interpret as this one does. Several tests at a time (`-n`) have one each.

    Each test asks for its own case alone: the cases of this file are spread over all processes of pytest.
    """
    spawn, folder = multiprocessing.get_context("spawn"), str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, spawn) as pool:
        patch.setenv("TRITON_INTERPRET", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))
        yield pool


@pytest.mark.parametrize("architecture, name, dtype", CASES)
def test_compiles(compiler, architecture, name, dtype):
    results = compiler.submit(build, architecture, name, dtype).result()
    assert len(results) >= 3
    for config, found in results:
        assert found["stack"] == 0, (config, found)
        assert found["shared"] <= SHARED_KIB[architecture] * 1024, (config, found)
        expected = []
        if name in PRODUCTS and dtype != "ieee":
            expected = [TENSOR_CORES.get(architecture, "mma.sync") if config.rows >= 64 else "mma.sync"]
        assert found["tensor_cores"] == expected, (config, found)
        assert found["copy_engine"] == config.tma, (config, found)
        assert found["multiply_add"] or expected, (config, found)


@pytest.mark.parametrize("architecture, dtype", ODD)
def test_sizes_that_are_specialised_compile(compiler, architecture, dtype):
    """A size of 1 is a constant to Triton and no tensor, and one that divides by 16 is known to."""
    names = compiler.submit(build_odd, architecture, dtype).result()
    assert names == [
        "add_finite_kernel",
        "add_parts_kernel",
        "backward_kernel",
        "backward_sums_kernel",
        "check_norms_kernel",
        "diversity_kernel",
        "down_few_kernel",
        "fold_parts_kernel",
        "forward_kernel",
        "gather_kernel",
        "grad_few_kernel",
        "join_parts_kernel",
        "list_average_kernel",
        "list_copy_kernel",
        "list_norms_kernel",
        "list_restore_kernel",
        "list_sigmoids_kernel",
        "logistic_backward_kernel",
        "logistic_kernel",
        "pair_sums_kernel",
        "philox_kernel",
        "project_kernel",
        "statistics_kernel",
        "step_backward_kernel",
        "step_kernel",
        "up_few_kernel",
        "weight_grad_kernel",
    ]  # fmt: skip
