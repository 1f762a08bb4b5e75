"""Video-generating GANs, from noise or from a sentence, and the fast layers they are made of."""

import importlib
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastvgan.generation.generator import VideoGenerator
    from fastvgan.generation.loading import from_pretrained, load
    from fastvgan.generation.videos import Video, Videos, write_video
    from fastvgan.training.run.callbacks import Callback
    from fastvgan.training.trainer import Trainer

__all__ = ["Callback", "Trainer", "Video", "VideoGenerator", "Videos", "from_pretrained", "load", "write_video"]
__version__ = "0.1.0"
# The module of each public name, imported when the name is first asked for: `import fastvgan` must not import torch.
_MODULES = {
    "Callback": "fastvgan.training.run.callbacks",
    "Trainer": "fastvgan.training.trainer",
    "Video": "fastvgan.generation.videos",
    "VideoGenerator": "fastvgan.generation.generator",
    "Videos": "fastvgan.generation.videos",
    "from_pretrained": "fastvgan.generation.loading",
    "load": "fastvgan.generation.loading",
    "write_video": "fastvgan.generation.videos",
}


class _CheckoutKernels:
    """Import hook that finds `fastvgan_kernels` in the folder kernels/ of this checkout.

    Python started in a checkout imports this package from there, even if fastvgan is installed; `fastvgan_kernels` must
    come from the same sources. A checkout may lack the compiled extension, so the installed package is searched second.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "fastvgan_kernels":
            return None
        installed = importlib.machinery.PathFinder.find_spec(name)
        elsewhere = list(installed.submodule_search_locations or []) if installed is not None else []
        places = dict.fromkeys([str(self.folder), *elsewhere])
        return importlib.util.spec_from_file_location(
            name, self.folder / "__init__.py", submodule_search_locations=list(places)
        )


def _bind_checkout() -> None:
    root = Path(__file__).resolve().parent.parent
    # Another package in site-packages may be named "kernels"; only a checkout has pyproject.toml.
    is_checkout = (root / "pyproject.toml").is_file() and (root / "kernels" / "extension.py").is_file()
    if is_checkout and not any(type(finder).__name__ == "_CheckoutKernels" for finder in sys.meta_path):
        sys.meta_path.insert(0, _CheckoutKernels(root / "kernels"))
        # transformers looks for a package named "kernels", and would register the operations of this folder again.
        found = importlib.machinery.PathFinder.find_spec("kernels")
        if found is not None and found.origin == str(root / "kernels" / "__init__.py"):
            modules: dict[str, Any] = sys.modules  # without None, the mark of a name that cannot be imported
            modules.setdefault("kernels", None)


_bind_checkout()
# The plain install has no numpy, and torch says so at each import.
warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
