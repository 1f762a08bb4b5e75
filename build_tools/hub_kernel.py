"""Write the operations as a repository for Hugging Face's kernels library: `python build_tools/hub_kernel.py FOLDER`.

See hub/README.md, which becomes the repository's, for what works.
"""

import argparse
import hashlib
import json
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = "fastvgan_kernels"
# Every text that names the operations' libraries in torch, which may be defined once per process.
_NAMES = ('NAMESPACE = "fastvgan"', "fastvgan_compiled")
_REASON = "a kernel of the Hugging Face Hub holds no compiled part; install fastvgan for it"


def write_repository(folder: Path) -> None:
    """Write the repository.

    Args:
        folder: a new or empty folder.

    Raises:
        FileExistsError: the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; pass a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("build.toml", "README.md"):
        shutil.copy(ROOT / "build_tools" / "hub" / name, folder / name)
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    sources = _sources()
    _write(sources, folder / "torch-ext" / _PACKAGE)
    general = tomllib.loads((folder / "build.toml").read_text(encoding="utf-8"))["general"]
    for backend in general["backends"]:
        variant = folder / "build" / f"torch-{backend}"
        identifier = f"{_PACKAGE}_{backend}_{_digest(sources)}"
        _write({path: _rename(text, identifier) for path, text in sources.items()}, variant)
        metadata = {
            "id": identifier,
            **{key: general[key] for key in ("name", "version", "license")},
            "python-depends": [],
            "backend": {"type": backend},
        }
        (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        # Older versions of `kernels` look for the package in a folder of its name.
        (variant / _PACKAGE).mkdir()
        (variant / _PACKAGE / "__init__.py").write_text(_FORWARD, encoding="utf-8")


def _sources() -> dict[str, str]:
    """Return the package's modules by path, and the file that says why there is no extension."""
    found = {path.relative_to(ROOT / "kernels").as_posix(): path for path in (ROOT / "kernels").rglob("*.py")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in sorted(found.items())}
    return texts | {"_build_info.json": json.dumps({"built": False, "reason": _REASON}) + "\n"}


def _digest(sources: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]


def _rename(text: str, identifier: str) -> str:
    constant, compiled = _NAMES
    return text.replace(constant, f'NAMESPACE = "{identifier}"').replace(compiled, f"{identifier}_compiled")


def _write(sources: dict[str, str], folder: Path) -> None:
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


# This folder is not the variant's package, so that relative imports of it do not work.
_FORWARD = """\
import importlib.util
import json
import sys
from pathlib import Path

_folder = Path(__file__).resolve().parents[1]
_name = json.loads((_folder / "metadata.json").read_text())["id"]
if _name not in sys.modules:
    _spec = importlib.util.spec_from_file_location(_name, _folder / "__init__.py")
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
globals().update({name: getattr(sys.modules[_name], name) for name in sys.modules[_name].__all__})
__all__ = sys.modules[_name].__all__
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    write_repository(parser.parse_args().folder)
