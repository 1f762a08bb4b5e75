"""What tests of the Triton kernels under Triton's interpreter share."""

import dataclasses

import pytest
import torch

from fastvgan_kernels import choice
from fastvgan_kernels.triton import support as triton_support
from fastvgan_kernels.triton import tuning


@pytest.fixture
def interpreted(request, monkeypatch):
    """Skips where Triton does not interpret. Memory that torch.empty gives is NaN, so that what is not written is seen.

    The interpreter's check that no integer overflows takes most of its time: only tests named for that have it.
    """
    if not triton_support.is_interpreting():
        pytest.skip(triton_support.reason() or "Triton compiles for the GPU here and does not interpret")
    from triton.runtime.interpreter import interpreter_builder

    checked = "two_to_the_31" in request.node.name
    options = dataclasses.replace(interpreter_builder.options, sanitize_overflow=checked, debug=checked)
    monkeypatch.setattr(interpreter_builder, "options", options)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def prefer(request, monkeypatch):
    """Sets FASTVGAN_IMPL to an implementation's name; Triton's is interpreted."""

    def use(name):
        if name == "triton":
            request.getfixturevalue("interpreted")
        monkeypatch.setenv(choice.ENVIRONMENT, name)

    return use


@pytest.fixture(params=["reference", pytest.param("triton", marks=pytest.mark.triton)])
def implementation(request, prefer):
    """Runs the test with each implementation of the operations that only a training step calls."""
    prefer(request.param)


@pytest.fixture
def tile(monkeypatch):
    """Sets the configuration that every Triton kernel runs with, None for what it would choose."""
    choose = tuning.choose

    def use(config):
        monkeypatch.setattr(tuning, "choose", choose if config is None else lambda *_: config)

    return use
