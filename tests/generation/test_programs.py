"""Generators exported by torch.export and to ONNX make the clips of `generator(…)`, for any number of clips."""

import json
import sys

import numpy as np
import pytest
import torch
from small_generators import make_generator

from fastvgan.errors import UserError
from fastvgan.models import ModelConfig

SMALL = {"base_width": 1, "frames": 4}
CASES = {
    "conv3d": {**SMALL, "condition": ("text", "class", "image"), "warp": True, "clock": True, "time_margin": True},
    "recurrent": {
        **{**SMALL, "family": "recurrent", "condition": ("text", "image"), "warp": True, "text_model": "sequence"},
        "upsampling": "resize",
    },
    "without a condition": {**SMALL, "condition": ()},
}


def arguments_for(generator, count):
    given = {"seed": range(count)}
    if "text" in generator.config.condition:
        given["text"] = (["a red", "a green moving red", "red"] * count)[:count]
    if "class" in generator.config.condition:
        given["label"] = (["cat", "dog"] * count)[:count]
    if "image" in generator.config.condition:
        given["image"] = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return given


@pytest.mark.parametrize("name", CASES)
def test_programs_make_the_same_clips(name, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    generator = make_generator(**CASES[name])
    frames = 2 if name == "recurrent" else None
    program = generator.to_program(frames)
    operations = {str(node.target).partition(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    assert "aten" in operations and "fastvgan" not in operations
    generator.to_program = lambda given: program if given == frames else None  # exporting again takes seconds
    generator.to_onnx(tmp_path / "x.onnx", frames)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    onnx.checker.check_model(str(tmp_path / "x.onnx"))
    for count in (1, 3):
        arguments = arguments_for(generator, count)
        expected = generator(**arguments, frames=frames).frames
        assert expected.float().std() > 10
        inputs = generator.to_inputs(**arguments, frames=frames)
        close(program.module()(**inputs), expected)
        (clips,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        close(torch.from_numpy(clips), expected)
    assert {one.name for one in session.get_inputs()} == set(inputs)
    assert {str(one.shape[0]) for one in (*session.get_inputs(), *session.get_outputs())} == {"batch"}
    stored = session.get_modelmeta().custom_metadata_map["fastvgan"]
    assert ModelConfig.model_validate(json.loads(stored)) == generator.config


def close(clips, expected):
    """Equal but for rounding in the last bit, where sums are in another order."""
    assert clips.shape == expected.shape and clips.dtype == torch.uint8
    difference = (clips.int() - expected.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    generator = make_generator(**SMALL)
    with pytest.raises(UserError, match="makes clips of 4 frames only, not 5"):
        generator.to_program(5)
    with pytest.raises(UserError, match=r"a generator in torch\.float16 cannot be exported; call float\(\) first"):
        generator.half().to_program()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="to_onnx needs the package onnxscript: pip install onnx onnxscript"):
        generator.float().to_onnx(tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    with pytest.raises(UserError, match="the folder .*no does not exist"):
        make_generator(**SMALL).to_onnx(tmp_path / "no" / "x.onnx")
