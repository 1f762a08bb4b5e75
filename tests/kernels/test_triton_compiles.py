"""Every Triton kernel with every shipped configuration, compiled for each architecture: no GPU is needed for that."""

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from triton_ahead import PRODUCTS, ROWS, build  # noqa: E402

SHARED_KIB = {80: 163, 90: 227, 100: 227}  # that a block can have
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
CASES = [
    *itertools.product(SHARED_KIB, PRODUCTS, ("bf16", "tf32", "ieee")),
    *itertools.product(SHARED_KIB, ROWS, ("bf16", "ieee")),
]


@pytest.fixture(scope="module")
def builds():
    """Case → what comes of compiling it, in processes that do not interpret as this one does."""
    spawn, folder = multiprocessing.get_context("spawn"), str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(os.cpu_count(), spawn) as pool:
        patch.setenv("TRITON_INTERPRET", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))
        yield {case: pool.submit(build, *case) for case in CASES}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("architecture, name, dtype", CASES)
def test_compiles(builds, architecture, name, dtype):
    results = builds[architecture, name, dtype].result()
    assert len(results) >= 3
    for config, found in results:
        assert found["stack"] == 0, (config, found)
        assert found["shared"] <= SHARED_KIB[architecture] * 1024, (config, found)
        expected = []
        if name in PRODUCTS and dtype != "ieee":
            # A whole warp group's instructions take 64 rows.
            expected = [TENSOR_CORES[architecture] if config.rows >= 64 else "mma.sync"]
        assert found["tensor_cores"] == expected, (config, found)
        assert found["multiply_add"] or expected, (config, found)
