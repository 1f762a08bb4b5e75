"""Generated pages of the reference: the flags of each command, the public objects of each package, the presets."""

import ast
import importlib
import inspect
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from pydantic.fields import FieldInfo

from fastvgan.command_line import Flag, read_flags
from fastvgan.runs.config import RunConfig
from fastvgan.runs.presets import PRESETS, preset
from fastvgan.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"fastvgan": ROOT / "fastvgan", "fastvgan_kernels": ROOT / "kernels"}
# Modules whose public objects users call, in the order of the navigation.
PYTHON = (
    "fastvgan",
    "fastvgan.data",
    "fastvgan.layers",
    "fastvgan_kernels",
    "fastvgan.models",
    "fastvgan.losses",
    "fastvgan.metrics.diversity",
    "fastvgan.metrics.frechet",
    "fastvgan.metrics.kernel",
    "fastvgan.metrics.memorisation",
    "fastvgan.runs.presets",
    "fastvgan.errors",
)
# Headings of the groups of a command's flags, by the class that holds them.
_OWN = "The command"
GROUPS = {"ModelConfig": "Model", "DataConfig": "Data", "TrainingConfig": "Training", "PrepareConfig": "Preparation"}
_BARE_FLAG = re.compile(r"(?<![\w`-])(--[a-z][a-z0-9-]+)(?![\w`-])")
_KINDS = {int: "whole number", float: "number", Path: "path", str: "text"}
_LIMITS = {"ge": "at least {:,g}", "gt": "more than {:,g}", "le": "at most {:,g}", "lt": "less than {:,g}"}


@cache
def commands() -> dict[str, type[Settings]]:
    """Return the settings class of each command, by the command's name: the modules of fastvgan/ with `Arguments`."""
    found = {}
    for path in sorted(PACKAGES["fastvgan"].glob("*.py")):
        names = {
            node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
        }
        if "Arguments" in names:
            found[path.stem] = importlib.import_module(f"fastvgan.{path.stem}").Arguments
    return found


def flags_of(command: type[Settings]) -> list[Flag]:
    """Return the flags and positional arguments of a command, in the order of its help."""
    return read_flags(command, ["--help"]).flags


@cache
def command_pages() -> dict[str, tuple[str, str]]:
    """Return the title and the text of the page of each command, by its path in the site."""
    return {f"reference/commands/{name}.md": (name, _command_page(name, found)) for name, found in commands().items()}


def _command_page(name: str, command: type[Settings]) -> str:
    described = importlib.import_module(command.__module__).__doc__ or ""
    lines = [f"# fastvgan {name}", "", inspect.getdoc(command) or described.splitlines()[0], ""]
    lines += ["```text", " ".join(["fastvgan", name, *_places(command), "[FLAGS]"]), "```", ""]
    lines += [f"`python -m fastvgan.{name}` is the same command. `--no-NAME` turns off a flag that takes no value."]
    groups: dict[str, list[Flag]] = {}
    for flag in flags_of(command):
        groups.setdefault(GROUPS.get(_holder(command, flag).__name__, _OWN), []).append(flag)
    for title in sorted(groups, key=lambda title: title != _OWN):
        if len(groups) > 1:
            lines += ["", f"## {title}"]
        lines += [line for flag in groups[title] for line in _entry(command, flag)]
    return "\n".join(lines) + "\n"


def _places(command: type[Settings]) -> list[str]:
    return [flag.name for flag in flags_of(command) if flag.is_positional]


def _holder(command: type[Settings], flag: Flag) -> type[Settings]:
    """Return the settings class that a flag's field belongs to."""
    for name in flag.path[:-1]:
        kind = command.model_fields[name].annotation
        assert isinstance(kind, type) and issubclass(kind, Settings)
        command = kind
    return command


def _entry(command: type[Settings], flag: Flag) -> list[str]:
    """Return a flag's entry in a definition list, with an anchor of its name."""
    holder = _holder(command, flag)
    described = holder.model_fields[flag.path[-1]]
    anchor = flag.name.strip("-").lower()
    facts = [fact for fact in (_values(flag, described), _default(command, flag, described)) if fact]
    text = _BARE_FLAG.sub(r"`\1`", _help(holder, flag.path[-1]))
    return ["", f"`{flag.name}`{{ #{anchor} }} <small>{' · '.join(facts)}</small>", f":   {text}"]


def _values(flag: Flag, described: FieldInfo) -> str:
    if flag.kind is bool and not flag.choices:
        return ""
    if flag.choices:
        return " ".join(f"`{value}`" for value in flag.choices) + (", one or more" if flag.is_tuple else "")
    kind = _KINDS[flag.kind]
    if flag.is_tuple:
        kind = f"{kind}, {flag.count or 'one or more'} of them"
    limits = {name: getattr(part, name) for part in described.metadata for name in _LIMITS if hasattr(part, name)}
    return ", ".join([kind, *(text.format(limits[name]) for name, text in _LIMITS.items() if name in limits)])


