"""Overhead of a call: an operation that computes nothing, registered in three ways.

torch.compile supports all three. `ours` is kernels/dispatch.py; the kernel returns a constant tensor, so that only the
call is timed.
"""

import pytest
import torch
from support.variants import describe, time_call

from fastvgan_kernels import dispatch

CALLS = 1000  # milliseconds per round are microseconds per call
SCHEMA = "(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, str impl) -> Tensor"
RESULT = torch.zeros(1)


def return_constant(x, weight, bias, stride, padding, impl):
    return RESULT


def return_empty(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: list[int], padding: list[int], impl: str
) -> torch.Tensor:
    return torch.empty(1)


def register_operation(variant):
    """Register a new operation with its own name and kernel, which some ways of registering check."""
    name = f"nothing_by_{variant.replace('-', '_')}"
    if variant == "ours":
        if hasattr(torch.ops.fastvgan, name):
            return dispatch.Operation(getattr(torch.ops.fastvgan, name).default, return_constant)
        return dispatch.define(name + SCHEMA, return_constant, return_empty)
    register = {"triton-op": torch.library.triton_op, "custom-op": torch.library.custom_op}[variant]
    return register(f"fastvgan_bench::{name}", mutates_args=())(return_empty)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["triton-op", "custom-op", "ours"])
def test_dispatch(benchmark, variant):
    operation = register_operation(variant)
    arguments = (torch.ones(2), torch.ones(2), None, [2, 2, 2], [1, 1, 1], "auto")
    assert operation(*arguments).shape == (1,)
    describe(benchmark, f"dispatch of an operation, {CALLS} calls", variant, "fp32")

    def calls():
        for _ in range(CALLS):
            operation(*arguments)

    time_call(benchmark, calls)
