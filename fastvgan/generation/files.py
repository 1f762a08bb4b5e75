"""Files of trained generators: weights with their configuration, in .safetensors files, run folders and checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.files.tensor_file import read_tensors, save_tensors
from fastvgan.models import ModelConfig
from fastvgan.runs.checkpoint import is_checkpoint, read_averaged_weights
from fastvgan.runs.names import run_of

EXPORTED = Path("export") / "generator.safetensors"
"""Path, in a run folder, of the averaged generator of the last checkpoint."""
BEST = Path("export") / "best.safetensors"
"""Path, in a run folder, of the averaged generator of the checkpoint with the best score."""
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
"""Names, in a folder that `save_pretrained` wrote, as huggingface_hub's PyTorchModelHubMixin names them."""


class StoredGenerator(NamedTuple):
    """A generator as it is stored.

    Attributes:
        weights: state_dict, tensors of any shape.
        config: its configuration.
        path: the file or checkpoint folder that has it.
        facts: further metadata of the file, such as the step.
    """

    weights: dict[str, torch.Tensor]
    config: ModelConfig
    path: Path
    facts: dict[str, str]


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


def read_generator(path: Path) -> StoredGenerator:
    """Read a generator.

    Args:
        path: a run folder, a checkpoint folder, a folder that `save_pretrained` wrote, or a .safetensors file.

    Raises:
        UserError: the file is missing, truncated, or not a generator of this library.
    """
    if path.is_dir() and is_checkpoint(path):
        return _read_checkpoint(path)
    if path.is_dir() and (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return _read_pretrained(path)
    return _read_export(path)


def misfit(path: Path, reason: Exception | str) -> UserError:
    """Return the error for a generator of another version."""
    return UserError(f"{path} does not fit this version of fastvgan ({reason}); export it again")


def write_pretrained(stored: StoredGenerator, version: str) -> None:
    """Write model.safetensors and config.json into the existing folder `stored.path`, each whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    # Hub tools look for the format.
    export(stored.weights, stored.config, stored.path / WEIGHTS, {**stored.facts, "format": "pt"})
    values = {"_class_name": "VideoGenerator", "_fastvgan_version": version, **stored.config.model_dump(mode="json")}
    with replace_atomically(stored.path / CONFIG) as temporary:
        temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_checkpoint(path: Path) -> StoredGenerator:
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    config = read_config(run_of(path) / "config.yaml").model
    return StoredGenerator(read_averaged_weights(path), config, path, {})


def _read_pretrained(path: Path) -> StoredGenerator:
    weights, metadata = read_tensors(path / WEIGHTS)
    file = path / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); copy the folder again") from error
    if not isinstance(values, dict) or "family" not in values:
        raise UserError(f"{file} does not describe a fastvgan generator; pass another folder or model")
    # Names that begin with an underscore describe the file, as in the configurations of diffusers.
    settings = {name: value for name, value in values.items() if not name.startswith("_")}
    return StoredGenerator(weights, _parse_config(settings, file), path / WEIGHTS, _facts(metadata))


def _read_export(path: Path) -> StoredGenerator:
    if path.is_dir():
        found = [path / name for name in (BEST, EXPORTED) if (path / name).is_file()]
        if not found:
            raise UserError(
                f"{path} holds no generator ({EXPORTED} is missing); pass a run folder with an export, or a folder "
                "that save_pretrained wrote"
            )
        path = found[0]
    weights, metadata = read_tensors(path)
    if "fastvgan" not in metadata:
        raise UserError(f"{path} is not a fastvgan generator: its header has no configuration; pass another file")
    try:
        settings = json.loads(metadata["fastvgan"])
        if not isinstance(settings, dict):
            raise ValueError("the configuration in its header is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise misfit(path, error) from error
    return StoredGenerator(weights, _parse_config(settings, path), path, _facts(metadata))


def _parse_config(settings: Mapping[str, Any], path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(settings)
    except (UserError, ValueError, RecursionError) as error:
        raise misfit(path, error) from error


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name not in ("fastvgan", "format")}
