"""Checkpoints: a folder each, complete or absent, made of safetensors and JSON; nothing is ever unpickled."""

import json
import os
import re
import shutil
from pathlib import Path

import torch

from fastvgan.errors import UserError
from fastvgan.tensor_file import read_tensors, save_tensors
from fastvgan.training.step import AdversarialStep, networks, optimizers

_FORMAT = 1
_TENSORS, _STATE = "state.safetensors", "state.json"
_NAME = re.compile(r"step-(\d+)")


def save(folder: Path, step: AdversarialStep, number: int, keep: int) -> Path:
    """Write the state after `number` steps to folder/step-N, and remove all but the newest `keep` checkpoints.

    The files are written to a folder of another name, flushed to the disk and renamed, so that a process killed at any
    moment leaves the checkpoints that were there, and this one whole or not at all.

    Raises:
        OSError: the disk is full or cannot be written; the older checkpoints are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, unfinished = folder / f"step-{number}", folder / f".unfinished-{number}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        save_tensors(_tensors(step), unfinished / _TENSORS)
        (unfinished / _STATE).write_text(json.dumps({"format": _FORMAT, "step": number}), encoding="utf-8")
        for path in (unfinished / _TENSORS, unfinished / _STATE, unfinished):
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
        _flush(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / _STATE).is_file()]
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))


def restore(path: Path, step: AdversarialStep) -> int:
    """Bring networks and optimisers to the state in checkpoint folder `path`; gives the number of steps done.

    Raises:
        UserError: a file is missing, truncated, foreign, or of another configuration; nothing has been changed then.
    """
    number = _read_state(path / _STATE)
    tensors, _ = read_tensors(path / _TENSORS)
    expected = _tensors(step, with_optimizers=False)
    wrong = [name for name, tensor in expected.items() if name not in tensors or tensors[name].shape != tensor.shape]
    if wrong:
        raise UserError(f"{path} is a checkpoint of another configuration: it does not fit {wrong[0]}")
    for name, network in networks(step).items():
        network.load_state_dict(_part(tensors, name))
    for name, (optimizer, network) in optimizers(step).items():
        _restore_optimizer(optimizer, network, _part(tensors, name))
    return number


def _read_state(path: Path) -> int:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != _FORMAT:
            raise UserError(f"{path} has format {state['format']}, this version of fastvgan reads format {_FORMAT}")
        return int(state["step"])
    except OSError as error:
        raise UserError(f"{path.parent} is no checkpoint: cannot read {path.name} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged or foreign ({error}); remove {path.parent} or name another one") from error


def _tensors(step: AdversarialStep, with_optimizers: bool = True) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, network in networks(step).items():
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    for name, (optimizer, network) in optimizers(step).items() if with_optimizers else ():
        for key, parameter in network.named_parameters():
            tensors |= {f"{name}/{key}/{slot}": value for slot, value in optimizer.state.get(parameter, {}).items()}
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, network: torch.nn.Module, saved: dict) -> None:
    for key, parameter in network.named_parameters():
        slots = {name.rpartition("/")[2]: value for name, value in saved.items() if name.rpartition("/")[0] == key}
        for slot, value in slots.items():
            # The moments take the parameter's own memory format, as if they had never left.
            own = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimizer.state[parameter][slot] = own.detach().copy_(value)


def _part(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
