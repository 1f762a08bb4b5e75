"""An interpreter that finds only what the plain install brings, computed from pyproject.toml."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def plain_distributions() -> dict[str, metadata.Distribution]:
    """The distributions that `pip install .` brings, by name, of those that are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, metadata.Distribution] = {}
    waiting = list(_that_apply(project["dependencies"], [""]))
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found:
            found[name] = metadata.distribution(name)
            waiting += _that_apply(found[name].requires or (), ["", *requirement.extras])
    return found


def _that_apply(requirements: list[str], extras: list[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


class PlainPython:
    """Runs this Python with the plain install's distributions, linked into a folder, and this checkout."""

    def __init__(self, folder: Path):
        for distribution in plain_distributions().values():
            for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                link = folder / name
                if not link.exists():
                    link.symlink_to(Path(str(distribution.locate_file(name))))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        self._environment = {**kept, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def __call__(self, *arguments: str, status: int = 0, cwd: Path = ROOT) -> str:
        """Run Python with these arguments, check its exit status, and return stdout and stderr together."""
        done = subprocess.run(
            [sys.executable, "-S", *arguments],  # without site-packages
            cwd=cwd,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stdout[-5000:]
        return done.stdout
