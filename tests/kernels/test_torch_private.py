"""Private names of torch: one file uses them, torch has them, and results are right where one is gone."""

import ast
import inspect
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from torch import nn

from fastvgan_kernels import _torch

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = list(dict.fromkeys([*_torch.SYMBOLS, ("torch._dynamo.eval_frame", "OptimizedModule")]))
# What other files may touch, with the reasons that _torch.py gives.
EXCEPTIONS = {
    "fastvgan/layers/convolutions.py": {"_parameters", "_output_padding", "_reversed_padding_repeated_twice"},
    "fastvgan/layers/modules.py": {"_parameters", "_buffers", "_check_input_dim"},
    "fastvgan/layers/tracing.py": {"_call_impl", "_parameters"},
    "kernels/extension.py": {"_C"},  # our own, as a file's name
}
# Methods of torch.nn's layers that fusion.py names to compare them with a subclass's.
METHODS_IN_FUSION = {"_call_impl", "_check_input_dim", "_conv_forward", "_get_no_batch_dim", "_output_padding"}
EXCEPTIONS["fastvgan/layers/fusion.py"] = METHODS_IN_FUSION | {"_handle_no_batch_input", "_apply_instance_norm"}

# By the start of `owner.name`: what uses it.
CHECKS = {
    "torch._foreach": "lists",
    "torch._fused_adam": "adam",
    "torch.distributed": "groups",
    "torch.nn.modules.": "layers tracing fuse lists",
    "torch.nn.Module": "layers tracing fuse",
    "torch.Tensor._version": "autocast",
    "torch._C._get_cudnn": "layers",
    "torch._dynamo": "fuse",
    "torch.utils": "layers tracing",
    "torch.overrides": "layers tracing",
    "torch": "layers transforms autocast tracing",
}


def private_attributes_of_torch() -> set[str]:
    """Names with one underscore in the classes of tensors, modules and functions, and in the module torch."""
    owners = [torch, torch.Tensor, torch.autograd.Function, torch.optim.Adam, *(vars(nn).values())]
    names = {name for owner in owners if inspect.isclass(owner) or owner is torch for name in dir(owner)}
    names |= {*vars(nn.Conv2d(2, 2, 1)), *vars(nn.BatchNorm2d(2))}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def chain_of(node: ast.AST) -> list[str]:
    """a.b.c as ["a", "b", "c"]; [] where it does not begin with a name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [*([node.id] if isinstance(node, ast.Name) else [""]), *parts[::-1]]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_in(source: str) -> set[str]:
    """Private names of torch that a file touches."""
    tree, of_torch, found, own = ast.parse(source), {"torch"}, set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch" and not node.level:
            of_torch |= {alias.asname or alias.name for alias in node.names}
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            found |= set(filter(is_private, parts))
        if isinstance(node, ast.Import):
            parts = [
                part for alias in node.names if alias.name.split(".")[0] == "torch" for part in alias.name.split(".")
            ]
            found |= set(filter(is_private, parts))
            of_torch |= {alias.asname for alias in node.names if alias.name.startswith("torch") and alias.asname}
        if isinstance(node, ast.ClassDef):
            own |= {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
        # A class's own attribute may have a name that torch's classes have too.
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and chain_of(node)[0] == "self":
            own.add(node.attr)
    known = private_attributes_of_torch()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            chain = chain_of(node)
            if chain[0] in of_torch or (node.attr in known and not (chain[0] == "self" and node.attr in own)):
                found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known:
            found.add(node.value)
    overridden = {name for name in own if hasattr(nn.Module, name) and is_private(name)}
    return found | overridden


def test_no_other_file_touches_a_private_name_of_torch():
    touched = {}
    for folder in ("fastvgan", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name != "kernels/_torch.py" and (names := private_names_in(path.read_text())):
                touched[name] = names
    unexpected = {name: names - EXCEPTIONS.get(name, set()) for name, names in touched.items()}
    assert not {name: names for name, names in unexpected.items() if names}
    assert {name: names for name, names in touched.items() if names} == EXCEPTIONS  # none has become needless


@pytest.mark.parametrize(
    "source, name",
    [
        ("from torch import _C\n", "_C"),
        ("import torch\ntorch._foreach_add_(a, b)\n", "_foreach_add_"),
        ("from torch._functorch import utils\n", "_functorch"),
        ("from torch.autograd import forward_ad as ad\nad._current_level\n", "_current_level"),
        ("weight._version\n", "_version"),
        ("vars(module)['_forward_hooks']\n", "_forward_hooks"),
    ],
)
def test_the_walk_finds_each_way_of_touching_one(source, name):
    assert name in private_names_in(source)


@pytest.mark.parametrize("owner, name", SYMBOLS, ids=str)
def test_this_torch_has_it(owner, name):
    if owner == "torch.nn.Module()":
        assert name in vars(nn.Module())
        return
    __import__(owner)
    attrgetter(name)(sys.modules[owner])


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, str(Path(__file__).with_name("without_symbol.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize("owner, name", [("nothing", "gone"), *_torch.SYMBOLS], ids=str)
def test_results_are_right_where_it_is_gone(server, owner, name):
    given = f"{owner}.{name}" if owner != "nothing" else "torch"
    checks = next(checks for start, checks in CHECKS.items() if given.startswith(start))
    server.stdin.write(f"{owner} {name} {checks}\n")
    server.stdin.flush()
    assert server.stdout.readline().strip() == "ok"