def _default(command: type[Settings], flag: Flag, described: FieldInfo) -> str:
    if flag.is_positional:
        return "required argument"
    value: Any = _defaults(command)
    for name in flag.path:
        value = getattr(value, name) if isinstance(value, Settings) else value[name]
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"default: {'on' if value else 'off'}"
    return f"default: `{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


@cache
def _defaults(command: type[Settings]) -> dict[str, Any]:
    """Return the values of a command line without flags: those of the preset `digits` for a whole run."""
    values = {}
    for name, described in command.model_fields.items():
        is_run = described.annotation is RunConfig
        values[name] = (
            preset("digits") if is_run else described.get_default(call_default_factory=True, validated_data={})
        )
    return values


def _help(holder: type[Settings], field: str) -> str:
    for base in holder.__mro__:
        text = _docstrings(base).get(field) if issubclass(base, Settings) else None
        if text:
            return " ".join(text.split())
    raise LookupError(f"{holder.__name__}.{field} has no docstring")


@cache
def _docstrings(owner: type) -> dict[str, str]:
    """Return the strings below the fields of a class, by the field's name."""
    path = Path(inspect.getsourcefile(owner) or "")
    module = griffe.visit(owner.__module__, filepath=path, code=path.read_text(encoding="utf-8"))
    members = module[owner.__name__].members
    return {name: one.docstring.value for name, one in members.items() if one.is_attribute and one.docstring}


@cache
def presets_table() -> str:
    """Return a table of the presets: what the settings say that a reader chooses by."""
    lines = ["| preset | family | clips | condition | batch | length | flags that differ from the defaults |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for name, run in PRESETS.items():
        model, training = run.model, run.training
        clips = f"{model.frames} frames of {model.height}x{model.width}"
        length = f"{training.steps:,} steps" if training.steps else f"{training.epochs} epochs"
        condition = ", ".join(model.condition) or "none"
        cells = [f"`{name}`", model.family, clips, condition, str(training.batch_size), length, _differences(run)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_SHOWN_APART = {"family", "frames", "height", "width", "condition", "batch_size", "steps", "epochs"}


def _differences(run: RunConfig) -> str:
    found = []
    for part, plain in (
        (run.model, RunConfig().model),
        (run.data, RunConfig().data),
        (run.training, RunConfig().training),
    ):
        for field in type(part).model_fields:
            value = getattr(part, field)
            if value != getattr(plain, field) and field not in _SHOWN_APART:
                found.append(_as_flag(field, value))
    return ", ".join(f"`{flag}`" for flag in found)


def _as_flag(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


@cache
def python_pages() -> dict[str, tuple[str, str]]:
    """Return the title and the text of the page of each Python module, by its path in the site."""
    return {f"reference/python/{name}.md": (name, _python_page(name)) for name in PYTHON}


def _python_page(module: str) -> str:
    found = _module(module)
    lines = [f"# {module}", "", found.docstring.value if found.docstring else "", ""]
    for name in public_names(module):
        lines += [f"::: {place_of(module, name)}", ""]
    return "\n".join(lines)


def place_of(module: str, name: str) -> str:
    """Return the dotted name by which griffe finds a public object.

    `fastvgan_kernels.norm_act` is the function for Python and the folder of the same name for griffe.

    Args:
        module: one of PYTHON.
        name: one of its public names.
    """
    beside = _file(module).parent
    is_hidden = (beside / name).is_dir() or (beside / f"{name}.py").is_file()
    return f"{module}.{name}.{name}" if is_hidden and _file(module).name == "__init__.py" else f"{module}.{name}"


def public_names(module: str) -> list[str]:
    """Return the public objects of a module: those of `__all__`, or the functions and classes that it defines."""
    found = _module(module)
    listed = next((node.value for node in _tree(module).body if _assigns_all(node)), None)
    if listed is not None:
        return sorted(ast.literal_eval(listed), key=str.lower)
    return [
        name
        for name, one in found.members.items()
        if not name.startswith("_") and not one.is_alias and (one.is_function or one.is_class)
    ]


def _assigns_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _file(module: str) -> Path:
    package, *parts = module.split(".")
    path = PACKAGES[package].joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _module(module: str) -> griffe.Module:
    path = _file(module)
    return griffe.visit(module, filepath=path, code=path.read_text(encoding="utf-8"))


def copy_packages(folder: Path) -> None:
    """Copy the sources of both packages to a folder in which griffe, which mkdocstrings reads them by, finds them all.

    griffe finds neither folders without an __init__.py below a package, nor fastvgan_kernels in a folder kernels/.

    Args:
        folder: an empty folder.
    """
    for package, source in PACKAGES.items():
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(source, folder / package, ignore=ignored)
        for inner in _folders(folder / package):
            (inner / "__init__.py").touch()


def _folders(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (inner for inner in folder.rglob("*") if inner.is_dir())
