"""Peak rates of this machine, measured with the other benchmarks: GEMM for each dtype, and copies of memory."""

import pytest
import torch
from support.variants import DTYPES, TINY, bytes_of, describe, device, time_call

# Only sizes that take a CPU seconds occupy a GPU fully.
SIZES = [1024] if TINY else [1024, 2048, 4096] + [8192] * (device().type == "cuda")
MEGABYTES = {"copy": 256, "copy in cache": 8}


@pytest.fixture
def as_in_convolutions():
    """Give float32 GEMMs on a GPU the precision of cuDNN's convolutions, tf32 by default."""
    if device().type == "cpu":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    yield
    matmul.fp32_precision = before


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm(benchmark, as_in_convolutions, dtype, size):
    a, b = (torch.randn(size, size, device=device(), dtype=DTYPES[dtype]) for _ in range(2))
    describe(benchmark, "ceilings", f"gemm {size} {dtype}", dtype, flops=2 * size**3, ceiling="gemm")
    time_call(benchmark, lambda: torch.mm(a, b))


@pytest.mark.parametrize("kind", MEGABYTES)
def test_copy(benchmark, kind):
    source = torch.ones(MEGABYTES[kind] * 2**20 // 4, device=device())
    target = torch.zeros_like(source)
    describe(benchmark, "ceilings", kind, "fp32", bytes=bytes_of(source, target), ceiling=kind)
    time_call(benchmark, lambda: target.copy_(source))
    assert torch.equal(source, target)
