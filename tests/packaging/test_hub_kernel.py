"""The repository for Hugging Face's kernels library: variants load as it loads them, beside this package."""

import importlib.util
import json
import re
import sys
import tomllib

import pytest
import torch
from plain import ROOT
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import fastvgan_kernels


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    hub_kernel = load("hub_kernel", ROOT / "build_tools" / "hub_kernel.py")
    folder = tmp_path_factory.mktemp("hub") / "new"
    hub_kernel.write_repository(folder)
    with pytest.raises(FileExistsError, match="is not empty; pass a new folder"):
        hub_kernel.write_repository(folder)
    return folder


def load(name, file):
    """As kernels 0.17.2 does in importer.py."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_variant_computes_as_pytorch_beside_the_package(repository, backend):
    variant = repository / "build" / f"torch-{backend}"
    metadata = json.loads((variant / "metadata.json").read_text())
    assert (
        metadata["backend"] == {"type": backend} and metadata["license"] == "MIT" and metadata["python-depends"] == []
    )
    assert re.fullmatch(r"[a-z][-a-z0-9]*[a-z0-9]", metadata["name"])
    ops = load(metadata["id"], variant / "__init__.py")
    assert set(ops.__all__) == set(fastvgan_kernels.__all__) and ops.norm_act is not fastvgan_kernels.norm_act
    x = torch.randn(2, 4, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    y = ops.norm_act(x, activation="leaky_relu", negative_slope=0.2)
    expected = F.leaky_relu(F.batch_norm(x, None, None, training=True), 0.2)
    torch.testing.assert_close(y, expected)
    grads = (torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected))
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)
    weight = torch.randn(5, 4, 3, 3, 3, dtype=torch.float64)
    with FlopCounterMode(display=False) as counted:
        found = ops.conv_down(x, weight, padding=1)
    with FlopCounterMode(display=False) as stock:
        torch.testing.assert_close(found, F.conv3d(x, weight, padding=1))
    assert counted.get_total_flops() == stock.get_total_flops() > 0
    assert "holds no compiled part" in ops.implementations()["norm_act"]["implementations"]["cpp"]
    # An older `kernels` imports the folder of the package's name.
    older = load(f"older_{backend}", variant / "fastvgan_kernels" / "__init__.py")
    assert older.norm_act is ops.norm_act


def test_the_builders_file_names_what_is_there(repository):
    build = tomllib.loads((repository / "build.toml").read_text())
    assert build["general"]["backends"] == ["cpu", "cuda"] and build["torch-noarch"] == {}
    package = repository / "torch-ext" / build["general"]["name"].replace("-", "_")
    assert (package / "__init__.py").is_file() and not [*repository.rglob("*.so")]
