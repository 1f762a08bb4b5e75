"""The choice of an operation's implementation, and the reasons for it.

`impl="auto"` takes the first implementation, in order of measured preference for the device, that does not refuse
the input. Naming an implementation that refuses raises an error with every reason. The environment variable
FASTVGAN_IMPL is a preference for the whole process: where it cannot serve, auto's order applies, and a warning says so
once.
"""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import torch

from . import _torch
from .triton import support as triton_support
from .warn_once import warn_once

NAMES = ("auto", "reference", "cpp", "cuda", "triton")
ENVIRONMENT = "FASTVGAN_IMPL"
_ENCODED, _AUTO = os.environ.encodekey(ENVIRONMENT), os.environ.encodevalue("auto")

# The device type of each implementation; the reference runs on all.
_DEVICE_OF = {"cpp": "cpu", "cuda": "cuda", "triton": "cuda"}


@dataclass(frozen=True)
class Implementation:
    """An implementation of an operation.

    Args:
        source: its module, or the module's name if only a process that uses it should import it.
        refusal: returns why it does not take this input, or None if it does.
        held_back: why auto does not choose it on a device type although it could run, by device type.
        missing: returns why it is not available at all (not built), or None.
        slower: takes the operation's arguments and returns why auto leaves this problem to the next implementation, as
            measured; or None.
        rules: a sentence on the rules of `slower`, for a report about a device instead of one problem.
    """

    source: ModuleType | str
    refusal: Callable[[torch.Tensor], str | None] = lambda x: None
    held_back: dict[str, str] | None = None
    missing: Callable[[], str | None] = lambda: None
    slower: Callable[..., str | None] = lambda *args: None
    rules: str | None = None

    @cached_property
    def functions(self) -> Any:
        """The module, which satisfies the Protocol in the operation's protocol.py; the operation's kernel calls it."""
        return importlib.import_module(self.source) if isinstance(self.source, str) else self.source

    def has(self, functions: Any) -> bool:
        """Whether `functions` is its module; imports nothing."""
        return functions is (sys.modules.get(self.source) if isinstance(self.source, str) else self.source)


def in_triton(package: str, slower: Callable[..., str | None] | None = None, measured: bool = True) -> Implementation:
    """Return the implementation in the operation's triton.py, which is imported, with Triton, only when it is used.

    Args:
        package: the operation's package.
        slower: as Implementation's; kernels/measured has the rules. None if Triton is always faster: one launch instead
            of several.
        measured: whether there are measurements of the operation; without them auto does not choose Triton.
    """
    implementation = Implementation(
        f"{package}.triton",
        refusal=triton_support.refusal,
        held_back=None if measured else {"cuda": f"has not been measured on a GPU; {ENVIRONMENT}=triton selects it"},
        missing=triton_support.reason,
    )
    if slower is None:
        return implementation
    return replace(
        implementation,
        slower=slower,
        rules=f"where it was measured to be faster, else stock PyTorch; {ENVIRONMENT}=triton selects it everywhere",
    )


# Decisions that callers made by `pick`, by everything that a decision depends on, so that they need not ask again for
# every call. Cleared when it is full, and when the registry changes.
_DECISIONS = 4096
decisions: dict[Any, Any] = {}


def remember(key: Any, decision: Any) -> Any:
    """Store a decision in `decisions`, which is cleared when it is full, and return it."""
    if len(decisions) >= _DECISIONS:
        decisions.clear()
    decisions[key] = decision
    return decision


# Implementations by operation and name, in auto's order of preference; the reference takes everything and is last.
_registry: dict[str, dict[str, Implementation]] = {}


def register(operation: str, **implementations: Implementation) -> None:
    """Register an operation's implementations, the preferred one first, the reference last."""
    assert set(implementations) <= set(NAMES[1:]) and list(implementations)[-1] == "reference"
    _registry[operation] = implementations
    decisions.clear()


def pick(operation: str, impl: str, x: torch.Tensor, *rest: Any) -> Any:
    """Choose the module that computes an operation.

    Args:
        operation: its registered name.
        impl: "auto" or an implementation's name.
        x: the operation's first tensor, of any shape.
        rest: its other arguments, where speed depends on them.

    Raises:
        ValueError: `impl` or FASTVGAN_IMPL is not an implementation's name, or the named `impl` cannot take `x`.
    """
    if impl != "auto":
        return _get_named(operation, impl, x)
    preferred = preference()
    if preferred != "auto":
        refusal = _refusal(operation, preferred, x)
        if refusal is None:
            return _registry[operation][preferred].functions
        _warn_of_preference(operation, preferred, refusal, x, rest)
    return _choose(operation, x, rest).functions


def check_name(impl: str) -> None:
    """Raise ValueError unless `impl` is one of NAMES."""
    if impl not in NAMES:
        raise ValueError(f"impl must be one of {', '.join(NAMES)}, not {impl!r}")


