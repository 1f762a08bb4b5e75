"""Tensors to images and back against numpy and Pillow, and safetensors files against the safetensors package."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from fastvgan.files.pictures import to_picture, to_pixels, to_tensor
from fastvgan.files.tensor_file import parse_tensors, tensor_bytes


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_those_that_pillow_makes_of_arrays(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)[..., :channels]  # not contiguous
    expected = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    found = to_picture(torch.from_numpy(pixels))
    assert (found.mode, found.size, found.tobytes()) == (expected.mode, (5, 7), expected.tobytes())
    assert np.array_equal(to_pixels(found), pixels)


def test_flipped_foreign_and_read_only_arrays_become_tensors():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[::-1, ::2]
    array.flags.writeable = False
    assert np.array_equal(to_tensor(array), array)
    leaf = torch.ones(2, requires_grad=True)
    assert not to_tensor(leaf).requires_grad and to_tensor(leaf).data_ptr() == leaf.data_ptr()


@pytest.mark.parametrize("shape", [(3,), (2, 2, 5), (0, 4, 3), (1, 2, 2, 3)])
def test_other_shapes_are_no_pictures(shape):
    with pytest.raises(ValueError, match="is no picture"):
        to_picture(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        to_picture(torch.zeros(2, 2, 3))


def test_tensor_files_are_those_of_safetensors():
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
    tensors = {str(dtype): torch.arange(6).view(2, 3).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "turned": torch.randn(3, 4).half().T}
    metadata = {"step": "7"}  # of several, safetensors writes the order at random
    content = tensor_bytes(tensors, metadata)
    assert content == save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    assert all(tensor.equal(tensors[name]) for name, tensor in parse_tensors(content).items())


def test_equal_tensors_and_metadata_make_equal_files():
    tensors = {"a": torch.arange(6).view(2, 3), "ä": torch.ones(3, dtype=torch.float16)}
    metadata = {name: f'{name} "é"\n\x07' for name in ("one", "two", "three", "four")}
    made = {tensor_bytes(tensors, dict(sorted(metadata.items(), reverse=turn))) for turn in (True, False) * 4}
    assert len(made) == 1
    data = made.pop()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0 and list(header.pop("__metadata__").items()) == sorted(metadata.items())
    expected = save(tensors, metadata)
    assert len(data) == len(expected) and header.keys() == tensors.keys()
    found = load(data)
    assert all(torch.equal(found[name], one) and found[name].dtype == one.dtype for name, one in tensors.items())
