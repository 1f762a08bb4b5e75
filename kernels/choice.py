"""Picks the implementation of an operation and says why: the only place where that is decided.

`impl="auto"` takes the first implementation, in order of measured preference for the device, that does not refuse
the input. A named one that refuses is an error with every reason. The environment variable FASTVGAN_IMPL is a
preference for the whole process: where it cannot serve, auto's order does, and that is told once.
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

from .triton import support as triton_support
from .warn_once import warn_once

NAMES = ("auto", "reference", "cpp", "cuda", "triton")
ENVIRONMENT = "FASTVGAN_IMPL"
_ENCODED, _AUTO = os.environ.encodekey(ENVIRONMENT), os.environ.encodevalue("auto")

# The one device type that an implementation is for; the reference is for all.
_DEVICE_OF = {"cpp": "cpu", "cuda": "cuda", "triton": "cuda"}


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operation.

    Args:
        source: the module that computes it, or its name where only a process that uses it shall import it.
        refusal: why it does not take this input, or None when it does.
        held_back: device type → why auto does not take it there though it could run.
        missing: why it can take no input at all (not built), or None.
        slower: called with the operation's arguments: why auto leaves this problem to the next one, though it could be
            taken, as measured; or None.
        rules: what `slower` goes by, in a sentence, where that is asked about a device rather than about a problem.
    """

    source: ModuleType | str
    refusal: Callable[[torch.Tensor], str | None] = lambda x: None
    held_back: dict[str, str] | None = None
    missing: Callable[[], str | None] = lambda: None
    slower: Callable[..., str | None] = lambda *args: None
    rules: str | None = None

    @cached_property
    def functions(self) -> Any:
        """The module, of the operation's Protocol (its protocol.py), which is handed to the operation's kernel."""
        return importlib.import_module(self.source) if isinstance(self.source, str) else self.source

    def has(self, functions: Any) -> bool:
        """Whether these are its functions; asking imports nothing."""
        return functions is (sys.modules.get(self.source) if isinstance(self.source, str) else self.source)


def in_triton(package: str, slower: Callable[..., str | None] | None = None, measured: bool = True) -> Implementation:
    """An operation's sibling triton.py, which only a process that uses it imports, Triton with it.

    Args:
        package: the operation's.
        slower: as Implementation's; kernels/measured has the rules. None where there is nothing to weigh: one launch
            in the place of several.
        measured: whether there are any for the operation; without them auto does not take Triton.
    """
    made = Implementation(f"{package}.triton", refusal=triton_support.refusal, missing=triton_support.reason)
    if slower is None:
        return made
    return replace(
        made,
        held_back=None if measured else {"cuda": f"has not been measured on a GPU; {ENVIRONMENT}=triton selects it"},
        slower=slower,
        rules=f"where it was measured to be faster, else stock PyTorch; {ENVIRONMENT}=triton selects it everywhere",
    )


# What callers decided by `pick` for a kind of call, which they would ask again for every such call: by whatever the
# decision depends on. Dropped as a whole when it has grown, and when what it depends on changes.
_DECISIONS = 4096
decisions: dict[Any, Any] = {}


def remember(key: Any, decision: Any) -> Any:
    """Keep a decision in `decisions`, of which there may be so many; gives it back."""
    if len(decisions) >= _DECISIONS:
        decisions.clear()
    decisions[key] = decision
    return decision


# Operation → name → implementation, in auto's order of preference; the reference, which takes everything, is last.
_registry: dict[str, dict[str, Implementation]] = {}


def register(operation: str, **implementations: Implementation) -> None:
    """Make an operation's implementations known, best first."""
    assert set(implementations) <= set(NAMES[1:]) and list(implementations)[-1] == "reference"
    _registry[operation] = implementations
    decisions.clear()


