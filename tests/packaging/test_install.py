"""What `pip install .` leaves behind where the extension can and cannot be built. No network: no build isolation."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fastvgan

ROOT = Path(__file__).resolve().parents[2]
BUILD_FILES = ["pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md"]
BUILD_FOLDERS = ["build_tools", "csrc", "kernels", "fastvgan"]

pytest.importorskip("setuptools")
pytest.importorskip("pybind11")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy to build in, so that the checkout's own build/ and kernels/ stay as they are."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in BUILD_FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.json")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def build_wheel(checkout, folder, **environment):
    for name in ("FASTVGAN_REQUIRE_EXTENSION", "FASTVGAN_BUILD_EXTENSION", "FASTVGAN_BUILD_CUDA", "CXX", "CXXFLAGS"):
        environment.setdefault(name, None)
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
        + ["--disable-pip-version-check", "-w", str(folder), "."],
        cwd=checkout,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
    )


def contents(folder):
    wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
    return wheel, wheel.namelist(), json.loads(wheel.read("fastvgan_kernels/_build_info.json"))


def test_no_compiler_gives_pure_python_that_says_why(checkout, tmp_path):
    result = build_wheel(checkout, tmp_path, CXX="no-such-compiler")
    assert result.returncode == 0, result.stdout + result.stderr
    wheel, names, info = contents(tmp_path)
    assert not any(name.endswith(".so") for name in names)
    assert info["built"] is False and "no C++ compiler" in info["reason"] and "no-such-compiler" in info["reason"]
    modules = {f"fastvgan_kernels/{path.relative_to(ROOT / 'kernels')}" for path in (ROOT / "kernels").rglob("*.py")}
    ours = [path for path in (ROOT / "fastvgan").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    modules |= {str(path.relative_to(ROOT)) for path in ours} | {"fastvgan_kernels/py.typed"}
    assert modules <= set(names)
    site = tmp_path / "site"
    wheel.extractall(site)
    code = "from fastvgan_kernels import extension; print(extension.load(), extension.reason())"
    variables = {name: value for name, value in os.environ.items() if name != "FASTVGAN_DISABLE_EXTENSION"}
    # Whichever way this interpreter's own fastvgan is installed, the wheel's comes first.
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("None the extension is not built: no C++ compiler"), run.stdout


def test_a_compile_error_is_recorded(checkout, tmp_path):
    result = build_wheel(checkout, tmp_path, CXXFLAGS="--no-such-flag")
    assert result.returncode == 0, result.stdout + result.stderr
    _, names, info = contents(tmp_path)
    assert not any(name.endswith(".so") for name in names)
    assert "does not compile" in info["reason"] and "no-such-flag" in info["reason"]


def test_failure_can_be_made_fatal(checkout, tmp_path):
    result = build_wheel(checkout, tmp_path, CXX="no-such-compiler", FASTVGAN_REQUIRE_EXTENSION="1")
    assert result.returncode != 0
    assert "no C++ compiler" in result.stdout + result.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_extension_can_be_left_out(checkout, tmp_path):
    stale = checkout / "build" / "lib" / "fastvgan_kernels" / "gone.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    result = build_wheel(checkout, tmp_path, FASTVGAN_BUILD_EXTENSION="0", FASTVGAN_REQUIRE_EXTENSION=None)
    assert result.returncode == 0, result.stdout + result.stderr
    _, names, info = contents(tmp_path)
    assert "FASTVGAN_BUILD_EXTENSION=0" in info["reason"]
    assert not any(name.endswith((".so", "gone.py")) for name in names)


# Called as a compiler is, it compiles nothing, and writes which file it was given.
COMPILER = """#!/bin/sh
case " $* " in
*" -c "*)
    while [ "$1" != -c ]; do shift; done
    echo "${2##*/csrc/}" >> "$COMPILED"
    exec c++ -x c++ -fPIC -c /dev/null -o "$4" ;;
*) exec c++ "$@" ;;
esac
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_second_install_compiles_only_what_changed(checkout, tmp_path):
    compiler, log = tmp_path / "compiler", tmp_path / "compiled"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)

    def install(name, **environment):
        log.write_text("")
        environment |= {"CXX": str(compiler), "COMPILED": str(log)}
        environment |= {"FASTVGAN_REQUIRE_EXTENSION": "1", "FASTVGAN_BUILD_CUDA": "0"}
        result = build_wheel(checkout, tmp_path / name, **environment)
        assert result.returncode == 0, result.stdout + result.stderr
        _, names, info = contents(tmp_path / name)
        assert info["built"] and any(name.endswith(".so") for name in names)
        return sorted(log.read_text().split())

    sources = sorted(str(path.relative_to(checkout / "csrc")) for path in checkout.glob("csrc/**/*.cpp"))
    assert install("first") == sources
    with (checkout / "csrc" / "norm_act.cpp").open("a") as file:
        file.write("// changed\n")
    assert install("second") == ["norm_act.cpp"]
    assert install("third", CXXFLAGS="-g0") == sources


BACKEND = """
import json, sys
sys.path.insert(0, "build_tools")
import backend, toolchain
if sys.argv[1] == "without":
    backend.usable_torch = lambda: None
asked = [backend.get_requires_for_build_wheel(), backend.get_requires_for_build_editable()]
print("asked", json.dumps(asked))
"""


@pytest.mark.parametrize("torch, expected", [("with", []), ("without", ["torch>=2.11"])])
def test_isolated_build_asks_for_torch_only_where_there_is_none(checkout, torch, expected):
    # Like pip's isolated build: what is installed is not on the path of this process.
    script = checkout / f"ask_{torch}.py"
    script.write_text(BACKEND)
    environment = {name: value for name, value in os.environ.items() if name != "FASTVGAN_BUILD_EXTENSION"}
    result = subprocess.run(
        [sys.executable, str(script), torch], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.rpartition("asked")[2]) == [expected, expected]


def test_torch_is_found_behind_build_isolation(tmp_path):
    """pip sets PYTHONPATH to a folder whose sitecustomize hides what is installed."""
    hide = "import sys\nsys.path[:] = [folder for folder in sys.path if 'site-packages' not in folder]\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    tools = str(ROOT / "build_tools")
    code = f"import sys; sys.path.insert(0, {tools!r}); import toolchain; print(toolchain.find_torch())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert "Torch(folder=" in result.stdout, result.stdout + result.stderr


def test_requirements_are_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["test"]]
    # The marker after the semicolon selects systems, not versions.
    assert not [text for text in requirements if re.search(r"==|<|~=|!=", text.split(";")[0])]
    assert "torch>=2.11" in requirements
    assert not [text for text in project["build-system"]["requires"] if text.startswith("torch")]


def test_constraints_pin_what_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {re.split(r"[<>=\[; ]", text)[0].lower() for text in requirements} - {"fastvgan", "wandb"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert {line.split("==")[0].lower() for line in lines} >= names - {"setuptools"}


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fastvgan.__version__
    assert "dynamic" not in project  # uv could not match the torch that it builds with


def test_api_versions_agree():
    """The built one is checked when it is loaded; here the sources, which a stale build cannot hide."""
    source = (ROOT / "csrc/extension.cpp").read_text()
    python = (ROOT / "kernels/extension.py").read_text()
    built = re.search(r"define FASTVGAN_API_VERSION (\d+)", source).group(1)
    assert f"\nAPI_VERSION = {built}\n" in python
