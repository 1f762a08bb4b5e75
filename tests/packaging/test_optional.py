"""Without what is optional every test module is imported, and the tests that need it are skipped with a reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Python imports a module of this name when it starts.
HIDE = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if (name + ".").startswith(("triton.", "nvidia.dali.")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def pytest_without(tmp_path):
    """Run pytest without Triton, DALI and the extension; return its output, after checking that no test failed."""
    (tmp_path / "sitecustomize.py").write_text(HIDE, encoding="utf-8")

    def run(*arguments):
        hidden = {"PYTHONPATH": str(tmp_path), "FASTVGAN_DISABLE_EXTENSION": "1", "PYTEST_ADDOPTS": ""}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(command, cwd=ROOT, env=inherited | hidden, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    return run


@pytest.mark.slow
def test_every_test_module_and_benchmark_is_imported_in_one_call(pytest_without):
    collected = pytest_without("--collect-only", "tests", "bench")
    modules = {line.partition("::")[0] for line in collected.splitlines() if "::" in line}
    assert {"tests/kernels/test_norm_act.py", "bench/test_norm_act.py"} <= modules
    missing = {
        path.relative_to(ROOT).as_posix() for part in ("tests", "bench") for path in (ROOT / part).rglob("test_*.py")
    }
    for name in missing - modules:
        assert f"{name}:" in collected  # a module that is skipped as a whole, with its line and reason


def test_skips_name_what_is_missing(pytest_without):
    text = pytest_without(
        "tests/kernels/test_logistic.py", "tests/kernels/test_tuning.py", "tests/csrc/test_conv_lstm_compiled.py",
        "tests/data/test_dali.py", "-k", "not reference",
    )  # fmt: skip
    for reason in ("Triton is not installed", "DALI is not installed", "FASTVGAN_DISABLE_EXTENSION=1 is set"):
        assert reason in text
