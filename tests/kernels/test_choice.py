"""The choice of an implementation, and the reasons reported for it."""

import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fastvgan_kernels import choice, extension, implementations, norm_act
from fastvgan_kernels.triton import support as triton_support
from fastvgan_kernels.warn_once import WarnOnce

Implementation = choice.Implementation
FUNCTIONS = {name: SimpleNamespace(name=name) for name in ("reference", "cpp", "cuda")}


@pytest.fixture
def register(monkeypatch):
    """Register operations for one test, without a preference and without earlier warnings."""
    monkeypatch.setattr(choice, "_registry", {})
    monkeypatch.setattr(choice, "warn_once", WarnOnce(logging.getLogger("fastvgan_kernels")))
    monkeypatch.delenv(choice.ENVIRONMENT, raising=False)

    def register(operation="op", missing=None, **options):
        choice.register(
            operation,
            cpp=Implementation(
                FUNCTIONS["cpp"],
                refusal=lambda x: "it takes no float64" if x.dtype == torch.float64 else None,
                missing=lambda: missing,
                **options,
            ),
            reference=Implementation(FUNCTIONS["reference"]),
        )

    return register


X = torch.zeros(1)


def test_auto_takes_the_first_that_does_not_refuse(register, caplog):
    register()
    assert choice.pick("op", "auto", X).name == "cpp"
    assert choice.pick("op", "auto", X.double()).name == "reference"
    assert not caplog.records  # float64 is the reference's by design


def test_auto_passes_over_what_is_held_back_but_a_name_gets_it(register, monkeypatch):
    register(held_back={"cpu": "has not been measured"})
    assert choice.pick("op", "auto", X).name == "reference"
    assert choice.pick("op", "cpp", X).name == "cpp"
    monkeypatch.setenv(choice.ENVIRONMENT, "cpp")
    assert choice.pick("op", "auto", X).name == "cpp"


@pytest.mark.parametrize("slower", [None, lambda x: None])
def test_triton_is_held_back_until_it_was_measured(slower):
    assert choice.in_triton("package", slower).held_back is None
    assert "has not been measured" in choice.in_triton("package", slower, measured=False).held_back["cuda"]


def test_a_named_implementation_that_cannot_run_is_an_error_with_every_reason(register):
    register(missing="it was not built")
    with pytest.raises(ValueError, match="impl='cpp'") as caught:
        choice.pick("op", "cpp", X)
    for part in ("cpp: it was not built", "reference: can run", "triton: op has no triton implementation"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="impl must be one of auto, reference, cpp, cuda, triton, not 'fast'"):
        choice.pick("op", "fast", X)


def test_a_missing_extension_is_reported_once_for_all_operations(register, caplog, monkeypatch):
    register("first", missing="it was not built")
    register("second", missing="it was not built")
    with caplog.at_level(logging.WARNING, "fastvgan_kernels"):
        for preference in ("auto", "cpp"):
            monkeypatch.setenv(choice.ENVIRONMENT, preference)
            for operation in ("first", "second"):
                assert choice.pick(operation, "auto", X).name == "reference"
    assert [record.message for record in caplog.records] == [
        "compiled operations unavailable (it was not built); using the next best implementation"
    ]


def test_a_preference_that_cannot_serve_is_reported_once_per_operation(register, caplog, monkeypatch):
    register("first")
    register("second")
    monkeypatch.setenv(choice.ENVIRONMENT, "triton")
    with caplog.at_level(logging.WARNING, "fastvgan_kernels"):
        for operation in ("first", "second", "first"):
            assert choice.pick(operation, "auto", X).name == "cpp"
    messages = [record.message for record in caplog.records]
    assert messages == [
        "FASTVGAN_IMPL=triton cannot serve first; using cpp: first has no triton implementation",
        "FASTVGAN_IMPL=triton cannot serve second; using cpp: second has no triton implementation",
    ]


def test_a_preference_does_not_override_a_name(register, monkeypatch):
    register()
    monkeypatch.setenv(choice.ENVIRONMENT, "reference")
    assert choice.pick("op", "auto", X).name == "reference"
    assert choice.pick("op", "cpp", X).name == "cpp"


