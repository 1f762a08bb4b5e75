"""Generators as programs without Python: torch.export and ONNX."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastvgan.errors import UserError
from fastvgan.files.atomic import whole
from fastvgan.files.pixels import quantise
from fastvgan.models import Condition, ModelConfig
from fastvgan.models.noise import NoiseDriven
from fastvgan_kernels.dispatch import stock_operations

_OPSET = 20  # the first one with GridSample's current names of modes; torch's default is older


class _Program(nn.Module):
    """The exported module: makes clips, uint8 (N, T, H, W, C), from noise and the parts of the condition."""

    def __init__(self, network: NoiseDriven):
        super().__init__()
        self.network = network

    def forward(
        self,
        noise: torch.Tensor,
        text: torch.Tensor | None = None,
        label: torch.Tensor | None = None,
        image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        has_condition = text is not None or label is not None or image is not None
        # Not self.network(…), which may be compiled.
        return quantise(self.network.forward(noise, Condition(text, label, image) if has_condition else None))


def export_program(network: NoiseDriven, config: ModelConfig, frames: int) -> torch.export.ExportedProgram:
    """Export a generator in float32, for any number of clips of some length, as PyTorch's own operations."""
    inputs = _examples(network, config, frames)
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in inputs}
    with torch.no_grad(), stock_operations():
        return torch.export.export(_Program(network).eval(), (), inputs, dynamic_shapes=shapes, strict=False)


def _examples(network: NoiseDriven, config: ModelConfig, frames: int) -> dict[str, torch.Tensor]:
    """Return inputs of two clips; with one clip, torch.export would take the number of clips for a constant."""
    examples = {"noise": network.noise(2, 0, frames)}
    if "text" in config.condition and config.text_encoder is not None:
        examples["text"] = torch.zeros(2, config.text_width)
    elif "text" in config.condition:
        examples["text"] = torch.zeros(2, config.longest_text, dtype=torch.int64)
    if "class" in config.condition:
        examples["label"] = torch.zeros(2, dtype=torch.int64)
    if "image" in config.condition:
        examples["image"] = torch.zeros(2, config.channels, config.height, config.width)
    device = next(network.parameters()).device
    return {name: one.to(device) for name, one in examples.items()}


def check_onnx() -> None:
    """Check that the packages that write .onnx files are installed.

    Raises:
        UserError: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"to_onnx needs the package {error.name}: pip install onnx onnxscript, or use to_program"
        ) from error


def write_onnx(program: torch.export.ExportedProgram, config: ModelConfig, path: Path) -> None:
    """Write a program to an .onnx file, whole or not at all, with the model's configuration in its metadata.

    Raises:
        UserError: the file cannot be written.
    """
    names = [one.arg.name for one in program.graph_signature.input_specs if one.kind.name == "USER_INPUT"]
    with whole(path) as temporary:
        exported: Any = torch.onnx.export(
            program, input_names=names, output_names=["clips"], opset_version=_OPSET, dynamo=True, verbose=False
        )
        for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
            value.shape[0] = "batch"
        exported.model.metadata_props["fastvgan"] = json.dumps(config.model_dump(mode="json"))
        exported.save(str(temporary), external_data=False)
