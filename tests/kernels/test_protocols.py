"""Every implementation of an operation has the functions of the operation's Protocol, with the same parameters."""

import dataclasses
import inspect

import pytest

import fastvgan  # noqa: F401  binds a checkout's kernels/
from fastvgan_kernels import choice
from fastvgan_kernels.conv.protocol import Convolutions, ConvolutionsWithParts, FusedConvolutions
from fastvgan_kernels.conv_lstm.protocol import ConvLSTM
from fastvgan_kernels.diversity.protocol import Diversity
from fastvgan_kernels.finite.protocol import Finite
from fastvgan_kernels.group_norm_act.protocol import GroupNormAct
from fastvgan_kernels.lists.protocol import Lists
from fastvgan_kernels.logistic.protocol import Logistic
from fastvgan_kernels.norm_act.protocol import NormAct, NormBackwardInHalves, NormStatistics
from fastvgan_kernels.projection.protocol import Projection
from fastvgan_kernels.triton import support as triton_support

PROTOCOLS = {
    "conv_down": Convolutions,
    "conv_lstm": ConvLSTM,
    "conv_lstm_cell": ConvLSTM,
    "conv_up": Convolutions,
    "conv_weight_grad": Convolutions,
    "diversity": Diversity,
    "finite": Finite,
    "group_norm_act": GroupNormAct,
    "lists": Lists,
    "logistic": Logistic,
    "norm_act": NormAct,
    "projection": Projection,
}
# The functions that each declared capability promises, by operation.
OPTIONAL = {
    Convolutions: {"fusion": FusedConvolutions, "statistics_in_parts": ConvolutionsWithParts},
    NormAct: {"statistics": NormStatistics, "backward_in_halves": NormBackwardInHalves},
}
IMPLEMENTATIONS = [(operation, name) for operation, found in choice._registry.items() for name in found]


def functions_of(protocol):
    """Name → signature without self, of the functions that a Protocol asks for, those it inherits included."""
    members = inspect.getmembers(protocol, inspect.isfunction)
    signatures = {name: inspect.signature(function) for name, function in members if not name.startswith("_")}
    return {name: list(signature.parameters.values())[1:] for name, signature in signatures.items()}


def mismatch(module, protocol):
    """Why the module does not satisfy the Protocol, or None. More parameters may follow if they have defaults."""
    for name, wanted in functions_of(protocol).items():
        if not inspect.isfunction(vars(module).get(name)):
            return f"{module.__name__} has no function {name}"
        found = list(inspect.signature(vars(module)[name]).parameters.values())
        same = [(p.name, p.kind, p.default) for p in found[: len(wanted)]]
        if same != [(p.name, p.kind, p.default) for p in wanted]:
            return f"{module.__name__}.{name} takes {[p.name for p in found]}, not {[p.name for p in wanted]}"
        if any(p.default is p.empty for p in found[len(wanted) :]):
            return f"{module.__name__}.{name} needs more than {[p.name for p in wanted]}"
    return None


def module_of(operation, name):
    if name == "triton" and triton_support.reason() is not None:
        pytest.skip(triton_support.reason())
    return choice._registry[operation][name].functions


def test_every_operation_has_a_protocol():
    assert set(choice._registry) == set(PROTOCOLS)
    assert all(functions_of(protocol) for protocol in PROTOCOLS.values())


@pytest.mark.parametrize(("operation", "name"), IMPLEMENTATIONS)
def test_implementations_satisfy_their_protocol(operation, name):
    assert mismatch(module_of(operation, name), PROTOCOLS[operation]) is None


@pytest.mark.parametrize(("operation", "name"), IMPLEMENTATIONS)
def test_capabilities_are_what_a_module_has(operation, name):
    """No more, and no less: a function that is there without being declared would never be called."""
    module, optional = module_of(operation, name), OPTIONAL.get(PROTOCOLS[operation])
    if optional is None:
        assert "CAPABILITIES" not in vars(module)
        return
    declared = dataclasses.asdict(module.CAPABILITIES)
    assert set(declared) == set(optional)
    for capability, protocol in optional.items():
        assert (mismatch(module, protocol) is None) == declared[capability], (capability, mismatch(module, protocol))


def test_every_protocol_is_required_or_optional():
    """A Protocol that no capability stands for would be checked by nothing."""
    checked = {*PROTOCOLS.values(), *(p for optional in OPTIONAL.values() for p in optional.values())}
    for protocol in PROTOCOLS.values():
        module = inspect.getmodule(protocol)
        local = {c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__}
        assert {c for c in local if getattr(c, "_is_protocol", False)} <= checked
