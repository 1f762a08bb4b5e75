"""Build of the compiled operations (csrc/) with the package; the rest of the build is in pyproject.toml.

If the compiled part cannot be built, the pure-Python package is installed, and _build_info.json records the reason,
which kernels/extension.py reports. Environment variables:

FASTVGAN_REQUIRE_EXTENSION=1   fail if the extension cannot be built
FASTVGAN_BUILD_EXTENSION=0     do not build the extension
FASTVGAN_BUILD_CUDA=0|1|auto   build without the CUDA part, with it, or (auto) with it if torch has CUDA and nvcc exists
TORCH_CUDA_ARCH_LIST           GPU architectures, instead of sm_80, sm_90 and sm_100
FASTVGAN_DEBUG=1               keep symbols, for debuggers, profilers and sanitizers
CXX, CXXFLAGS, LDFLAGS         as usual
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_tools"))

import toolchain  # noqa: E402
from objects import make_object  # noqa: E402
from toolchain import NotBuildable  # noqa: E402

SOURCES = sorted([*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/cpu/*.cpp")])
CUDA_SOURCES = sorted(ROOT.glob("csrc/cuda/*.cu"))

# Flags for source files with these suffixes. The extension chooses one of them by the processor at run time.
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
_AVX512BF16 = [*_AVX512, "-mavx512bf16"]
INSTRUCTION_SETS = {
    "_avx2": _AVX2,
    "_avx512": _AVX512,
    "_avx512bf16": _AVX512BF16,
    "_amx": [*_AVX512BF16, "-mamx-tile", "-mamx-bf16"],
}


class BuildPython(build_py):
    """Clears build/ before it copies the modules: a module removed since the last build would be installed again."""

    def run(self) -> None:
        if not self.editable_mode:
            for package in ("fastvgan", "fastvgan_kernels"):
                shutil.rmtree(Path(self.build_lib) / package, ignore_errors=True)
        super().run()


class BuildExtension(build_ext):
    """Compiles csrc/ if possible, and records the result or the reason for a failure in _build_info.json."""

    def run(self) -> None:
        extension = self.extensions[0]
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # The result of an earlier build may be for another torch.
        target.unlink(missing_ok=True)
        required = os.environ.get("FASTVGAN_REQUIRE_EXTENSION") == "1"
        info: dict[str, object] = {"built": False, "api_version": _api_version()}
        try:
            info.update(self._build(target), built=True)
        except Exception as error:
            if required:
                raise
            info["reason"] = str(error) if isinstance(error, NotBuildable) else f"{type(error).__name__}: {error}"
            print(f"fastvgan: installing without the compiled extension: {info['reason']}", file=sys.stderr)
        (target.parent / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n")

    def _build(self, target: Path) -> dict[str, object]:
        if os.environ.get("FASTVGAN_BUILD_EXTENSION") == "0":
            raise NotBuildable("FASTVGAN_BUILD_EXTENSION=0 was set during installation")
        if sys.platform == "win32":
            raise NotBuildable("the extension supports Linux and macOS only")
        torch = toolchain.usable_torch()
        if torch is None:
            floor = ".".join(map(str, toolchain.TORCH_FLOOR))
            raise NotBuildable(f"torch {floor} or newer was not installed; install it and reinstall fastvgan")
        if not (torch.include / "torch/csrc/stable/library.h").is_file():
            raise NotBuildable(f"the installed torch {torch.version} lacks its C++ headers")
        compiler = toolchain.find_compiler()
        pybind11 = toolchain.pybind11()  # fails before anything is compiled
        includes = [str(torch.include), sysconfig.get_paths()["include"]]
        temporary = Path(self.build_temp).resolve()
        temporary.mkdir(parents=True, exist_ok=True)
        cuda = _CudaPart(torch, temporary)
        macros = [
            f"-DTORCH_TARGET_VERSION={toolchain.TORCH_TARGET_VERSION}",
            _macro("TORCH_VERSION", torch.version),
        ]
        flags = [*macros, *cuda.macros, *(f"-I{folder}" for folder in includes)]
        compilation = _Compilation(compiler, flags, pybind11, temporary)
        with ThreadPoolExecutor(_jobs()) as pool:
            objects = list(pool.map(compilation.compile, SOURCES))
        _link(compiler, [*objects, *cuda.objects], [*cuda.link, f"-L{torch.lib}", "-ltorch_cpu"], target)
        return {"torch": torch.version, "cuda": cuda.version, "cuda_archs": cuda.archs, "no_cuda": cuda.reason}


class _CudaPart:
    """Objects, macros and libraries of the compiled .cu files, or the reason for building without them."""

    def __init__(self, torch: toolchain.Torch, temporary: Path):
        self.objects: list[Path] = []
        self.macros: list[str] = []
        self.link: list[str] = []
        self.version: str | None = None
        self.archs: str | None = None
        mode = os.environ.get("FASTVGAN_BUILD_CUDA", "auto")
        if mode not in ("0", "1", "auto"):
            raise NotBuildable(f"FASTVGAN_BUILD_CUDA must be 0, 1 or auto, not {mode!r}")
        forced = mode == "1" or os.environ.get("FASTVGAN_REQUIRE_EXTENSION") == "1"
        self.reason = "FASTVGAN_BUILD_CUDA=0 was set during installation" if mode == "0" else None
        if mode == "auto":
            self.reason = _reason_without_cuda(torch)
        if self.reason is not None:
            return
        try:
            self._build(torch, temporary)
        except NotBuildable as error:
            if forced:
                raise
            self.objects, self.macros, self.link, self.version, self.archs = [], [], [], None, None
            self.reason = str(error)

    def _build(self, torch: toolchain.Torch, temporary: Path) -> None:
        nvcc = toolchain.find_nvcc()
        if nvcc is None:
            raise NotBuildable("nvcc was not found, which FASTVGAN_BUILD_CUDA=1 needs: set CUDA_HOME or PATH")
        options = toolchain.cuda_archs(nvcc)
        self.link = [str(nvcc.static_runtime()), "-ldl", "-lrt", "-lpthread"]
        for source in CUDA_SOURCES:
            target = temporary / f"{source.stem}.cu.o"
            command = toolchain.nvcc_command(nvcc, torch.include, options, source, target)
            make = partial(_run_compiler, command, source)
            make_object(target, source, [[nvcc.path], toolchain.find_compiler()], [*command, torch.version], make)
            self.objects.append(target)
        self.version, self.archs = nvcc.version, toolchain.arch_names(options)
        self.macros = [
            "-DFASTVGAN_WITH_CUDA",
            _macro("CUDA_VERSION", self.version),
            _macro("CUDA_ARCHS", self.archs),
        ]


def _reason_without_cuda(torch: toolchain.Torch) -> str | None:
    if torch.cuda is None:
        return f"torch {torch.version} was built without CUDA"
    nvcc = toolchain.find_nvcc()
    if nvcc is None:
        return "nvcc was not found"
    if nvcc.major > int(torch.cuda.split(".")[0]):
        # A driver that supports torch's CUDA may not support a newer one.
        return f"nvcc {nvcc.version} is newer than torch's CUDA {torch.cuda}; FASTVGAN_BUILD_CUDA=1 builds anyway"
    return None


class _Compilation:
    """How the .cpp files are compiled.

    Args:
        compiler: the compiler's command.
        flags: macros and folders of headers.
        pybind11: the folder of its headers, and its version.
        temporary: the folder of the objects.
    """

    def __init__(self, compiler: list[str], flags: list[str], pybind11: tuple[str, str], temporary: Path):
        user = shlex.split(os.environ.get("CPPFLAGS", "")) + shlex.split(os.environ.get("CXXFLAGS", ""))
        debug = ["-g", "-fno-omit-frame-pointer"] if _debug() else []
        options = ["-O3", *debug, "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
        self._compiler, self._options = compiler, [*options, *flags, *user]
        # Before the other folders: older versions of torch bundle a pybind11 that conflicts with the stable ABI. pip's
        # isolated build has it in another folder each time.
        self._pybind11, version = pybind11
        self._facts = [*self._options, version, platform.machine()]
        self._temporary = temporary

    def compile(self, source: Path) -> Path:
        """Compile one file unless an earlier build did, and return its object."""
        target = self._temporary / f"{source.parent.name}-{source.stem}.o"
        special = next((options for suffix, options in INSTRUCTION_SETS.items() if source.stem.endswith(suffix)), [])
        if platform.machine().lower() not in ("x86_64", "amd64"):
            special = []
        make = partial(self._try_standards, source, target, special)
        make_object(target, source, [self._compiler], [*self._facts, *special], make)
        return target

    def _try_standards(self, source: Path, target: Path, special: list[str]) -> None:
        # The compiler's default C++ standard first, because a newer torch may need a newer one than C++20. The last
        # attempt is for a compiler that does not support the instruction set; the file then compiles to nothing.
        attempts = [special, [*special, "-std=c++20"], *([[]] if special else [])]
        errors = []
        for attempt in attempts:
            flags = [f"-I{self._pybind11}", *self._options, *attempt]
            try:
                return _run_compiler([*self._compiler, *flags, "-c", str(source), "-o", str(target)], source)
            except NotBuildable as error:
                errors.append(error)
        raise errors[0]


def _run_compiler(command: list[str], source: Path) -> None:
    _run(command, f"{source.name} does not compile")


def _link(compiler: list[str], objects: list[Path], libraries: list[str], target: Path) -> None:
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    if sys.platform != "darwin" and not _debug():
        shared.append("-Wl,-s")
    user = shlex.split(os.environ.get("LDFLAGS", ""))
    _run([*compiler, *shared, *map(str, objects), *libraries, *user, "-o", str(target)], "the extension does not link")


def _run(command: list[str], complaint: str) -> None:
    print(shlex.join(command), flush=True)
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    output = result.stdout + result.stderr
    if result.returncode != 0:
        print(output, file=sys.stderr)
        lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()[-1:] or [""]
        raise NotBuildable(f"{complaint}: {lines[0].strip()[:300]}")


def _macro(name: str, value: str) -> str:
    return f'-DFASTVGAN_{name}="{value}"'


def _debug() -> bool:
    return os.environ.get("FASTVGAN_DEBUG") == "1"


def _jobs() -> int:
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def _api_version() -> int:
    text = (ROOT / "csrc/extension.cpp").read_text()
    found = re.search(r"define FASTVGAN_API_VERSION (\d+)", text)
    assert found is not None
    return int(found.group(1))


def _packages() -> list[str]:
    # generation/shipped/ holds data only, beside the module of that name.
    no_packages = ["*__pycache__*", "fastvgan.generation.shipped"]
    ours = find_namespace_packages(str(ROOT), include=["fastvgan", "fastvgan.*"], exclude=no_packages)
    kernels = find_namespace_packages(str(ROOT / "kernels"), exclude=["*__pycache__*"])
    return [*ours, "fastvgan_kernels", *(f"fastvgan_kernels.{name}" for name in kernels)]


setup(
    packages=_packages(),
    ext_modules=[Extension("fastvgan_kernels._C", [str(path.relative_to(ROOT)) for path in [*SOURCES, *CUDA_SOURCES]])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildExtension},
)
