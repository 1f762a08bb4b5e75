"""The source distribution holds the repository's files, so that its tests run where there is no repository."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".github/", ".gitignore", "build_tools/search_path/")  # the last is a link, for the type checker

pytest.importorskip("setuptools")
pytest.importorskip("pybind11")


def run(*command, cwd, **environment):
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked_files():
    """The files that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]


def test_source_distribution_holds_every_tracked_file(tracked_files, tmp_path):
    copy = tmp_path / "copy"
    for name in tracked_files:
        if (ROOT / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    code = f"import backend; print(backend.build_sdist({str(tmp_path)!r}))"
    run(sys.executable, "-c", code, cwd=copy, PYTHONPATH=str(copy / "build_tools"))
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in tracked_files if (ROOT / name).exists() and not name.startswith(LEFT_OUT)}
    assert wanted and not wanted - held
    assert not [name for name in held if name.endswith((".so", ".pyc"))]
