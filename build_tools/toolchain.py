"""Tools that the extension is built with: the installed torch, a C++ compiler, nvcc."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TORCH_FLOOR = (2, 11)
# The extension uses the stable ABI of the oldest supported torch, so that a build with a newer one runs with it too.
TORCH_TARGET_VERSION = "0x020b000000000000"
CUDA_ARCHS = ("80", "90", "100")


class NotBuildable(Exception):
    """The reason why the extension cannot be built, in one sentence."""


@dataclass(frozen=True)
class Torch:
    """An installed torch; `cuda` is the version of CUDA that it was built with."""

    folder: Path
    version: str
    cuda: str | None

    @property
    def include(self) -> Path:
        """The folder of the headers."""
        return self.folder / "include"

    @property
    def lib(self) -> Path:
        """The folder of the libraries."""
        return self.folder / "lib"


@dataclass(frozen=True)
class Nvcc:
    """CUDA's compiler: its command, its toolkit's folder, and its version, such as "13.0"."""

    path: str
    toolkit: Path
    version: str

    @property
    def major(self) -> int:
        """The first number of the version."""
        return int(self.version.split(".")[0])

    def static_runtime(self) -> Path:
        """Return the path of this toolkit's libcudart_static.a.

        Raises:
            NotBuildable: the toolkit has no such file.
        """
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            candidate = self.toolkit / folder / "libcudart_static.a"
            if candidate.is_file():
                return candidate
        raise NotBuildable(f"the CUDA toolkit {self.version} has no libcudart_static.a")


# Reads version.py, because importing torch takes seconds.
_DESCRIBE_TORCH = """
import importlib.util, json, os, runpy
spec = importlib.util.find_spec("torch")
if spec is not None and spec.origin is not None:
    folder = os.path.dirname(spec.origin)
    version = runpy.run_path(os.path.join(folder, "version.py"))
    print(json.dumps([folder, str(version["__version__"]), version.get("cuda")]))
"""


@cache
def find_torch() -> Torch | None:
    """Return this interpreter's torch, or None.

    pip's isolated build hides the installed packages by PYTHONPATH; the same interpreter finds them without it.
    """
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONSAFEPATH")
    environments = [os.environ, {name: value for name, value in os.environ.items() if name not in hidden}]
    for environment in environments:
        # With -c the working directory is first in sys.path; this folder contains no torch.
        result = subprocess.run(
            [sys.executable, "-c", _DESCRIBE_TORCH],
            env=dict(environment),
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
        if result.returncode == 0 and result.stdout.strip():
            folder, version, cuda = json.loads(result.stdout.splitlines()[-1])
            return Torch(Path(folder), version, cuda)
    return None


def usable_torch() -> Torch | None:
    """Return the installed torch if the extension can be built against it, else None."""
    torch = find_torch()
    return torch if torch is not None and _version(torch.version) >= TORCH_FLOOR else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: $CXX, else the one that Python was built with, else c++, g++ or clang++.

    Raises:
        NotBuildable: no C++ compiler was found.
    """
    if os.environ.get("CXX"):
        candidates = [os.environ["CXX"]]
    else:
        candidates = [sysconfig.get_config_var("CXX") or "c++", "c++", "g++", "clang++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise NotBuildable(f"no C++ compiler ('{candidates[0]}' was not found); install one or set CXX")


@cache
def find_nvcc() -> Nvcc | None:
    """Return the nvcc of CUDA_HOME or CUDA_PATH, of PATH, or of this interpreter's PyPI packages, or None."""
    for candidate in _nvcc_candidates():
        found = _describe_nvcc(candidate)
        if found is not None:
            return found
    return None


def _nvcc_candidates() -> Iterator[str]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield str(Path(os.environ[variable]) / "bin" / "nvcc")
    on_path = shutil.which("nvcc")
    if on_path is not None:
        yield on_path
    torch = find_torch()
    packages = [sysconfig.get_paths()["purelib"], *([str(torch.folder.parent)] if torch else [])]
    for folder in packages:
        yield from sorted(str(path) for path in Path(folder).glob("nvidia/cu*/bin/nvcc"))


def _describe_nvcc(path: str) -> Nvcc | None:
    try:
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        # nvcc may be a link or a script in another folder, so ask it for its toolkit.
        dry = subprocess.run([path, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return None
    number, top = re.search(r"release (\d+\.\d+)", version), re.search(r"^#\$ TOP=(.*)$", dry, re.MULTILINE)
    if number is None or top is None:
        return None
    return Nvcc(path, Path(top.group(1).strip()).resolve(), number.group(1))


def cuda_archs(nvcc: Nvcc) -> list[str]:
    """Return nvcc's -gencode options, for TORCH_CUDA_ARCH_LIST ("8.0;9.0+PTX") or those of CUDA_ARCHS it knows."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if listed:
        entries = [entry for entry in re.split(r"[;,\s]+", listed) if entry]
        pairs = [(entry.removesuffix("+PTX").replace(".", ""), entry.endswith("+PTX")) for entry in entries]
    else:
        known = subprocess.run([nvcc.path, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
        ours = [arch for arch in CUDA_ARCHS if f"compute_{arch}" in known]
        pairs = [(arch, arch == ours[-1]) for arch in ours]
    options = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch, _ in pairs]
    return options + [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch, ptx in pairs if ptx]


def arch_names(options: list[str]) -> str:
    """Return the architectures of nvcc's -gencode options, such as "sm_80 sm_90 compute_90"."""
    return " ".join(option.rpartition("code=")[2] for option in options)


def nvcc_command(nvcc: Nvcc, torch_include: Path, archs: list[str], source: Path, target: Path) -> list[str]:
    """Return the command that compiles one .cu file, without -std: nvcc's default suits the torch of its time."""
    host = ["-ccbin", shlex.split(os.environ["CXX"])[0]] if os.environ.get("CXX") else []
    return [
        *[nvcc.path, "-c", str(source), "-o", str(target), "-O3", "-DUSE_CUDA", *host],
        *[f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-I{torch_include}"],
        *["-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads=0", *archs],
    ]


def pybind11() -> tuple[str, str]:
    """Return the folder of pybind11's headers, and its version.

    Raises:
        NotBuildable: pybind11 or Python's own headers are not installed.
    """
    if importlib.util.find_spec("pybind11") is None:
        raise NotBuildable("pybind11 is not installed")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise NotBuildable("Python's headers (Python.h) are not installed")
    import pybind11

    return pybind11.get_include(), pybind11.__version__
