"""Run every block of README.md and docs/ in order, as a newcomer does.

    python tests/docs/newcomer.py                        # shortened, with this Python's packages
    python tests/docs/newcomer.py --full                 # as written, on a fresh machine
    python tests/docs/newcomer.py README.md --full       # some pages

Every block of `sh`, `bash` and `python` runs. Other blocks (`text`, `yaml`, …) show something; a block without a
language is an error. Two comments, each in the line before a block, change this:

    <!-- not run: needs two GPUs -->            skips the block, for a reason that contains one of REASONS
    <!-- in a folder with: my-clips zips -->    starts in a new folder, with what given.py makes by these names

Otherwise the blocks of a page run in one folder, empty at first. Shell blocks stop at the first command that fails, and
the folder and the exported variables last from one to the next; the Python blocks of a page share their names.

With --full, each folder is a clone of this repository, and everything runs as written in one fresh virtual environment.
Without it, stand_in.py shortens what takes long: it appends flags to commands, and installs nothing. In Python blocks
`steps = 500` and `steps=500` become 2.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from warm_process import serve  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REASONS = (
    "GPU",
    "torchrun",
    "cluster",
    "network",
    "until it is stopped",
    "compiles",
    "takes half a minute",
    "takes minutes",
)
LANGUAGES = {"sh": "sh", "bash": "sh", "python": "python"}
SHOWN = {"text", "yaml", "json", "jsonl", "csv", "html", "toml", "dockerfile"}
STEPS = 2
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (not run|in a folder with): (.*?) -->\s*$")
_LONGEST = 300  # seconds of a shortened block


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        page: its file.
        line: of its first line.
        language: as written.
        text: its lines.
        not_run: the reason to skip it, or an empty text.
        given: names of what its new folder holds; None if it runs in the folder of the block before.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    given: tuple[str, ...] | None = None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Failed(Exception):
    """A block that fails; the message has its place and its output."""


def pages() -> list[Path]:
    """Return the pages whose blocks run."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order.

    Raises:
        ValueError: a block has no language or an unknown one, or a comment before it is not understood.
    """
    text, blocks = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        line = text.count("\n", 0, match.start()) + 2
        body = "".join(part.removeprefix(indent) for part in body.splitlines(keepends=True))
        before = text[: match.start()].rstrip().rpartition("\n")[2]
        found = _COMMENT.search(before)
        reason = found[2] if found and found[1] == "not run" else ""
        given = tuple(found[2].split()) if found and found[1] != "not run" else None
        block = Block(page, line, language, body, reason, given)
        if language not in LANGUAGES and language not in SHOWN:
            raise ValueError(
                f"{block.place}: a block of {language or 'no language'}; use {', '.join((*LANGUAGES, *sorted(SHOWN)))}"
            )
        if before.startswith("<!--") and found is None and not before.startswith("<!-- generated"):
            raise ValueError(f"{block.place}: {before} is not understood")
        if found and found[1] == "not run" and not any(word in reason for word in REASONS):
            raise ValueError(
                f"{block.place}: {reason!r} is no reason to skip a block; it names one of {', '.join(REASONS)}"
            )
        blocks.append(block)
    return blocks


def shorten_python(text: str) -> str:
    """Return a Python block with few steps."""
    return re.sub(r"\bsteps( ?)=( ?)\d[\d_]*\b", rf"steps\g<1>=\g<2>{STEPS}", text)


class Machine:
    """Where blocks run: folders, environment variables, and the processes that stay."""

    def __init__(self, scratch: Path, environment: dict[str, str], is_full: bool):
        self.scratch, self.is_full = scratch, is_full
        self.environment = environment
        self._folders = 0
        self._python: subprocess.Popen | None = None

    def open_page(self) -> None:
        """Begin a page: a new folder, and a new Python."""
        self.close_page()
        self.variables = dict(self.environment)
        self.open_folder(())

    def open_folder(self, given: tuple[str, ...]) -> None:
        """Begin in a new folder that holds the given things."""
        self.close_page()
        self._folders += 1
        self.folder = self.scratch / f"folder-{self._folders}"
        if self.is_full:
            subprocess.run(["git", "clone", "-q", str(ROOT), str(self.folder)], check=True)
        else:
            self.folder.mkdir()
        if given:
            self._run([self._which("python"), str(HERE / "given.py"), *given])

    def run(self, block: Block) -> None:
        """Run a block.

        Raises:
            Failed: it did not end with status 0.
        """
        if block.given is not None:
            self.open_folder(block.given)
        if LANGUAGES[block.language] == "python":
            self._run_python(block)
        else:
            self._run_shell(block)

    def close_page(self) -> None:
        """End the page's Python."""
        if self._python is not None:
            assert self._python.stdin is not None
            self._python.stdin.close()
            self._python.wait()
            self._python = None

    def _run_shell(self, block: Block) -> None:
        state = self.scratch / "state"
        # At the end by a trap, so that a last line like `cmp a b && echo same` can fail.
        script = (
            f"set -euo pipefail\ntrap 'status=$?; pwd > {state}; env -0 >> {state}; exit $status' EXIT\n{block.text}"
        )
        done = self._run(["bash", "-c", script])
        if done.returncode:
            raise Failed(f"{block.place} ended with status {done.returncode}:\n{block.text}\n{done.stdout[-4000:]}")
        folder, _, variables = state.read_text(encoding="utf-8").partition("\n")
        self.folder = Path(folder)
        self.variables = dict(item.split("=", 1) for item in variables.split("\0") if "=" in item)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess:
        limit = None if self.is_full else _LONGEST
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, cwd=self.folder, env=self.variables, timeout=limit, **options)

    def _run_python(self, block: Block) -> None:
        if self._python is None:
            command = [self._which("python"), str(HERE / "block_runner.py")]
            pipe = subprocess.PIPE
            self._python = subprocess.Popen(
                command, cwd=self.folder, env=self.variables, stdin=pipe, stdout=pipe, text=True
            )
        assert self._python.stdin is not None and self._python.stdout is not None
        text = block.text if self.is_full else shorten_python(block.text)
        self._python.stdin.write(json.dumps({"text": text, "place": block.place, "line": block.line}) + "\n")
        self._python.stdin.flush()
        answer = self._python.stdout.readline()
        failure = json.loads(answer)["failure"] if answer else f"Python ended with status {self._python.wait()}"
        if failure:
            raise Failed(f"{block.place}:\n{text}\n{failure}")

    def _which(self, name: str) -> str:
        found = shutil.which(name, path=self.variables["PATH"])
        assert found is not None, name
        return found


