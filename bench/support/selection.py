"""The benchmarks that `pytest bench/ --benchmark-only` runs by default: one shape per layer, and the whole jobs."""

import importlib.util
import re
from pathlib import Path

import pytest

# File → pattern of the names to run: whole problems with all stock variants, so that the ratios are those of --full.
DEFAULT = {
    "test_conv.py": r"\[(up-128-64|down-128-256)-forward-",
    "test_conv_lstm.py": r"\[fp32-",
    "test_fuse.py": r"\[(unet3d|r3d-18)-forward\+backward-(fp32|bf16)-2threads-",
    "test_fused_layers.py": r"\[(up-128-64|down-128-256)-fp32-",
    "test_generator.py": "",
    "test_loader.py": r"\[.*vp9-pyav-1\]",
    "test_norm_act.py": r"^test_norm_act\[\(64, 128, 8, 8, 8\)-forward-backward-relu-",
    "test_train_step.py": "",
    # On a GPU:
    "test_gpu_conv.py": r"\[(up-128-64|down-128-256)-from-32-forward-",
    "test_gpu_conv_lstm.py": r"\[16-forward-backward-",
    "test_gpu_train.py": r"reference",
}


def is_default(file: str, name: str) -> bool:
    """Return whether a case, by its file's name and its own, runs by default."""
    return file in DEFAULT and re.search(DEFAULT[file], name) is not None


def is_directory_run(config: pytest.Config) -> bool:
    """Return whether the command line names folders only: no file, no node id, no expression of -k."""
    return not config.option.keyword and not any(_file_of(config, argument) for argument in config.args)


def select(config: pytest.Config, items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Divide benchmarks into those to run and those that need --full.

    What the command line names explicitly (a file, a node id, an expression of -k) runs in any case.
    """
    explicit = {_file_of(config, argument) for argument in config.args} - {None}
    everything = config.getoption("full", False) or config.option.keyword
    kept, dropped = [], []
    for item in items:
        is_kept = everything or item.path in explicit or is_default(item.path.name, item.name)
        (kept if is_kept else dropped).append(item)
    return kept, dropped


def _file_of(config: pytest.Config, argument: str) -> Path | None:
    path = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
    return path if path.is_file() else None


def runs_here(item: pytest.Item, on_gpu: bool, tiny: bool = False) -> bool:
    """Return whether a case runs on this machine instead of being skipped."""
    file, name = item.path.name, item.name
    if file.startswith("test_gpu_"):
        return on_gpu or tiny
    if "dali" in name and file == "test_loader.py":
        return _has("nvidia") and _has("nvidia.dali")
    return not (on_gpu and file == "test_fuse.py")


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
