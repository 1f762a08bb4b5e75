"""Load trained generators: of runs, of files and folders, of this package, and of the Hugging Face Hub."""

import os
from pathlib import Path

import torch

from fastvgan.errors import UserError
from fastvgan.generation.files import misfit, read_generator
from fastvgan.generation.generator import VideoGenerator
from fastvgan.generation.hub import download
from fastvgan.generation.shipped import SHIPPED, is_hub_id
from fastvgan.machine.device import parse_device
from fastvgan.models import ModelConfig, build_generator
from fastvgan.models.sizes import count_min_weights
from fastvgan.models.text.inputs import move_text_encoder
from fastvgan.runs.names import run_of


def load(
    path: str | Path, device: str | torch.device = "cpu", text_encoder: str | Path | None = None
) -> VideoGenerator:
    """Load a trained generator, always with averaged weights; its `path` names the file that was read.

    Args:
        path: a run folder, a checkpoint folder such as run/checkpoints/step-200, a folder that `save_pretrained` wrote,
            or an exported .safetensors file. In a run folder, export/best.safetensors (the checkpoint with the best
            score) is read if it exists, else export/generator.safetensors (the last checkpoint).
        device: device of the generator.
        text_encoder: folder of the pretrained text model, for a generator that was trained with one; by default where
            it was then.

    Raises:
        UserError: the file is missing, truncated, or not a generator of this library; torch cannot use the device; or
            `text_encoder` is not the text model that the generator was trained with.
    """
    device = parse_device(device)
    weights, config, path, facts = read_generator(Path(path))
    config = move_text_encoder(config, text_encoder or _newer_text_encoder(config, path))
    try:
        _check_count(config, weights)
        network = build_generator(config)
        network.load_state_dict(weights)
    except (UserError, RuntimeError) as error:
        raise misfit(path, (str(error).splitlines() or [type(error).__name__])[0]) from error
    return VideoGenerator(network.to(device).eval().requires_grad_(False), config, path, facts)


def from_pretrained(
    name: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    text_encoder: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> VideoGenerator:
    """Load a trained generator by its name or path.

    Args:
        name: a run folder, a folder that `save_pretrained` wrote, or another path that `load` takes; else the name of a
            generator that comes with fastvgan, such as "digits"; else a model on the Hugging Face Hub, "user/model".
        device: device of the generator.
        dtype: torch.float32, torch.float16 or torch.bfloat16, as `VideoGenerator.to` takes it; by default float32.
        text_encoder: folder of the pretrained text model, for a generator that was trained with one.
        revision: branch, tag or commit of the model on the Hub; by default its main branch.
        token: token for a private model on the Hub; by default the one that `hf auth login` stored.
        cache_dir: folder of downloaded files; by default the Hub's cache.
        local_files_only: whether to use only files that were downloaded before.

    Raises:
        UserError: nothing has this name, it cannot be downloaded (huggingface_hub is missing, or there is no network),
            it is not a generator of this library, or torch cannot use the device.
    """
    path = Path(name)
    if not path.exists():
        if str(name) in SHIPPED:
            path = SHIPPED[str(name)]
        elif is_hub_id(str(name)):
            options = {"revision": revision, "token": token, "cache_dir": cache_dir}
            path = download(str(name), **options, local_files_only=local_files_only)
        else:
            raise UserError(
                f"{name} does not exist; pass a run folder, a folder that save_pretrained wrote, a .safetensors file, "
                f"the name of a generator that comes with fastvgan ({', '.join(SHIPPED)}), or a model on the Hugging "
                'Face Hub ("user/model")'
            )
    generator = load(path, device, text_encoder)
    return generator if dtype is None else generator.to(dtype)


def _newer_text_encoder(config: ModelConfig, path: Path) -> str | None:
    """Return the folder that a run's config.yaml names if the text model has moved since a file of it was written."""
    if config.text_encoder is None or Path(config.text_encoder).is_dir():
        return None
    settings = run_of(path) / "config.yaml"
    if not settings.is_file():
        return None
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    try:
        newer = read_config(settings).model
    except UserError:
        return None  # of another program or version
    folder = newer.text_encoder if newer.text_fingerprint == config.text_fingerprint else None
    return folder if folder is not None and Path(folder).is_dir() else None


def _check_count(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Check that the file has as many weights as its configuration, before memory for them is allocated."""
    expected, found = count_min_weights(config)[0], sum(tensor.numel() for tensor in tensors.values())
    if expected > found:
        raise UserError(f"its configuration needs at least {expected:,} weights, it has {found:,}")