def test_implementations_says_what_and_why(register, monkeypatch):
    register("first", held_back={"cpu": "it is slower"})
    register("second", missing="it was not built")
    table = implementations()
    assert table["first"]["implementations"]["cpp"] == "available"
    assert table["first"]["chosen"]["cpu"] == {"impl": "reference", "why": "cpp: it is slower"}
    assert table["second"]["implementations"]["cpp"] == "it was not built"
    assert table["second"]["chosen"]["cpu"] == {"impl": "reference", "why": "cpp: it was not built"}
    monkeypatch.setenv(choice.ENVIRONMENT, "cpp")
    assert implementations()["first"]["chosen"]["cpu"] == {"impl": "cpp", "why": "FASTVGAN_IMPL=cpp"}
    assert "FASTVGAN_IMPL=cpp cannot serve" in implementations()["second"]["chosen"]["cpu"]["why"]


def test_auto_leaves_a_problem_to_the_next_where_that_is_faster(register):
    register("third", slower=lambda x, size: "it is large" if size > 4 else None)
    assert choice.pick("third", "auto", X, 4).name == "cpp"
    assert choice.pick("third", "auto", X, 5).name == "reference"
    assert choice.pick("third", "cpp", X, 5).name == "cpp"


def test_a_module_given_by_name_is_imported_when_it_is_chosen(register, monkeypatch, tmp_path):
    (tmp_path / "late_implementation.py").write_text("name = 'late'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_implementation", raising=False)
    choice.register("op", cpp=Implementation("late_implementation"), reference=Implementation(FUNCTIONS["reference"]))
    assert choice.name_of("op", choice.pick("op", "reference", X)) == "reference"
    implementations()
    assert "late_implementation" not in sys.modules
    late = choice.pick("op", "auto", X)
    assert late is sys.modules["late_implementation"] and choice.name_of("op", late) == "cpp"


def test_every_operation_is_listed():
    table = implementations()
    convolutions = {"conv_up", "conv_down", "conv_weight_grad"}
    norms = {"norm_act", "group_norm_act"}
    training = {"logistic", "finite", "lists", "projection", "diversity"}
    assert set(table) == convolutions | norms | training | {"conv_lstm_cell", "conv_lstm"}
    for entry in table.values():
        assert list(entry["implementations"]) == ["reference", "cpp", "cuda", "triton"]
        assert entry["implementations"]["reference"] == "available"
        assert entry["chosen"]["cpu"]["impl"] in entry["implementations"]


PROGRAM = """
import json, torch
import fastvgan
from fastvgan_kernels import conv_down, implementations, norm_act
x = torch.randn(2, 3, 2, 4, 4)
for _ in range(2):
    y = norm_act(conv_down(x, torch.randn(3, 3, 1, 1, 1)), activation="relu")
    assert y.isfinite().all() and (y >= 0).all()
print(json.dumps({op: entry["chosen"]["cpu"]["impl"] for op, entry in implementations().items()}))
"""


def run(preference):
    environment = {**os.environ, choice.ENVIRONMENT: preference, "TRITON_INTERPRET": "0"}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("preference", ["auto", "reference", "cpp", "cuda", "triton"])
def test_every_preference_runs_in_a_process_of_its_own(preference):
    result = run(preference)
    assert result.returncode == 0, result.stderr
    chosen = json.loads(result.stdout)
    if preference == "reference":
        assert set(chosen.values()) == {"reference"} and not result.stderr
    elif extension.load() is not None:
        assert chosen["conv_up"] == chosen["norm_act"] == "cpp"
    if preference in ("cuda", "triton") and not torch.cuda.is_available():
        missing = preference == "triton" and triton_support.reason() is not None
        told = "Triton is not installed" if missing else f"FASTVGAN_IMPL={preference} cannot serve conv_down"
        assert result.stderr.count(told) == 1


def test_an_unknown_preference_is_an_error_that_names_the_allowed_ones():
    result = run("fast")
    assert result.returncode == 1
    assert "FASTVGAN_IMPL must be one of auto, reference, cpp, cuda, triton, not 'fast'" in result.stderr


def test_named_reference_always_runs():
    assert norm_act(torch.randn(4, 2), impl="reference").shape == (4, 2)
    with pytest.raises(ValueError, match="impl='triton'.* reference: can run"):
        norm_act(torch.randn(4, 2).double(), impl="triton")
