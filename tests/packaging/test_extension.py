"""Which compiled extension is loaded, and the message when it is missing."""

import importlib.machinery
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastvgan
from fastvgan_kernels import extension

ROOT = Path(__file__).resolve().parents[2]


def python(code, cwd, *options, **environment):
    command = [sys.executable, *options, "-c", code]
    inherited = {name: value for name, value in os.environ.items() if name != extension.DISABLE}
    return subprocess.run(command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True)


def fake_checkout(folder, info):
    """A checkout of our Python files with that _build_info.json and an extension that cannot be loaded."""
    for package in ("fastvgan", "kernels"):
        (folder / package).mkdir()
    (folder / "pyproject.toml").touch()
    (folder / "fastvgan" / "__init__.py").write_text((ROOT / "fastvgan/__init__.py").read_text())
    (folder / "kernels" / "__init__.py").touch()
    (folder / "kernels" / "extension.py").write_text((ROOT / "kernels/extension.py").read_text())
    (folder / "kernels" / "_build_info.json").write_text(json.dumps(info))
    (folder / "kernels" / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")


REASON = "import fastvgan; from fastvgan_kernels import extension; print(extension.load(), extension.reason())"


def test_disabled_by_environment():
    run = python(REASON, ROOT, FASTVGAN_DISABLE_EXTENSION="1")
    assert run.stdout.strip() == "None FASTVGAN_DISABLE_EXTENSION=1 is set", run.stderr


def test_another_api_version_is_refused_without_loading(tmp_path):
    fake_checkout(tmp_path, {"built": True, "api_version": extension.API_VERSION + 1})
    # -S hides installed packages; torch is not imported.
    run = python(REASON, tmp_path, "-S")
    expected = (
        f"None the extension was built as v{extension.API_VERSION + 1}, these sources need v{extension.API_VERSION}"
    )
    assert run.stdout.startswith(expected) and "reinstall" in run.stdout, run.stdout + run.stderr


def test_a_broken_file_is_a_reason_not_a_crash(tmp_path):
    fake_checkout(tmp_path, {"built": True, "api_version": extension.API_VERSION})
    run = python(REASON, tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("None the extension cannot be loaded:"), run.stdout


def test_importing_fastvgan_is_light():
    code = (
        "import sys, fastvgan; print(fastvgan.__version__, 'torch' in sys.modules, 'fastvgan_kernels' in sys.modules)"
    )
    run = python(code, Path(fastvgan.__file__).parents[1])
    assert run.stdout.split() == [fastvgan.__version__, "False", "False"], run.stderr


@pytest.mark.extension
def test_one_file_is_loaded_from_everywhere(tmp_path):
    """From the checkout's root, where fastvgan/ is found in place, and from elsewhere, as installed or bound."""
    code = "import fastvgan; from fastvgan_kernels import extension; print(extension.facts()['file'])"
    here = python(code, ROOT)
    assert here.returncode == 0, here.stderr
    assert here.stdout.strip() == extension.load().__file__
    there = python(code, tmp_path)
    if there.returncode == 0:  # installed, and not only put on the path of this process
        assert there.stdout.strip() == here.stdout.strip()
    loaded = [name for name in sys.modules if name.endswith("._C") and "fastvgan" in name]
    assert loaded == ["fastvgan_kernels._C"]


@pytest.mark.extension
def test_facts():
    facts = extension.facts()
    assert facts["api_version"] == extension.API_VERSION and extension.reason() is None
    assert facts["cpu_instruction_set"] in facts["cpu_instruction_sets"]
    assert facts["cpu_instruction_sets"][-1] == "portable"
    assert facts["torch"] and facts["compiler"]
    assert bool(facts["cuda"]) == bool(facts["cuda_archs"]) == (facts["no_cuda"] is None)
