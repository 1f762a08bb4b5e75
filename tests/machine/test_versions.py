"""Which versions are found, by packages that are made here."""

import platform

import pytest
import torch

import fastvgan
from fastvgan.machine import versions


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of a name and a version, ahead of all others, for one test."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, version):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return install


def test_the_first_that_is_installed_counts(install):
    assert versions.find_version("fastvgan-first", "fastvgan-second") is None
    install("fastvgan-second", "2.3")
    assert versions.find_version("fastvgan-first", "fastvgan-second") == "2.3"
    install("fastvgan-first", "1.0")
    assert versions.find_version("fastvgan-first", "fastvgan-second") == "1.0"


def test_dali_is_found_whichever_cuda_it_is_for(install):
    install("nvidia-dali-cuda990", "7.0")
    assert versions.find_versions()["dali"] == "7.0"
    install("nvidia-dali-cuda991", "8.0")
    assert versions.find_versions()["dali"] == "8.0"  # the one for the newest CUDA


def test_the_others_are_what_they_say_themselves():
    found = versions.find_versions()
    assert list(found) == ["fastvgan", "python", "torch", "cuda", "triton", "dali"]
    assert found["fastvgan"] == fastvgan.__version__ and found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__ and found["cuda"] == torch.version.cuda
