"""Fixtures for tests of the compiled extension."""

import pytest

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels import extension


@pytest.fixture(params=["amx", "avx512bf16", "avx512", "avx2", "portable"])
def instruction_set(request):
    """Run a test with each instruction set that the processor and the build have."""
    facts = extension.facts()
    if request.param not in facts["cpu_instruction_sets"]:
        pytest.skip(f"this processor or build has no {request.param}")
    extension.load().use_instruction_set(request.param)
    yield request.param
    extension.load().use_instruction_set(facts["cpu_instruction_set"])