@contextmanager
def short_machine(scratch: Path) -> Iterator[Machine]:
    """A machine on which commands are stand-ins that shorten what takes long, and one process has imported torch."""
    tools = scratch / "bin"
    tools.mkdir()
    for name in ("fastvgan", "python", "python3", "pip", "pip3", "git", "pre-commit"):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{HERE / "stand_in.py"}" {name} "$@"\n')
        tool.chmod(0o755)
    socket = scratch / "socket"
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "NEWCOMER_SOCKET": str(socket),
        "NEWCOMER_STEPS": str(STEPS),
    }
    with serve(str(socket), environment, "--short"):
        machine = Machine(scratch, environment, is_full=False)
        yield machine
        machine.close_page()


@contextmanager
def full_machine(scratch: Path) -> Iterator[Machine]:
    """A machine with a fresh virtual environment, in which nothing is installed."""
    subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], check=True)
    hidden = {"PYTHONPATH", "PYTHONHOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {
        "PATH": f"{scratch / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(scratch / "venv"),
    }
    machine = Machine(scratch, environment, is_full=True)
    yield machine
    machine.close_page()


def run_page(machine: Machine, page: Path) -> None:
    """Run the blocks of a page in order.

    Raises:
        Failed: one of them fails.
    """
    machine.open_page()
    for block in read_blocks(page):
        if block.language in SHOWN or block.not_run:
            continue
        started = time.perf_counter()
        machine.run(block)
        print(f"{block.place}: {time.perf_counter() - started:.1f} s", flush=True)


def main() -> int:
    """Run the command; the exit status is 1 if a page fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="by default all of them")
    parser.add_argument("--full", action="store_true", help="as written, in a fresh virtual environment")
    given = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        with (full_machine if given.full else short_machine)(Path(scratch)) as machine:
            for page in [path.resolve() for path in given.pages] or pages():
                try:
                    run_page(machine, page)
                except Failed as failure:
                    print(f"FAILED {failure}", flush=True)
                    failed.append(page.name)
    print(f"failed: {', '.join(failed)}" if failed else "all blocks ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
