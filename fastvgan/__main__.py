"""All commands as one: `fastvgan COMMAND`, or `python -m fastvgan COMMAND` where the package is not installed."""

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader
from pathlib import Path
from typing import NoReturn

from fastvgan import __version__

COMMANDS = ("train", "generate", "demo", "prepare", "evaluate", "report", "info")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the first argument names, and exit with its status.

    Args:
        arguments: the command's name and its own arguments; by default those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "python -m fastvgan" if arguments is None and Path(sys.argv[0]).name == "__main__.py" else "fastvgan"
    if not given or given[0] in ("-h", "--help"):
        print(describe(program))
        sys.exit(0)
    if given[0] == "--version":
        print(f"fastvgan {__version__}")
        sys.exit(0)
    # Imported late, so that the lines above answer at once.
    from fastvgan.command_line import run_command, spell_commands_by

    with spell_commands_by(program):
        run_command(lambda: _run(program, given[0], given[1:]))


def describe(program: str) -> str:
    """Return the help: each command with the first sentence about it."""
    width = max(map(len, (*COMMANDS, "--version")))
    return "\n".join(
        [
            f"usage: {program} COMMAND …",
            "",
            "Train video GANs, and make clips with them.",
            "",
            "commands:",
            *(f"  {name:{width}}  {_sentence(name)}" for name in COMMANDS),
            "",
            "options:",
            f"  {'--help':{width}}  Show this help; {program} COMMAND --help shows the flags of a command.",
            f"  {'--version':{width}}  Show the version.",
        ]
    )


def _run(program: str, name: str, arguments: list[str]) -> int | None:
    from fastvgan.errors import UserError

    if name not in COMMANDS:
        near = difflib.get_close_matches(name.lower(), COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown command {name!r}{hint}; {program} --help lists the commands")
    return importlib.import_module(f"fastvgan.{name}").main(arguments)


def _sentence(name: str) -> str:
    """Return the first sentence of the docstring of a command's flags, read from its source: imports take long."""
    spec = importlib.util.find_spec(f"fastvgan.{name}")
    assert spec is not None and isinstance(spec.loader, InspectLoader)
    tree = ast.parse(spec.loader.get_source(spec.name) or "")
    flags = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Arguments")
    text = " ".join((ast.get_docstring(flags) or "").split("\n\n")[0].split())
    return f"{text.partition('. ')[0].rstrip('.')}."


if __name__ == "__main__":
    main()
