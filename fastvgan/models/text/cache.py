"""Embeddings of captions in a file, so that a run encodes its captions once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.files.tensor_file import read_tensors, save_tensors

_NAME = "embeddings"


def cache_path(folder: Path, fingerprint: str, captions: Sequence[str]) -> Path:
    """Return the file for captions and a text model: its name is a checksum of both."""
    total = hashlib.sha256(fingerprint.encode())
    total.update(json.dumps(list(captions)).encode())  # escapes all but ASCII, even lone surrogates
    return folder / f"{total.hexdigest()[:32]}.safetensors"


def read_cache(path: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    """Return the embeddings in a file, float32 of a shape (M, E); None if the file is missing or unusable."""
    if not path.is_file():
        return None
    try:
        found = read_tensors(path)[0].get(_NAME)
    except UserError:
        return None  # damaged: the captions are encoded again
    return found if found is not None and found.shape == shape and found.dtype == torch.float32 else None


def write_cache(path: Path, embeddings: torch.Tensor) -> None:
    """Write embeddings (M, E) to a file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary:
        save_tensors({_NAME: embeddings}, temporary)
