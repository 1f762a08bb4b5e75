"""Load trained generators."""

from pathlib import Path

import torch

from fastvgan.errors import UserError
from fastvgan.generation.files import read_generator
from fastvgan.generation.generator import VideoGenerator
from fastvgan.models import ModelConfig, build_generator
from fastvgan.models.sizes import count_min_weights
from fastvgan.models.text.inputs import move_text_encoder


def load(
    path: str | Path, device: str | torch.device = "cpu", text_encoder: str | Path | None = None
) -> VideoGenerator:
    """Load a trained generator, always with averaged weights; its `path` names the file that was read.

    Args:
        path: a run folder, a checkpoint folder such as run/checkpoints/step-200, or an exported .safetensors file. In a
            run folder, export/best.safetensors (the checkpoint with the best score) is read if it exists, else
            export/generator.safetensors (the last checkpoint).
        device: device of the generator.
        text_encoder: folder of the pretrained text model, for a generator that was trained with one; by default where
            it was then.

    Raises:
        UserError: the file is missing, truncated, or not a generator of this library; or `text_encoder` is not the
            text model that the generator was trained with.
    """
    tensors, config, path = read_generator(Path(path))
    config = move_text_encoder(config, text_encoder or _newer_text_encoder(config, path))
    try:
        _check_count(config, tensors)
        network = build_generator(config)
        network.load_state_dict(tensors)
    except (UserError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} does not fit this version of fastvgan ({reason}); export it again") from error
    return VideoGenerator(network.to(device).eval().requires_grad_(False), config, path)


def _newer_text_encoder(config: ModelConfig, path: Path) -> str | None:
    """Return the folder that a run's config.yaml names if the text model has moved since a file of it was written."""
    if config.text_encoder is None or Path(config.text_encoder).is_dir():
        return None
    settings = path.resolve().parent.parent / "config.yaml"  # the run's, of export/best.safetensors
    if not settings.is_file():
        return None
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    try:
        newer = read_config(settings).model
    except UserError:
        return None  # of something else: the file was copied out of its run
    folder = newer.text_encoder if newer.text_fingerprint == config.text_fingerprint else None
    return folder if folder is not None and Path(folder).is_dir() else None


def _check_count(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Check that the file has as many weights as its configuration, before memory for them is allocated."""
    expected, found = count_min_weights(config)[0], sum(tensor.numel() for tensor in tensors.values())
    if expected > found:
        raise UserError(f"its configuration needs at least {expected:,} weights, it has {found:,}")
