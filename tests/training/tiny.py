"""A run so small that a step takes milliseconds, for tests of everything around the step."""

import torch

from fastvgan.runs.config import RunConfig
from fastvgan.runs.presets import PRESETS

FLAGS = ["--base-width", "2", "--batch-size", "4", "--latent", "4", "--log-every", "2", "--precision", "fp32"]
FLAGS += ["--evaluate-clips", "16"]


def tiny(model=None, **training) -> RunConfig:
    """The preset `clips` on digits, with two feature maps and four clips in a batch."""
    values = PRESETS["clips"].model_dump()
    small = {
        "steps": 6,
        "batch_size": 4,
        "log_every": 2,
        "precision": "fp32",
        "sample_every": 100,
        "evaluate_clips": 16,
        "lr_decay": 0.0,
        "diversity": 0.0,
    }
    values["model"] |= {"base_width": 2, "latent": 4, **(model or {})}
    values["training"] |= {**small, **training}
    return RunConfig.model_validate(values)


class Unscored:
    """Takes the place of `Scoring` where scores are not what is tested."""

    def __init__(self, *_):
        pass

    def measure(self):
        from fastvgan.training.run.scoring import Scored

        return Scored({}, None, [])


def weights(step) -> dict[str, torch.Tensor]:
    """All weights, averages, statistics and moments of an `AdversarialStep`, by name."""
    from fastvgan.training.step.tensors import tensors_of

    return {name: tensor.detach().clone() for name, tensor in tensors_of(step).items()}
