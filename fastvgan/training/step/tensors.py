"""The state of an adversarial step as named tensors, and its restoration in place, so that CUDA graphs stay valid."""

from collections import defaultdict
from typing import Any

import torch

from fastvgan.runs.checkpoint import select_prefix
from fastvgan.training.step.adversarial import AdversarialStep, networks, optimizers

_STATE = "state"


def tensors_of(step: AdversarialStep, with_optimizers: bool = True) -> dict[str, torch.Tensor]:
    """Return all state of training as named tensors: the step's own ones, not copies.

    Args:
        step: the step.
        with_optimizers: whether to include the slots of optimisers.

    Returns:
        "generator/KEY" and so on for the parameters and buffers of each network, "generator_optimizer/KEY/SLOT" for
        each optimiser (nothing before its first step), and "state/NAME" for the items of `step.state()`. Shapes and
        dtypes are those of training.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, network in networks(step).items():
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    for name, (optimizer, network) in optimizers(step).items() if with_optimizers else ():
        for key, parameter in network.named_parameters():
            tensors |= {f"{name}/{key}/{slot}": value for slot, value in optimizer.state.get(parameter, {}).items()}
    return tensors | {f"{_STATE}/{name}": value for name, value in step.state().items()}


def find_misfit(step: AdversarialStep, saved: dict[str, torch.Tensor]) -> str | None:
    """Find a tensor that is missing in the step or in `saved`, or whose shape differs between them.

    Args:
        step: the step to restore.
        saved: tensors of a checkpoint, of any shape, named as by `tensors_of`.

    Returns:
        The tensor's name; None if all fit.
    """
    own = tensors_of(step, with_optimizers=False)
    for name, tensor in own.items():
        if name not in saved and not name.startswith(f"{_STATE}/"):
            return name
        if name in saved and saved[name].shape != tensor.shape:
            return name
    shapes = {
        f"{name}/{key}": parameter.shape
        for name, (_, network) in optimizers(step).items()
        for key, parameter in network.named_parameters()
    }
    for name, value in sorted(saved.items()):
        # State that this device does not use, such as another one's loss scale, is ignored.
        if name in own or name.startswith(f"{_STATE}/"):
            continue
        shape = shapes.get(name.rpartition("/")[0])
        if shape is None or value.shape not in (shape, ()):
            return name
    return None


@torch.no_grad()
def copy_into(step: AdversarialStep, saved: dict[str, torch.Tensor]) -> None:
    """Copy saved state into the step without moving any existing tensor.

    Args:
        step: the step to restore.
        saved: tensors of the shapes in the step, for which `find_misfit` returned None.
    """
    for name, network in networks(step).items():
        network.load_state_dict(select_prefix(saved, name))
    for name, (optimizer, network) in optimizers(step).items():
        _restore_optimizer(optimizer, network, select_prefix(saved, name))
    values = select_prefix(saved, _STATE)
    for name, tensor in step.state().items():
        if name in values:
            tensor.copy_(values[name])


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, network: torch.nn.Module, saved: dict[str, torch.Tensor]
) -> None:
    slots: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, value in saved.items():
        key, _, slot = name.rpartition("/")
        slots[key][slot] = value
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for key, parameter in network.named_parameters():
        own = optimizer.state[parameter] if key in slots else optimizer.state.get(parameter, {})
        for slot in own.keys() - slots[key].keys():
            own[slot].zero_()  # saved before the optimiser's first step, when it had no slots; they start from zero
        for slot, value in slots[key].items():
            if slot not in own:
                own[slot] = _new_slot(slot, value, parameter, groups[parameter])
            own[slot].copy_(value)


def _new_slot(slot: str, value: torch.Tensor, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    if slot == "step":  # torch's optimisers count on the host, unless a graph or a fused kernel reads the count
        on_device = group.get("capturable") or group.get("fused")
        return torch.empty_like(value, device=parameter.device if on_device else "cpu")
    # The moments have the parameter's memory format, as those that Adam allocates.
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
