"""A lower bound of a step's memory, computed before anything is allocated."""

import torch

from fastvgan.data.source import Source
from fastvgan.machine.memory import check_memory
from fastvgan.metrics.evaluation import evaluation_bytes
from fastvgan.models import ModelConfig
from fastvgan.models.discriminators import frame_stride
from fastvgan.models.sizes import count_min_weights, map_values
from fastvgan.runs.config import RunConfig

# Bytes per parameter: weight, gradient, Adam's two moments, and for G the average.
_BYTES_OF_G, _BYTES_OF_D = 20, 16
_SEARCHED = 4096  # most captions among which a wrong one is searched


def check_step(config: RunConfig, source: Source, clips: int, device: torch.device, precision: torch.dtype) -> None:
    """Refuse a step that cannot fit into memory.

    Args:
        config: the run's settings, with the vocabulary and classes of the data.
        source: the data.
        clips: number of clips in one forward pass.
        device: device of the step.
        precision: dtype of activations.

    Raises:
        UserError: the device has less memory than the lower bound.
    """
    model, training = config.model, config.training
    weights = weight_bytes(model)
    check_memory(
        weights,
        f"a model with --base-width {model.base_width} and --latent {model.latent}",
        "use a smaller one",
        device,
    )
    check_memory(
        evaluation_bytes(model, training.evaluate_clips),
        f"an evaluation with --evaluate-clips {training.evaluate_clips}",
        "use fewer",
    )
    per_clip = clip_bytes(model, precision)
    if training.matching_aware and "text" in model.condition:
        # A number and an index per caption.
        per_clip += 12 * training.wrong_conditions * min(len(source.captions), _SEARCHED)
    check_memory(
        weights + clips * per_clip,
        f"a step on {clips} clips at once",
        "use a smaller --batch-size, or --accumulate to process the batch in parts",
        device,
    )


def weight_bytes(model: ModelConfig) -> int:
    """Return the least bytes of both networks' weights, gradients, moments and average."""
    generator, discriminator = count_min_weights(model)
    return generator * _BYTES_OF_G + discriminator * _BYTES_OF_D


def clip_bytes(model: ModelConfig, precision: torch.dtype) -> int:
    """Return the least bytes that a clip takes in a forward and backward pass through both networks.

    A step keeps the outputs of all layers of G, and those of a discriminator for real or generated clips. With the
    preset `reference` in float32 this counts 0.72 of the measured 0.88 MiB per clip.
    """
    values = sum(map_values(model))
    every = 1 if "clip" in model.discriminators else frame_stride(model)
    clip = model.frames * model.height * model.width * model.channels
    # Real and generated clips are always float32.
    # D's maps are about as large as G's, and each residual block adds two.
    of_d = values * (1 + 2 * model.d_blocks) // every
    return (values * (1 + model.refine) + of_d) * precision.itemsize + 2 * clip * 4
