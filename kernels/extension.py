"""The compiled extension `_C`, or the reason why it is missing.

`pip install .` builds `_C` from csrc/ where it can and always writes `_build_info.json` beside it.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

# Raise it with FASTVGAN_API_VERSION in csrc/extension.cpp whenever a schema or the meaning of an operation changes.
API_VERSION = 4
DISABLE = "FASTVGAN_DISABLE_EXTENSION"


def load() -> ModuleType | None:
    """Return the compiled module, or None for `reason`; the first call registers its operations with torch."""
    return _load()[0]


def reason() -> str | None:
    """Return why the compiled module is missing, or None if it is loaded."""
    return _load()[1]


def facts() -> dict[str, Any]:
    """Return how the compiled module was built.

    Returns:
        api_version, torch, compiler, cuda, cuda_archs, cpu_instruction_sets (of this machine, best first),
        cpu_instruction_set (in use), file and no_cuda (why it has no CUDA part); without the module only `reason`.
    """
    module, why = _load()
    if module is None:
        return {"reason": why}
    file = module.__file__
    no_cuda = None if file is None else _info(Path(file).parent).get("no_cuda")
    return {**module.facts(), "file": file, "no_cuda": no_cuda}


@cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get(DISABLE) == "1":
        return None, f"{DISABLE}=1 is set"
    # A checkout's own folder comes before the installed one. At most one file is loaded: a second copy would register
    # the operations again, which aborts the process.
    refusals = []
    for folder in _folders():
        file = _file(folder)
        if file is None:
            continue
        built_as = _info(folder).get("api_version", API_VERSION)
        if built_as == API_VERSION:
            return _import(file)
        refusals.append(f"the extension was built as v{built_as}, these sources need v{API_VERSION}: reinstall")
    return None, refusals[0] if refusals else _why_not_built()


def _import(file: Path) -> tuple[ModuleType | None, str | None]:
    # The file needs torch's libraries, which are found only once torch has loaded them.
    import torch  # noqa: F401

    name = f"{__package__}._C"
    try:
        loader = importlib.machinery.ExtensionFileLoader(name, str(file))
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        assert spec is not None, "the loader is given"
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except Exception as error:
        return None, f"the extension cannot be loaded: {error}"
    if module.api_version != API_VERSION:
        return None, f"the extension was built as v{module.api_version}, these sources need v{API_VERSION}: reinstall"
    sys.modules[name] = module
    return module, None


def _folders() -> list[Path]:
    package = sys.modules[__name__.rpartition(".")[0]]
    return [Path(folder) for folder in package.__path__]


def _file(folder: Path) -> Path | None:
    files = (folder / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _info(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "_build_info.json").read_text())
    except (OSError, ValueError):
        return {}


def _why_not_built() -> str:
    reasons = (_info(folder).get("reason") for folder in _folders())
    why = next((reason for reason in reasons if reason), None)
    if why is not None:
        return f"the extension is not built: {why}"
    return "the extension is not built: the package is not installed (pip install .) for this Python"
