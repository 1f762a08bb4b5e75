"""Tensors in one safetensors file: nothing in it is ever executed on reading."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from fastvgan.errors import UserError


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, in the row-major order that the format asks for.

    Raises:
        OSError: the file cannot be written.
    """
    # Written by Python, not by safetensors, whose errors do not say whether the disk is full.
    path.write_bytes(tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """What `save_tensors` writes, for whoever also wants a checksum of it."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def parse_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a file that has been read, on the CPU.

    Raises:
        ValueError: it is truncated or no safetensors file.
    """
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its metadata.

    Raises:
        UserError: it is missing, truncated, or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; name a run folder, a checkpoint or an exported generator") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error}); name another one") from error
