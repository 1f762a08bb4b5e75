"""Installed versions of Python, this package and its dependencies."""

import platform
from importlib import metadata

import fastvgan

_TRITON = ("triton", "pytorch-triton")
_DALI = "nvidia-dali-cuda"  # before the number of a version of CUDA


def find_versions() -> dict[str, str | None]:
    """Return the versions, or None, of fastvgan, python, torch, cuda (that torch was built with), triton and dali."""
    import torch  # late: commands read their flags before they load it

    dali = sorted({name for name in _distributions() if name.startswith(_DALI)}, reverse=True)
    return {
        "fastvgan": fastvgan.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": find_version(*_TRITON),
        "dali": find_version(*dali),
    }


def find_version(*packages: str) -> str | None:
    """Return the version of the first of these packages that is installed, or None."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _distributions() -> list[str]:
    return [(distribution.metadata["Name"] or "").lower() for distribution in metadata.distributions()]
