"""What a step takes in memory, told from its sizes before anything is allocated."""

import torch

from fastvgan.data.source import Source
from fastvgan.machine.memory import check_memory
from fastvgan.metrics.evaluation import evaluation_bytes
from fastvgan.models import ModelConfig
from fastvgan.models.discriminators import frame_stride
from fastvgan.models.sizes import count_min_weights, map_values
from fastvgan.runs.config import RunConfig

# Bytes for each parameter: weight, gradient, Adam's two moments, and of G the average.
_BYTES_OF_G, _BYTES_OF_D = 20, 16
_SEARCHED = 4096  # captions at most, among which a wrong one is looked for


def check_step(config: RunConfig, source: Source, clips: int, device: torch.device, precision: torch.dtype) -> None:
    """Refuse a step that cannot fit into memory.

    Args:
        config: with the vocabulary and classes of the data. source: of the clips. clips: that are computed on at once.
        device: where. precision: of activations.

    Raises:
        UserError: there is less memory than it takes at least.
    """
    model, training = config.model, config.training
    weights = weight_bytes(model)
    check_memory(
        weights,
        f"a model of --base-width {model.base_width} and --latent {model.latent}",
        "take a smaller one",
        device,
    )
    check_memory(
        evaluation_bytes(model, training.evaluate_clips),
        f"an evaluation by --evaluate-clips {training.evaluate_clips}",
        "take fewer",
    )
    of_a_clip = clip_bytes(model, precision)
    if training.matching_aware and "text" in model.condition:
        # A number and a place for each caption that is looked at.
        of_a_clip += 12 * training.wrong_conditions * min(len(source.captions), _SEARCHED)
    check_memory(
        weights + clips * of_a_clip,
        f"a step on {clips} clips at once",
        "take a smaller --batch-size, or --accumulate for the same batch in parts",
        device,
    )


def weight_bytes(model: ModelConfig) -> int:
    """Bytes of both networks' weights at least, with what the optimisers and the average keep of them."""
    generator, discriminator = count_min_weights(model)
    return generator * _BYTES_OF_G + discriminator * _BYTES_OF_D


def clip_bytes(model: ModelConfig, precision: torch.dtype) -> int:
    """Bytes that a clip takes on its way through both networks and back, at least.

    A step keeps what each layer of G gives, and what each layer of a discriminator gives, for one kind of clips at
    least. Measured with the preset `reference` in float32, a clip more takes 0.88 MiB, of which this counts 0.72.
    """
    temporal = model.family == "conv3d"
    values = sum(map_values(model.frames, model.height, model.width, model.base_width, temporal))
    every = 1 if "clip" in model.discriminators else frame_stride(model)
    clip = model.frames * model.height * model.width * model.channels
    # Clips, real and generated, are float32 in any case.
    return (values * (1 + model.refine) + values // every) * precision.itemsize + 2 * clip * 4
