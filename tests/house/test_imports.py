"""Imports run one way, downwards, and in no circle; no module takes a name that another keeps to itself."""

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest
from sources import modules, parse

# From the bottom to the top; a module belongs to the longest prefix. Those of one tier may import each other.
TIERS = (
    ("fastvgan_kernels",),
    (
        "fastvgan",  # the package's own file, whose table of public names is imported lazily
        "fastvgan.command_line",
        "fastvgan.errors",
        "fastvgan.files",
        "fastvgan.machine",
        "fastvgan.random_draws",
        "fastvgan.settings",
    ),
    ("fastvgan.layers",),
    ("fastvgan.data", "fastvgan.losses", "fastvgan.metrics", "fastvgan.models"),
    ("fastvgan.runs",),
    ("fastvgan.generation",),
    ("fastvgan.training",),
    ("fastvgan.page",),
    (
        "fastvgan.__main__",  # imports each command by its name
        "fastvgan.demo",
        "fastvgan.evaluate",
        "fastvgan.generate",
        "fastvgan.generation.make_shipped",
        "fastvgan.info",
        "fastvgan.metrics.train_oracle",
        "fastvgan.prepare",
        "fastvgan.report",
        "fastvgan.train",
    ),
)


class _Import:
    """One imported name: the module that imports, the module imported from, the name, and the line."""

    def __init__(self, by: str, of: str, name: str | None, line: int):
        self.by, self.of, self.name, self.line = by, of, name, line

    def __repr__(self) -> str:
        return f"{self.by}:{self.line} imports {self.of}{'' if self.name is None else '.' + self.name}"


def _base(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = modules()[module].name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _imports(module: str) -> Iterator[_Import]:
    """Imports of our modules, those inside functions too, but for those that only a type checker sees."""
    tree = parse(modules()[module])
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (_Import(module, a.name, None, node.lineno) for a in node.names if a.name in modules())
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            for alias in node.names:
                if f"{base}.{alias.name}" in modules():
                    yield _Import(module, f"{base}.{alias.name}", None, node.lineno)
                elif base in modules():
                    yield _Import(module, base, alias.name, node.lineno)


def _all_imports() -> list[_Import]:
    found = [one for module in modules() for one in _imports(module)]
    assert len(found) > 500, "the imports were not found"
    return found


def _tier(module: str) -> int:
    tiers = [(prefix, tier) for tier, prefixes in enumerate(TIERS) for prefix in prefixes]
    matches = [(len(prefix), tier) for prefix, tier in tiers if _is_in(module, prefix)]
    assert matches, f"{module} belongs to no tier: add it to TIERS"
    return max(matches)[1]


def _is_in(module: str, prefix: str) -> bool:
    if prefix == "fastvgan":
        return module == prefix
    return module == prefix or module.startswith(prefix + ".")


def _circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, by Tarjan's algorithm (1972) for strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                circles.append(sorted(component))

    for module in list(edges):
        if module not in index:
            visit(module)
    return circles


def test_a_circle_is_found():
    assert _circles(defaultdict(set, a={"b"}, b={"c"}, c={"a"}, d={"a"})) == [["a", "b", "c"]]


def test_no_modules_import_each_other_in_a_circle():
    edges = defaultdict(set)
    for one in _all_imports():
        if one.of != one.by:
            edges[one.by].add(one.of)
    assert not _circles(edges)


def test_no_module_imports_upwards():
    upwards = [one for one in _all_imports() if _tier(one.of) > _tier(one.by)]
    assert not upwards, "\n".join(map(str, upwards))


def test_no_module_imports_a_command():
    commands = set(TIERS[-1])
    assert not [one for one in _all_imports() if one.of in commands]


def test_no_module_imports_a_private_name():
    private = [one for one in _all_imports() if one.name is not None and _is_private(one.name)]
    private += [one for one in _all_imports() if one.name is None and _is_foreign_private(one)]
    assert not private, "\n".join(map(str, private))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_foreign_private(one: _Import) -> bool:
    """Whether a private module of another package is imported; `_torch` serves both packages, by intent."""
    name = one.of.rpartition(".")[2]
    return _is_private(name) and name not in ("_torch", "_C")


@pytest.mark.parametrize("package", ["fastvgan", "fastvgan_kernels"])
def test_no_module_reads_a_private_attribute_of_another(package):
    found = []
    for module, path in modules().items():
        if module.split(".")[0] != package:
            continue
        tree = parse(path)
        ours = {alias.asname or alias.name for node in ast.walk(tree) for alias in _module_aliases(module, node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in ours and _is_private(node.attr) and node.attr not in ("_torch", "_C"):
                    found.append(f"{module}:{node.lineno} reads {node.value.id}.{node.attr}")
    assert not found, "\n".join(found)


def _module_aliases(module: str, node: ast.AST) -> list[ast.alias]:
    if isinstance(node, ast.ImportFrom):
        base = _base(module, node)
        return [alias for alias in node.names if f"{base}.{alias.name}" in modules()]
    return []
