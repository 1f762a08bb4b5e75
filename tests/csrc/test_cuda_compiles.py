"""csrc/cuda compiles for every architecture in CUDA_ARCHS without spilling registers. Needs no GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build_tools"))

import toolchain  # noqa: E402

SOURCES = sorted(ROOT.glob("csrc/cuda/*.cu"))
pytestmark = pytest.mark.skipif(toolchain.find_nvcc() is None, reason="no nvcc")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize("arch", toolchain.CUDA_ARCHS)
def test_compiles_without_spills(source, arch, tmp_path):
    nvcc, target = toolchain.find_nvcc(), tmp_path / "object.o"
    known = subprocess.run([nvcc.path, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    if f"compute_{arch}" not in known:
        pytest.skip(f"nvcc {nvcc.version} does not know sm_{arch}")
    options = [f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v"]
    command = toolchain.nvcc_command(nvcc, toolchain.usable_torch().include, options, source, target)
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    spills = [int(number) for number in re.findall(r"(\d+) bytes spill stores", result.stderr)]
    worst = re.findall(r"Function properties for (\S+)\s+.*?([1-9]\d*) bytes spill stores", result.stderr)
    assert len(spills) > 10 and not worst
    assert not [line for line in result.stderr.splitlines() if "warning" in line]
    assert target.stat().st_size > 0


def test_architectures_can_be_chosen(monkeypatch):
    nvcc = toolchain.find_nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;9.0a+PTX")
    options = toolchain.cuda_archs(nvcc)
    assert toolchain.arch_names(options) == "sm_86 sm_90a compute_90a"
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    names = toolchain.arch_names(toolchain.cuda_archs(nvcc)).split()
    assert {"sm_80", "sm_90"} <= set(names) and names[-1].startswith("compute_")
