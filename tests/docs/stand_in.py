"""Stands for the commands of a page when newcomer.py runs it shortened: `stand_in.py NAME ARGUMENTS…`.

- `pip …`, `python -m pip …`, `python -m pytest …` and `pre-commit …` do nothing: CI has installed, and runs the tests.
- `python -m venv FOLDER` makes a FOLDER/bin/activate that does nothing, and `git clone … FOLDER` an empty folder.
- Commands of fastvgan get the flags of SHORTER appended, of which the last one counts.
- Runs score fewer clips, and leave report.html empty.
- `python` and these commands run in a process that has imported torch already (command_server.py).
"""

import os
import socket
import struct
import sys

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
    return 0 if line is None else _ask(line)


def _ask(line: list[str]) -> int:
    """Let the server run Python with these arguments, with this process's files, folder and variables."""
    parts = [line, os.getcwd(), [f"{key}={value}" for key, value in os.environ.items()]]
    message = "\0\0".join(["\0".join(line), parts[1], "\0".join(parts[2])]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["NEWCOMER_SOCKET"])
        socket.send_fds(server, [struct.pack("I", len(message))], [0, 1, 2])
        server.sendall(message)
        status = server.recv(1)
    return status[0] if status else 139  # the process ended by a signal


if __name__ == "__main__":
    sys.exit(main())
