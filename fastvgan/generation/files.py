"""Files of trained generators: weights with their configuration, in .safetensors files, run folders and checkpoints."""

import json
from pathlib import Path

import torch

from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.files.tensor_file import read_tensors, save_tensors
from fastvgan.models import ModelConfig
from fastvgan.runs.checkpoint import is_checkpoint, read_averaged_weights

EXPORTED = Path("export") / "generator.safetensors"
"""Path, in a run folder, of the averaged generator of the last checkpoint."""
BEST = Path("export") / "best.safetensors"
"""Path, in a run folder, of the averaged generator of the checkpoint with the best score."""


def export(
    weights: dict[str, torch.Tensor], config: ModelConfig, path: Path, facts: dict[str, str] | None = None
) -> None:
    """Write a generator's weights with its configuration to a .safetensors file, whole or not at all.

    Args:
        weights: state_dict of the generator; tensors of any shape.
        config: configuration of the generator.
        path: file to write.
        facts: further metadata of the file, such as the step.

    Raises:
        OSError: the file cannot be written.
    """
    with replace_atomically(path) as temporary:
        save_tensors(weights, temporary, {**(facts or {}), "fastvgan": config.model_dump_json()})


def read_generator(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    """Read a generator's weights (a state_dict, tensors of any shape), its configuration and the path that has them.

    Args:
        path: a run folder, a checkpoint folder or an exported .safetensors file, as `load` takes it.

    Raises:
        UserError: the file is missing, truncated, or not a generator of this library.
    """
    return _read_checkpoint(path) if _is_checkpoint(path) else _read_export(path)


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and is_checkpoint(path)


def _read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    return read_averaged_weights(path), read_config(path.resolve().parents[1] / "config.yaml").model, path


def _read_export(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    if path.is_dir():
        found = [path / name for name in (BEST, EXPORTED) if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds no generator ({EXPORTED} is missing); pass a run folder with an export")
        path = found[0]
    tensors, metadata = read_tensors(path)
    if "fastvgan" not in metadata:
        raise UserError(f"{path} is not a fastvgan generator: its header has no configuration; pass another file")
    try:
        settings = json.loads(metadata["fastvgan"])
        if not isinstance(settings, dict):
            raise ValueError("the configuration in its header is not a JSON object")
        return tensors, ModelConfig.model_validate(settings), path
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} does not fit this version of fastvgan ({error}); export it again") from error
