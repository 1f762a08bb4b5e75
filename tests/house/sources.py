"""The project's own sources as text and as syntax trees, for tests that read code instead of running it."""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"fastvgan": ROOT / "fastvgan", "fastvgan_kernels": ROOT / "kernels"}
_SKIPPED = {"build", "dist", "__pycache__", "results"}


class Text(NamedTuple):
    """English text in a source: its place, its kind ("comment", "docstring", "string" or "prose") and its words."""

    path: Path
    line: int
    kind: str
    words: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


class Function(NamedTuple):
    """A function or method of a module: its name with those of its classes, its node, and whether users may call it."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    is_public: bool


@cache
def modules() -> dict[str, Path]:
    """Path of each module of the two packages, by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert len(found) > 150, "the packages were not found"
    return found


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def python_files(*folders: str) -> list[Path]:
    """Python files below folders of the checkout."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not _SKIPPED & set(path.relative_to(ROOT).parts)]


def functions(tree: ast.Module) -> Iterator[Function]:
    """Functions of a module and methods of its classes, but no functions inside functions."""
    yield from _functions(tree, "", True)


def _functions(node: ast.AST, prefix: str, is_public: bool) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(prefix + child.name, child, is_public and not child.name.startswith("_"))
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.", is_public and not child.name.startswith("_"))
        elif isinstance(child, ast.If | ast.Try):
            yield from _functions(child, prefix, is_public)


def texts(path: Path) -> Iterator[Text]:
    """Comments, docstrings and other strings of a Python file."""
    tree = parse(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bare = {id(node.value): node for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body and ast.get_docstring(node, clean=False) is not None:
            docstrings.add(id(node.body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A string that stands alone below an attribute documents it.
            kind = "docstring" if id(node) in docstrings or id(node) in bare else "string"
            yield Text(path, node.lineno, kind, node.value)
    lines = io.StringIO(path.read_text(encoding="utf-8")).readline
    for token in tokenize.generate_tokens(lines):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], "comment", token.string)
