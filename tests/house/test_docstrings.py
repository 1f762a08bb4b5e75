"""Public functions have docstrings, which name the shapes of tensors and give each argument a line."""

import ast
import re

from sources import Function, functions, modules, parse

# "(N, C, T, H, W)", "(C,)", "()", "(…, K)", or a sentence about the shape.
_SHAPE = re.compile(r"\((?:[A-Z0-9…*][\w'*+/ -]*)?(?:, ?[\w.…'*+/ -]+)*,?\)|\bshapes?\b|\bscalar\b", re.UNICODE)


def _public() -> list[tuple[str, Function]]:
    found = [
        (f"{module}.{function.name}", function)
        for module, path in modules().items()
        if not any(part.startswith("_") and part != "_torch" for part in module.split("."))
        for function in functions(parse(path))
        if function.is_public
    ]
    assert len(found) > 500, "the functions were not found"
    return found


def _docstring(function: Function) -> str:
    return ast.get_docstring(function.node) or ""


def _overrides(function: Function) -> bool:
    """Whether a method's contract is its base class's: torch's forward and extra_repr, and what @override marks."""
    marks = [ast.unparse(decorator) for decorator in function.node.decorator_list]
    return any(mark.rpartition(".")[2] in ("override", "overload") or mark.endswith(".setter") for mark in marks)


def test_every_public_function_has_a_docstring():
    missing = [name for name, function in _public() if not _docstring(function) and not _overrides(function)]
    assert not missing, f"{len(missing)}:\n" + "\n".join(missing)


def test_every_public_class_and_module_has_a_docstring():
    missing = []
    for module, path in modules().items():
        tree = parse(path)
        if tree.body and ast.get_docstring(tree) is None:
            missing.append(module)
        missing += [
            f"{module}.{node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and ast.get_docstring(node) is None
        ]
    assert not missing, f"{len(missing)}:\n" + "\n".join(missing)


def _takes_tensors(function: Function) -> bool:
    arguments = function.node.args
    annotations = [a.annotation for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    annotations.append(function.node.returns)
    return any(re.search(r"\b(Tensor|ndarray)\b", ast.unparse(a)) for a in annotations if a is not None)


def test_docstrings_name_the_shapes_of_tensors():
    missing = [
        name
        for name, function in _public()
        if _takes_tensors(function) and not _overrides(function) and not _SHAPE.search(_docstring(function))
    ]
    assert not missing, f"{len(missing)}:\n" + "\n".join(missing)


def test_each_argument_has_a_line():
    crowded = []
    for name, function in _public():
        section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", _docstring(function), re.MULTILINE)
        if section is None:
            continue
        names = [argument.arg for argument in function.node.args.args + function.node.args.kwonlyargs]
        for line in section[1].splitlines():
            inside = [one for one in names if re.search(rf"\S.*[.;,] {re.escape(one)}(, \w+)*: ", line)]
            crowded += [f"{name}: {one}" for one in inside]
    assert not crowded, "\n".join(crowded)


def test_a_shape_is_recognised():
    for good in ("(N, C, T, H, W)", "of shape (C,)", "a scalar ()", "(…, K)", "(B, 4*H)"):
        assert _SHAPE.search(good), good
    for bad in ("a tensor", "see `x` (which is long)", "(float)"):
        assert not _SHAPE.search(bad), bad
