"""What the tests of the page share: small models to choose from, and the pictures that a page shows."""

import io

import numpy as np
import torch
from PIL import Image, ImageSequence
from safetensors.torch import save_file

from fastvgan.models import ModelConfig, build_generator
from fastvgan.runs.config import RunConfig

WORDS = "0 1 2 3 4 5 6 7 8 9 a and blue circle diagonally down green in left moving purple red right up white yellow"
KNOWN = {
    "vocabulary": tuple(WORDS.split()),
    "caption_length": 7,
    "class_names": ("cat", "dog"),
    "base_width": 2,
    "latent": 4,
}


def make_run(folder, **values):
    """A run folder with a generator of few weights, which are so large that conditions show in eight bits."""
    model = ModelConfig(**{**KNOWN, "condition": ("text",), **values})
    torch.manual_seed(0)
    network = build_generator(model)
    for parameter in network.parameters():
        parameter.data.mul_(3)
    path = folder / "export" / "generator.safetensors"
    path.parent.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, path, {"fastvgan": model.model_dump_json()})
    (folder / "config.yaml").write_text(RunConfig(model=model).to_yaml())
    return folder


def frames_of(png, frames):
    """The frames of an animated PNG, uint8 (T, H, W, 3); Pillow stores equal ones once, and shows them longer."""
    shown = []
    for picture in ImageSequence.Iterator(Image.open(io.BytesIO(png))):
        pixels = np.asarray(picture.convert("RGB"))
        shown += [pixels] * round(picture.info["duration"] / 125)
    assert len(shown) == frames
    return np.stack(shown)
