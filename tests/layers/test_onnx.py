"""torch.onnx.export of our layers: the same operators as for stock PyTorch, and equal results in onnxruntime."""

import warnings

import pytest
import torch
from torch import nn

from fastvgan.layers import (
    BatchNormAct3d,
    Conv3d,
    ConvLSTM,
    ConvNormAct3d,
    ConvTranspose3d,
    ConvTransposeNormAct3d,
    GroupNormAct,
    InstanceNormAct3d,
    fuse,
)
from fastvgan_kernels import conv_down, norm_act

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


class OwnConv2d(nn.Conv2d):
    """A subclass that adds no forward."""


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(3))
        self.mean, self.var = nn.Buffer(torch.randn(3)), nn.Buffer(torch.rand(3) + 0.5)

    def forward(self, x):
        y = conv_down(x, self.weight, padding=1)
        return norm_act(y, self.scale, None, self.mean, self.var, False, activation="tanh")


MODELS = {
    "fused": (
        lambda: fuse(
            nn.Sequential(
                nn.Conv3d(2, 4, 3, padding=1),
                nn.BatchNorm3d(4),
                nn.ReLU(),
                nn.Conv3d(4, 6, 4, 2, 1, bias=False),
                nn.BatchNorm3d(6),
                nn.LeakyReLU(0.2),
                nn.ConvTranspose3d(6, 2, 4, 2, 1),
                nn.Tanh(),
            )
        ),
        (2, 2, 4, 6, 4),
        {"Conv", "ConvTranspose", "Relu", "LeakyRelu", "Tanh"},
    ),
    "fused 2D": (
        lambda: fuse(
            nn.Sequential(
                *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
                *(OwnConv2d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2)),
                *(nn.ConvTranspose2d(6, 2, 4, 2, 1), nn.Tanh()),
            )
        ),
        (2, 2, 6, 4),
        {"Conv", "ConvTranspose", "Relu", "LeakyRelu", "Tanh"},
    ),
    "layers": (
        lambda: nn.Sequential(
            ConvNormAct3d(2, 3, 3, padding=1, activation="leaky_relu", negative_slope=0.1),
            ConvTranspose3d(3, 4, 3, 2, 1, 1, groups=1),
            BatchNormAct3d(4, activation="tanh"),
            Conv3d(4, 2, (1, 2, 3), padding="same"),
            ConvNormAct3d(2, 3, 1, activation="silu"),
            ConvTransposeNormAct3d(3, 2, 1, activation="gelu"),
        ),
        (1, 2, 3, 4, 2),
        {"Conv", "ConvTranspose", "LeakyRelu", "Tanh", "Sigmoid"},
    ),
    "norms": (
        lambda: nn.Sequential(GroupNormAct(2, 4, activation="relu"), InstanceNormAct3d(4, affine=True)),
        (2, 4, 3, 4, 2),
        {"Relu", "InstanceNormalization"},
    ),
    "ConvLSTM": (lambda: ConvLSTM(2, 3), (2, 2, 3, 4, 4), {"Conv", "Sigmoid", "Tanh"}),
    "functions": (Functions, (2, 2, 4, 4), {"Conv", "Tanh"}),
}


def run_onnx(file, x):
    """Run the model in a file by onnxruntime."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(y) for y in session.run(None, {session.get_inputs()[0].name: x.numpy()})]


def make_trained(make):
    """Return a module in evaluation whose running statistics are not the initial ones."""
    model = make().eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_export(name, dynamo, tmp_path):
    make, shape, operators = MODELS[name]
    model, x, file = make_trained(make), torch.randn(shape), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(file), dynamo=dynamo, verbose=False)
    nodes = onnx.load(file).graph.node
    assert operators <= {node.op_type for node in nodes} and {node.domain for node in nodes} == {""}
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model(x))
    torch.testing.assert_close(run_onnx(file, x), expected, rtol=1e-4, atol=1e-5)


def test_export_of_any_batch(tmp_path):
    make, shape, _ = MODELS["layers"]
    model, file = make_trained(make), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        any_batch = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(model, (torch.randn(2, *shape[1:]),), str(file), dynamic_shapes=any_batch, verbose=False)
    x = torch.randn(3, *shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(file, x), [model(x)], rtol=1e-4, atol=1e-5)
