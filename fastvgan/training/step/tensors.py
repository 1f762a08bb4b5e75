"""The state of an adversarial step as named tensors, and the way back: in place, so that CUDA graphs stay valid."""

from collections import defaultdict

import torch

from fastvgan.training.step.adversarial import AdversarialStep, networks, optimizers

_STATE = "state"


def tensors_of(step: AdversarialStep, with_optimizers: bool = True) -> dict[str, torch.Tensor]:
    """Everything that training goes on from, the step's own tensors, not copies.

    Returns:
        Of each network "generator/KEY" (parameters and buffers), of each optimiser "generator_optimizer/KEY/SLOT" (none
        before its first step), and "state/NAME" of what `step.state()` gives; shapes and dtypes as they are in
        training.
    """
    tensors = {}
    for name, network in networks(step).items():
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    for name, (optimizer, network) in optimizers(step).items() if with_optimizers else ():
        for key, parameter in network.named_parameters():
            tensors |= {f"{name}/{key}/{slot}": value for slot, value in optimizer.state.get(parameter, {}).items()}
    return tensors | {f"{_STATE}/{name}": value for name, value in step.state().items()}


def misfit(step: AdversarialStep, saved: dict[str, torch.Tensor]) -> str | None:
    """The name of a tensor that the step or `saved` lacks, or that has another shape there; None where all fits."""
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
        # What this device has no use for, such as the loss scale of another one, does no harm.
        if name in own or name.startswith(f"{_STATE}/"):
            continue
        shape = shapes.get(name.rpartition("/")[0])
        if shape is None or value.shape not in (shape, ()):
            return name
    return None


@torch.no_grad()
def copy_into(step: AdversarialStep, saved: dict[str, torch.Tensor]) -> None:
    """Bring the step to the state in `saved`, of which `misfit` gave None, without moving a tensor that is there."""
    for name, network in networks(step).items():
        network.load_state_dict(part_of(saved, name))
    for name, (optimizer, network) in optimizers(step).items():
        _restore_optimizer(optimizer, network, part_of(saved, name))
    values = part_of(saved, _STATE)
    for name, tensor in step.state().items():
        if name in values:
            tensor.copy_(values[name])


def _restore_optimizer(optimizer: torch.optim.Optimizer, network: torch.nn.Module, saved: dict) -> None:
    slots = defaultdict(dict)
    for name, value in saved.items():
        key, _, slot = name.rpartition("/")
        slots[key][slot] = value
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for key, parameter in network.named_parameters():
        own = optimizer.state[parameter] if key in slots else optimizer.state.get(parameter, {})
        for slot in own.keys() - slots[key].keys():
            own[slot].zero_()  # saved before the first step, when the optimiser had none: that is where they begin
        for slot, value in slots[key].items():
            if slot not in own:
                own[slot] = _new_slot(slot, value, parameter, groups[parameter])
            own[slot].copy_(value)


def _new_slot(slot: str, value: torch.Tensor, parameter: torch.Tensor, group: dict) -> torch.Tensor:
    if slot == "step":  # torch's optimisers count on the host, unless a graph or a fused kernel is to read the count
        on_device = group.get("capturable") or group.get("fused")
        return torch.empty_like(value, device=parameter.device if on_device else "cpu")
    # The moments take the parameter's own memory format, as if they had never left.
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)


def part_of(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors named "name/KEY", by KEY."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