def implementations() -> dict[str, dict[str, Any]]:
    """Return each operation's implementations, the one chosen on each device of this machine, and why.

    Returns:
        By operation: {"implementations": {name: "available" or the reason it is not},
        "chosen": {device type: {"impl": name, "why": sentence}}}, for float32 input.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    probes = {device: torch.empty((2, 2, 2, 2, 2), device=device) for device in devices}
    return {
        operation: {
            "implementations": {name: _availability(operation, name, probes) for name in NAMES[1:]},
            "chosen": {device: _explain(operation, probe) for device, probe in probes.items()},
        }
        for operation in _registry
    }


def is_written(operation: str, name: str) -> bool:
    """Return whether an operation has an implementation of this name, available on this machine or not."""
    return name in _registry[operation]


@_torch.assume_constant
def has_preference() -> bool:
    """Whether FASTVGAN_IMPL names an implementation."""
    # os.environ.get encodes the name, and raises and catches an error: 0.7 µs. Its dictionary takes 0.05.
    environ: Any = os.environ
    try:
        value = environ._data.get(_ENCODED)
    except AttributeError:  # os.environ is another mapping
        return environ.get(ENVIRONMENT) not in (None, "", "auto")
    return bool(value) and value != _AUTO


def preference() -> str:
    """Return the implementation that FASTVGAN_IMPL names, or "auto".

    Raises:
        ValueError: it names no implementation.
    """
    if not has_preference():
        return "auto"
    name = os.environ[ENVIRONMENT]
    if name not in NAMES:
        raise ValueError(f"{ENVIRONMENT} must be one of {', '.join(NAMES)}, not {name!r}")
    return name


def _refusal(operation: str, name: str, x: torch.Tensor) -> str | None:
    implementation = _registry[operation].get(name)
    if implementation is None:
        return f"{operation} has no {name} implementation"
    return implementation.missing() or implementation.refusal(x)


def _get_named(operation: str, impl: str, x: torch.Tensor) -> Any:
    check_name(impl)
    if _refusal(operation, impl, x) is None:
        return _registry[operation][impl].functions
    states = (f"{name}: {_refusal(operation, name, x) or 'can run'}" for name in NAMES[1:])
    raise ValueError(f"{operation} cannot run with impl={impl!r}. {'; '.join(states)}")


def _choose(operation: str, x: torch.Tensor, rest: tuple) -> Implementation:
    for name, implementation in _registry[operation].items():
        if not _is_for(name, x) or x.device.type in (implementation.held_back or ()):
            continue
        missing = implementation.missing()
        if missing is not None:
            _warn_of_missing(missing)
        if missing is None and implementation.refusal(x) is None and not implementation.slower(x, *rest):
            return implementation
    raise AssertionError("the reference takes everything")


def _is_for(name: str, x: torch.Tensor) -> bool:
    return _DEVICE_OF.get(name, x.device.type) == x.device.type


def _warn_of_preference(operation: str, name: str, refusal: str, x: torch.Tensor, rest: tuple) -> None:
    implementation = _registry[operation].get(name)
    if implementation is not None and implementation.missing() is not None:
        _warn_of_missing(refusal)
    elif x.dtype != torch.float64:  # float64 is the reference's by design
        chosen = name_of(operation, _choose(operation, x, rest).functions)
        warn_once(f"{ENVIRONMENT}={name} cannot serve {operation}; using {chosen}: {refusal}")


def _warn_of_missing(reason: str) -> None:
    warn_once(f"compiled operations unavailable ({reason}); using the next best implementation")


def name_of(operation: str, functions: Any) -> str:
    """Return the name of the implementation that `pick` returned."""
    return next(name for name, other in _registry[operation].items() if other.has(functions))


def _availability(operation: str, name: str, probes: dict[str, torch.Tensor]) -> str:
    refusals = [refusal for probe in probes.values() if (refusal := _refusal(operation, name, probe)) is not None]
    if len(refusals) < len(probes):
        return "available"
    if name == "cuda" and "cuda" not in probes and name in _registry[operation]:
        return _registry[operation][name].missing() or "no CUDA device is available"
    return refusals[-1]


def _explain(operation: str, x: torch.Tensor) -> dict[str, str]:
    preferred = preference()
    if preferred != "auto" and _refusal(operation, preferred, x) is None:
        return {"impl": preferred, "why": f"{ENVIRONMENT}={preferred}"}
    passed_over, chosen, rules = [], "reference", None
    for name, implementation in _registry[operation].items():
        if not _is_for(name, x):
            continue
        held_back = (implementation.held_back or {}).get(x.device.type)
        reason = implementation.missing() or implementation.refusal(x) or held_back
        if reason is None:
            chosen, rules = name, implementation.rules
            break
        passed_over.append(f"{name}: {reason}")
    if rules:
        passed_over.append(rules)
    why = "; ".join(passed_over) or ("preferred" if chosen != "reference" else "the only implementation")
    if preferred != "auto":
        why = f"{ENVIRONMENT}={preferred} cannot serve: {_refusal(operation, preferred, x)}; {why}"
    return {"impl": chosen, "why": why}
