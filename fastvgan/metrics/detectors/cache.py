"""A cache of the features of real clips, by everything that they depend on."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastvgan.errors import UserError
from fastvgan.files.atomic import check_writable, replace_atomically
from fastvgan.files.tensor_file import read_tensors, save_tensors

_VERSION = 1  # raise it when the same facts result in other features


def default_folder() -> Path:
    """Return fastvgan/real-features in the user's cache folder, by the XDG base directory specification."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        base = Path(given)
    else:
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # a container may run as a user without a home
            base = Path(tempfile.gettempdir())
    return base / "fastvgan" / "real-features"


class FeatureCache:
    """Features of real clips, one file for each set of facts.

    Files appear complete or not at all, and several processes may share a folder. A file that is damaged, or whose
    facts are others, counts as missing.

    Args:
        folder: where the files are; created if it is missing. None stands for `default_folder`, or for no cache if that
            is not writable.

    Attributes:
        warnings: sentences on files that could not be read or written.

    Raises:
        UserError: the given folder cannot be written to.
    """

    def __init__(self, folder: Path | None = None):
        self.folder, self.warnings = folder or default_folder(), list[str]()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_writable(self.folder / f"probe-{os.getpid()}")
        except (OSError, UserError) as error:
            cause = error.__cause__ if isinstance(error, UserError) else error
            reason = getattr(cause, "strerror", None) or error
            if folder is not None:
                raise UserError(f"cannot write --cache {folder}: {reason}; pass another folder") from error
            self.warnings.append(
                f"real features are not cached: cannot write {self.folder}: {reason}; pass a folder with --cache"
            )

    def path(self, facts: Mapping[str, Any]) -> Path:
        """Return the file for these facts, JSON values."""
        return self.folder / f"{hashlib.sha256(_text(facts).encode()).hexdigest()[:32]}.safetensors"

    def read(self, facts: Mapping[str, Any], clips: int) -> torch.Tensor | None:
        """Return the features of N = `clips` clips, float32 (N, F), or None if they are missing or damaged."""
        path = self.path(facts)
        if not path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(path)
            features = tensors.get("features", torch.empty(0))
            is_whole = features.ndim == 2 and len(features) == clips and features.dtype == torch.float32
            if is_whole and metadata.get("facts") == _text(facts) and metadata.get("sha256") == _checksum(features):
                return features
            reason = "its checksum or its facts do not match"
        except UserError as error:
            reason = str(error)
        self.warnings.append(f"the cached features {path} are damaged ({reason}) and were computed again")
        return None

    def write(self, facts: Mapping[str, Any], features: torch.Tensor) -> None:
        """Store features, float32 (N, F); a warning says if that fails."""
        path = self.path(facts)
        own = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")  # several processes may write the same file
        try:
            with replace_atomically(own) as temporary:
                save_tensors({"features": features}, temporary, {"facts": _text(facts), "sha256": _checksum(features)})
            own.replace(path)
        except OSError as error:
            self.warnings.append(f"the features of real clips were not cached: {path}: {error.strerror or error}")


def _text(facts: Mapping[str, Any]) -> str:
    return json.dumps({"version": _VERSION, **facts}, sort_keys=True)


def _checksum(features: torch.Tensor) -> str:
    return hashlib.sha256(features.numpy().tobytes()).hexdigest()
