"""Read and write safetensors files."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, TensorSpec, safe_open, serialize
from safetensors.torch import load

from fastvgan.errors import UserError


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any shape, contiguous as the format requires.

    Raises:
        OSError: the file cannot be written.
    """
    # Python writes the file: the errors of safetensors do not tell that a disk is full.
    path.write_bytes(tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Return the content of the file that `save_tensors` writes, the same for the same tensors of any shape."""
    # safetensors.torch.save writes the same, but imports numpy, which the plain install lacks.
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = bytes(serialize({name: _spec(tensor) for name, tensor in held.items()}, metadata))
    return _sort_metadata(data) if metadata and len(metadata) > 1 else data


def _sort_metadata(data: bytes) -> bytes:
    """Sort the metadata of a file's content, which safetensors writes in a random order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # as the format aligns the tensors behind it
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]))


def _spec(tensor: torch.Tensor) -> TensorSpec:
    """Describe a tensor on the CPU, which must outlive the result."""
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=list(tensor.shape),
        data_ptr=tensor.data_ptr(),
        data_len=tensor.numel() * tensor.element_size(),
    )


def parse_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors, of any shape and on the CPU, of a file's content.

    Raises:
        ValueError: the content is truncated or not in the safetensors format.
    """
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file, of any shape and on the CPU, and its metadata.

    Raises:
        UserError: the file is missing, truncated, or not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; pass a run folder, a checkpoint or an exported generator") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}); pass another file") from error
