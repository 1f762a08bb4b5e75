"""python -m fastvgan.info."""

import json
import os
import subprocess
import sys

import pytest

OPERATIONS = {
    "conv_up",
    "conv_down",
    "conv_weight_grad",
    "norm_act",
    "group_norm_act",
    "conv_lstm_cell",
    "conv_lstm",
    "logistic",
    "finite",
    "lists",
    "projection",
    "diversity",
}


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastvgan.info", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_json_has_versions_devices_extension_and_operations():
    result = run("--json", FASTVGAN_IMPL="reference")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {"versions", "devices", "extension", "operations", "gpu"}
    assert {"python", "torch", "fastvgan", "triton", "dali"} <= set(found["versions"])
    assert "cpu" in found["devices"]
    assert set(found["operations"]) == OPERATIONS
    assert found["operations"]["norm_act"]["chosen"]["cpu"]["impl"] == "reference"


def test_reasons_are_given_for_implementations_that_exist():
    lines = run(FASTVGAN_DISABLE_EXTENSION="1").stdout.splitlines()
    start, end = lines.index("not available (- without a line: not written)"), lines.index("why")
    named = {line.partition(":")[0].strip() for line in lines[start + 1 : end - 1]}
    assert {"norm_act, cpp", "group_norm_act, cpp"} <= named
    assert not {"lists, cpp", "lists, cuda", "group_norm_act, triton"} & named  # never written


def test_what_a_gpu_would_take_is_shown_with_where_it_was_measured():
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    gpu = json.loads(run("--json", **hidden).stdout)["gpu"]
    assert gpu["shown_for"].startswith("an H100") and gpu["measured_on"]["passes"] == 60
    taken = {(c["operation"], c["inputs"], c["outputs"], c["positions"]): c["impl"] for c in gpu["choices"]}
    assert taken["conv_down", 128, 256, 4096] == taken["conv_up", 128, 3, 32768] == "triton"
    assert taken["conv_up", 256, 128, 4096] == taken["conv_weight_grad", 128, 256, 4096] == "reference"
    text = run(**hidden).stdout
    assert "ConvLSTMs by auto on an H100" in text and gpu["measured_on"]["commit"] in text
    assert "Triton ran at 1.44x stock PyTorch" in text


def test_without_the_extension_it_says_why():
    result = run(FASTVGAN_IMPL="auto", FASTVGAN_DISABLE_EXTENSION="1")
    assert result.returncode == 0, result.stderr
    assert "norm_act on cpu: reference (cpp: FASTVGAN_DISABLE_EXTENSION=1 is set)" in result.stdout
    for operation in OPERATIONS:
        assert f"  {operation} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--verbose"], {}, "unknown flag --verbose"),
        ([], {"FASTVGAN_IMPL": "fast"}, "FASTVGAN_IMPL must be one of auto, reference, cpp, cuda, triton, not 'fast'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, environment, sentence):
    result = run(*arguments, **environment)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and sentence in result.stderr
