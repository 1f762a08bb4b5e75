"""Stands for the commands of a page when newcomer.py runs it shortened: `stand_in.py NAME ARGUMENTS…`.

- `pip …`, `python -m pip …`, `python -m pytest …` and `pre-commit …` do nothing: CI has installed, and runs the tests.
- `python -m venv FOLDER` makes a FOLDER/bin/activate that does nothing, and `git clone … FOLDER` an empty folder.
- Commands of fastvgan get the flags of SHORTER appended, of which the last one counts.
- Runs score fewer clips, and leave report.html empty.
- `python` and these commands run in a process that has imported torch already (../command_server.py).
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from warm_process import ask  # noqa: E402

STEPS = os.environ.get("NEWCOMER_STEPS", "2")
SHORTER = {
    "train": ["--steps", STEPS, "--batch-size", "8", "--base-width", "8", "--evaluate-clips", "16"],
    "evaluate": ["--clips", "16"],
    "bench/modes.py": ["--clips", "64"],
}
_ONLY_PRINTS = {"--help", "-h", "--print-config", "--version"}


def shortened(command: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command of fastvgan with those that shorten it.

    Args:
        command: "train", "generate", …
        arguments: as on the page.
    """
    if _ONLY_PRINTS & set(arguments):
        return arguments
    return arguments + SHORTER.get(command, [])


def line_of(name: str, arguments: list[str]) -> list[str] | None:
    """Return the arguments of the Python that takes a command's place, or None to do nothing.

    Args:
        name: of the command.
        arguments: as on the page.
    """
    if name in ("pip", "pip3", "pre-commit"):
        return None
    if name == "fastvgan":
        first, rest = arguments[:1], arguments[1:]
        return ["-m", "fastvgan", *first, *shortened("".join(first), rest)]
    if arguments[:1] != ["-m"]:
        return arguments + SHORTER.get(arguments[0], [])
    module, rest = arguments[1], arguments[2:]
    if module in ("pip", "pytest"):
        return None
    if module == "fastvgan":
        return line_of("fastvgan", rest)
    if module.startswith("fastvgan."):
        return ["-m", module, *shortened(module.removeprefix("fastvgan."), rest)]
    return arguments


def main() -> int:
    """Run the command and return its exit status."""
    name, *arguments = sys.argv[1:]
    if name == "git":
        os.makedirs(arguments[-1], exist_ok=True)
        return 0
    if name.startswith("python") and arguments[:2] == ["-m", "venv"]:
        os.makedirs(os.path.join(arguments[2], "bin"), exist_ok=True)
        open(os.path.join(arguments[2], "bin", "activate"), "w").close()
        return 0
    line = line_of(name, arguments)
    if line is None:
        return 0
    status = ask(os.environ["NEWCOMER_SOCKET"], line, os.getcwd(), os.environ)
    return status if status >= 0 else 128 - status  # as a shell says that a signal ended it


if __name__ == "__main__":
    sys.exit(main())
