"""Activations have the same codes in Python, C++, CUDA and Triton, as read from the sources."""

import ast
import re
from pathlib import Path

import pytest
import torch
from stock_activations import STOCK_ACTIVATIONS

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels import activations

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
# Where C++ declares the codes; CUDA's file includes the first one.
DECLARATIONS = {
    "norm_act.h": ("enum Activation : int64_t {", "};"),
    "cpu/activation.h": ("constexpr int kNone", ";"),
}


def between(text, start, end):
    """What is between two marks, of which the first is in the text exactly once."""
    assert text.count(start) == 1, f"{start!r} is there {text.count(start)} times"
    rest = text.split(start)[1]
    assert end in rest
    return rest.split(end)[0]


def python_name(name):
    """kLeakyRelu → leaky_relu, LEAKY_RELU → leaky_relu."""
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removeprefix("k")) if name.startswith("k") else name
    return words.lower()


def codes_of_cpp(file):
    """Name → code, of every entry of the declaration: one that is not `kName = number` is an error."""
    start, end = DECLARATIONS[file]
    entries = between((CSRC / file).read_text(), start, end).split(",")
    if start.endswith("kNone"):
        entries[0] = "kNone" + entries[0]
    pairs = (re.fullmatch(r"\s*(k[A-Za-z]+) = (\d+)\s*", entry) for entry in entries)
    return {python_name(pair[1]): int(pair[2]) for pair in pairs}


def codes_of_triton():
    """Name → code, of the constants at the head of kernels/triton/math.py."""
    tree = ast.parse((ROOT / "kernels/triton/math.py").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("tl.constexpr("):
            (target,), (code,) = node.targets, node.value.args
            found[python_name(target.id)] = ast.literal_eval(code)
    return found


def test_the_table_is_numbered_without_gaps():
    assert activations.CODES == {"none": 0, "relu": 1, "leaky_relu": 2, "tanh": 3, "silu": 4, "gelu": 5}
    assert tuple(activations.CODES) == activations.ACTIVATIONS


@pytest.mark.parametrize("file", DECLARATIONS)
def test_cpp_has_the_same_codes(file):
    assert codes_of_cpp(file) == activations.CODES


def test_triton_has_the_same_codes():
    """Of "none" it has no constant: that is no branch."""
    assert codes_of_triton() | {"none": 0} == activations.CODES


def sources():
    return [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh", ".inc")]


def test_no_other_source_declares_codes():
    """CUDA takes those of norm_act.h."""
    names = "|".join("k" + "".join(map(str.capitalize, name.split("_"))) for name in activations.ACTIVATIONS)
    declaring = {
        path.relative_to(CSRC).as_posix() for path in sources() if re.search(rf"\b({names})\s*=[^=]", path.read_text())
    }
    assert declaring == set(DECLARATIONS)
    cuda = (CSRC / "cuda/norm_act_device.cuh").read_text()
    assert '#include "../norm_act.h"' in cuda and "kind == kRelu" in cuda


def test_check_activation_allows_all_codes_and_no_more():
    check = between((CSRC / "norm_act.cpp").read_text(), "void check_activation(int64_t activation) {", "}")
    assert "activation >= kNone && activation <= kGelu" in check
    assert max(activations.CODES, key=activations.CODES.get) == "gelu"


def test_convolutions_are_compiled_for_the_activations_that_they_take():
    body = between(
        (CSRC / "cpu/activation.h").read_text(), "void with_activation(int64_t activation, Visit visit) {", "\n}"
    )
    compiled = {python_name(name) for name in re.findall(r"visit\(Constant<(k\w+)>\{\}\)", body)}
    assert compiled == set(activations.CONV_ACTIVATIONS)


@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_pytorchs_functions_agree_with_its_modules(activation):
    slope = 0.2
    z = torch.linspace(-3, 3, 100, dtype=torch.float64, requires_grad=True)
    expected = STOCK_ACTIVATIONS[activation](z)
    (derivative,) = torch.autograd.grad(expected.sum(), z)
    plain = z.detach()
    assert torch.equal(activations.activate(plain, activation, slope), expected)
    assert torch.equal(activations.activate_(plain.clone(), activation, slope), expected)
    torch.testing.assert_close(activations.slope_at(plain, activation, slope), derivative)
    if activation != "none":
        dy = torch.full_like(plain, 2.0)
        torch.testing.assert_close(
            activations.activation_backward(dy, plain.clone(), activation, slope), 2 * derivative
        )