def pick(operation: str, impl: str, x: torch.Tensor, *rest: Any) -> Any:
    """The functions that shall compute `operation` on `x` and, where speed depends on them, its other arguments.

    Raises:
        ValueError: `impl` or FASTVGAN_IMPL is no implementation's name, or the named `impl` cannot take `x`.
    """
    if impl != "auto":
        return _named(operation, impl, x)
    preferred = _preference()
    if preferred != "auto":
        refusal = _refusal(operation, preferred, x)
        if refusal is None:
            return _registry[operation][preferred].functions
        _tell_preference(operation, preferred, refusal, x, rest)
    return _automatic(operation, x, rest).functions


def check_name(impl: str) -> None:
    """Raise ValueError unless `impl` is one of NAMES."""
    if impl not in NAMES:
        raise ValueError(f"impl must be one of {', '.join(NAMES)}, not {impl!r}")


def implementations() -> dict[str, dict[str, Any]]:
    """What there is, what is chosen on each device of this machine, and why.

    Returns:
        operation → {"implementations": {name: "available" or the reason it is not},
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


def is_undirected() -> bool:
    """Whether FASTVGAN_IMPL names no implementation, so that auto's order serves."""
    # os.environ.get encodes the name, and raises and catches an error: 0.7 µs. Its dictionary is asked in 0.05.
    try:
        value = os.environ._data.get(_ENCODED)
    except AttributeError:  # os.environ is another mapping
        return os.environ.get(ENVIRONMENT) in (None, "", "auto")
    return not value or value == _AUTO


def _preference() -> str:
    if is_undirected():
        return "auto"
    name = os.environ[ENVIRONMENT]
    if name not in NAMES:
        raise ValueError(f"{ENVIRONMENT} must be one of {', '.join(NAMES)}, not {name!r}")
    return name


def _refusal(operation: str, name: str, x: torch.Tensor) -> str | None:
    implementation = _registry[operation].get(name)
    if implementation is None:
        return f"{operation} has no {name} implementation yet"
    return implementation.missing() or implementation.refusal(x)


def _named(operation: str, impl: str, x: torch.Tensor) -> Any:
    check_name(impl)
    if _refusal(operation, impl, x) is None:
        return _registry[operation][impl].functions
    states = (f"{name}: {_refusal(operation, name, x) or 'can run'}" for name in NAMES[1:])
    raise ValueError(f"{operation} cannot run with impl={impl!r}. {'; '.join(states)}")


def _automatic(operation: str, x: torch.Tensor, rest: tuple) -> Implementation:
    for name, implementation in _registry[operation].items():
        if not _is_for(name, x) or x.device.type in (implementation.held_back or ()):
            continue
        missing = implementation.missing()
        if missing is not None:
            _tell_missing(missing)
        if missing is None and implementation.refusal(x) is None and not implementation.slower(x, *rest):
            return implementation
    raise AssertionError("the reference takes everything")


def _is_for(name: str, x: torch.Tensor) -> bool:
    return _DEVICE_OF.get(name, x.device.type) == x.device.type


def _tell_preference(operation: str, name: str, refusal: str, x: torch.Tensor, rest: tuple) -> None:
    implementation = _registry[operation].get(name)
    if implementation is not None and implementation.missing() is not None:
        _tell_missing(refusal)
    elif x.dtype != torch.float64:  # float64 is the reference's by design
        chosen = name_of(operation, _automatic(operation, x, rest).functions)
        warn_once(f"{ENVIRONMENT}={name} cannot serve {operation}, so {chosen} does: {refusal}")


def _tell_missing(reason: str) -> None:
    warn_once(f"compiled operations cannot serve, so others do in their place: {reason}")


def name_of(operation: str, functions: Any) -> str:
    """The name of what `pick` gave."""
    return next(name for name, other in _registry[operation].items() if other.has(functions))


def _availability(operation: str, name: str, probes: dict[str, torch.Tensor]) -> str:
    refusals = [_refusal(operation, name, probe) for probe in probes.values()]
    if None in refusals:
        return "available"
    if name == "cuda" and "cuda" not in probes and name in _registry[operation]:
        return _registry[operation][name].missing() or "no CUDA device is available"
    return refusals[-1]


def _explain(operation: str, x: torch.Tensor) -> dict[str, str]:
    preferred = _preference()
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
