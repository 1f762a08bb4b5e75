"""Finds what the extension is built with: the installed torch, a C++ compiler, nvcc."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TORCH_FLOOR = (2, 11)
# The stable ABI is that of the floor, so that what is built with a newer torch runs with an older one too.
TORCH_TARGET_VERSION = "0x020b000000000000"
CUDA_ARCHS = ("80", "90", "100")


class NotBuildable(Exception):
    """Why the extension cannot be built here, in one sentence."""


@dataclass(frozen=True)
class Torch:
    folder: Path
    version: str
    cuda: str | None

    @property
    def include(self) -> Path:
        return self.folder / "include"

    @property
    def lib(self) -> Path:
        return self.folder / "lib"


@dataclass(frozen=True)
class Nvcc:
    path: str
    toolkit: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def static_runtime(self) -> Path:
        """libcudart_static.a of this toolkit; NotBuildable where it has none."""
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            candidate = self.toolkit / folder / "libcudart_static.a"
            if candidate.is_file():
                return candidate
        raise NotBuildable(f"the CUDA toolkit {self.version} has no libcudart_static.a")


# Reads version.py instead of importing torch, which takes seconds.
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
    """The torch of this interpreter, or None.

    pip's isolated build hides the installed packages behind PYTHONPATH; the same interpreter without it sees them.
    """
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONSAFEPATH")
    environments = [os.environ, {name: value for name, value in os.environ.items() if name not in hidden}]
    for environment in environments:
        # In a folder of its own: with -c the working directory comes first in sys.path.
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
    """The installed torch if the extension can be built against it, else None."""
    torch = find_torch()
    return torch if torch is not None and _version(torch.version) >= TORCH_FLOOR else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def find_compiler() -> list[str]:
    """The C++ compiler's command: $CXX, else the one that Python was built with, else c++, g++ or clang++.

    Raises:
        NotBuildable: there is none.
    """
    if os.environ.get("CXX"):
        candidates = [os.environ["CXX"]]
    else:
        candidates = [sysconfig.get_config_var("CXX") or "c++", "c++", "g++", "clang++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise NotBuildable(f"no C++ compiler ({candidates[0]} is not there)")


@cache
def find_nvcc() -> Nvcc | None:
    """nvcc of CUDA_HOME or CUDA_PATH, of PATH, or of the PyPI packages of this interpreter."""
    for candidate in _nvcc_candidates():
        found = _describe_nvcc(candidate)
        if found is not None:
            return found
    return None


def _nvcc_candidates():
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield str(Path(os.environ[variable]) / "bin" / "nvcc")
    if shutil.which("nvcc"):
        yield shutil.which("nvcc")
    torch = find_torch()
    packages = [sysconfig.get_paths()["purelib"], *([str(torch.folder.parent)] if torch else [])]
    for folder in packages:
        yield from sorted(str(path) for path in Path(folder).glob("nvidia/cu*/bin/nvcc"))


def _describe_nvcc(path: str) -> Nvcc | None:
    try:
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        # nvcc may be a link or a script in some other folder; it knows its toolkit itself.
        dry = subprocess.run([path, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return None
    number, top = re.search(r"release (\d+\.\d+)", version), re.search(r"^#\$ TOP=(.*)$", dry, re.MULTILINE)
    if number is None or top is None:
        return None
    return Nvcc(path, Path(top.group(1).strip()).resolve(), number.group(1))


def cuda_archs(nvcc: Nvcc) -> list[str]:
    """nvcc's -gencode options: TORCH_CUDA_ARCH_LIST (such as "8.0;9.0+PTX"), else those of ours that nvcc knows."""
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
    """ "sm_80 sm_90 compute_90" of nvcc's -gencode options."""
    return " ".join(option.rpartition("code=")[2] for option in options)


def nvcc_command(nvcc: Nvcc, torch_include: Path, archs: list[str], source: Path, target: Path) -> list[str]:
    """The command that compiles one .cu file; no -std, because torch and nvcc know better which one they need."""
    host = ["-ccbin", shlex.split(os.environ["CXX"])[0]] if os.environ.get("CXX") else []
    return [
        *[nvcc.path, "-c", str(source), "-o", str(target), "-O3", "-DUSE_CUDA", *host],
        *[f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", f"-I{torch_include}"],
        *["-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads=0", *archs],
    ]


def pybind11_include() -> str:
    """The folder of pybind11's headers.

    Raises:
        NotBuildable: pybind11 or Python's own headers are not installed.
    """
    if importlib.util.find_spec("pybind11") is None:
        raise NotBuildable("pybind11 is not installed")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise NotBuildable("Python's headers (Python.h) are not installed")
    import pybind11

    return pybind11.get_include()
