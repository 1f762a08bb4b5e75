"""The inputs of a training step, computed on the device from the step's number, and from decoded clips if any."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from fastvgan.data.sampling import Shuffle
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.files.pixels import to_float
from fastvgan.models import Condition
from fastvgan.models.discriminators import count_starts, frame_stride
from fastvgan.models.noise import NoiseDriven
from fastvgan.random_draws import Draws, Purpose, below, draw_below, normals, uniforms
from fastvgan.runs.config import RunConfig
from fastvgan.training.conditions import Conditions, condition_from, swap_neighbours


class Inputs(NamedTuple):
    """Inputs of the networks in a step.

    Attributes:
        real: clips (N, C, T, H, W) in [-1, 1].
        z: noise, float32 (N, ...).
        c: conditions of the clips, or None.
        wrong: K conditions per clip with one wrong part, or None.
        is_image_wrong: whether the wrong part is the first frames, for D; otherwise `wrong` has those of `c`.
        samples: the clips' numbers in the run, int64 (N,), from which random numbers follow; None if none are drawn.
    """

    real: torch.Tensor
    z: torch.Tensor
    c: Condition | None = None
    wrong: Condition | None = None
    is_image_wrong: bool = False
    samples: torch.Tensor | None = None


class BatchMaker:
    """Makes the inputs of step k from (seed, k), and from the clips of step k if those are decoded.

    Args:
        conditions: conditions of the clips.
        generator: the generator that takes the noise.
        source: the data.
        seed: seed of the run.
        wrong: number of wrong conditions per clip.
        rows: the clips of a batch that this process computes, ascending. The random numbers of a clip depend on its
            index in the whole batch only.
        total: number of clips in a batch of all processes.
        device: device of the inputs.
    """

    def __init__(
        self,
        conditions: Conditions,
        generator: NoiseDriven,
        source: Source,
        seed: int,
        wrong: int,
        rows: Sequence[int],
        total: int,
        device: "torch.device | str" = "cpu",
    ):
        self.parts = conditions.parts
        self._conditions, self._generator, self._source, self._seed = conditions, generator, source, seed
        self._wrong, self._total = wrong if conditions.can_be_wrong else 0, total
        per_clip = {
            Purpose.CLIP: source.draws,
            Purpose.TRAINING_NOISE: generator.noise_size(),
            Purpose.WRONG_CONDITION: self._wrong * conditions.draws,
            Purpose.PHRASING: 1 if conditions.phrasings else 0,
        }
        self._draws = Draws(seed, per_clip, device)
        self._step_draws = Draws(seed, {Purpose.CANDIDATES: 1}, device)
        self._span = range(rows[0], rows[-1] + 1)
        self._places = torch.tensor(rows, device=device)
        self._shuffle = Shuffle(source.size, seed, len(self._span), device) if source.shuffles else None

    def prepare(self, number: int) -> None:
        """Copy step `number`'s part of the shuffle to the device, before `make`, without waiting."""
        if self._shuffle:
            first = number * self._total
            self._shuffle.reach(range(first + self._span.start, first + self._span.stop))

    def draw_wrong_part(self, number: int) -> int:
        """Draw, on the host, which of the parts that can be wrong is wrong in step `number`."""
        count = len(self._conditions.can_be_wrong)
        return draw_below(count, self._seed, Purpose.WRONG_PART, number) if self._wrong and count > 1 else 0

    def has_wrong_image(self, part: int) -> bool:
        """Whether `part`, as drawn by `draw_wrong_part`, is the first frames."""
        return self._wrong > 0 and self._conditions.can_be_wrong[part] == "image"

    def make(self, number: torch.Tensor, part: torch.Tensor, clips: Clips | None = None) -> Inputs:
        """Make the inputs of a step, with right first frames (see `with_wrong_images`), without waiting for the device.

        Args:
            number: the step (from 0), int64 () on the device.
            part: result of `draw_wrong_part`, int64 () on the device.
            clips: clips of the step on the device; None if the source draws them.
        """
        samples = torch.add(self._places, number, alpha=self._total)
        words = self._draws(samples)
        if clips is None:
            chosen = self._shuffle(samples) if self._shuffle else None
            clips = self._source.draw(words[Purpose.CLIP], chosen)
        real = to_float(clips.video, clips.video.device)
        phrasing = None
        if self._conditions.phrasings:
            phrasing = below(words[Purpose.PHRASING][:, 0], self._conditions.phrasings)
        c = condition_from(*self._conditions.right(clips, phrasing), real, self.parts)
        z = self._generator.arrange(normals(words[Purpose.TRAINING_NOISE]))
        if not self._wrong or c is None:
            return Inputs(real, z, c, samples=samples)
        chances = uniforms(words[Purpose.WRONG_CONDITION]).unflatten(1, (self._wrong, -1))
        start = None
        if self._conditions.needs_start:
            start = uniforms(self._step_draws(number[None])[Purpose.CANDIDATES]).squeeze()
        wrong = Condition(*self._conditions.wrong(clips, chances, start, part, phrasing), c.image)
        return Inputs(real, z, c, wrong, samples=samples)


def with_wrong_images(inputs: Inputs) -> Inputs:
    """Return a step's inputs for D with other clips' first frames as the only wrong part.

    All K wrong conditions of a clip are the same then. G compares other parts: its first frames would take another pass
    through D.

    Raises:
        ValueError: the inputs have no wrong conditions, or these have no first frames.
    """
    c, wrong = inputs.c, inputs.wrong
    if c is None or c.image is None or wrong is None:
        raise ValueError("the inputs have no wrong conditions with first frames")
    text = None if c.text is None or wrong.text is None else c.text[:, None].expand_as(wrong.text)
    label = None if c.label is None or wrong.label is None else c.label[:, None].expand_as(wrong.label)
    return inputs._replace(wrong=Condition(text, label, swap_neighbours(c.image)), is_image_wrong=True)


def advise_smaller_parts(config: RunConfig, world_size: int) -> str:
    """Return what makes a step of a run that a device has no memory for smaller."""
    parts = 2 * config.training.accumulate
    halved = config.model_copy(update={"training": config.training.model_copy(update={"accumulate": parts})})
    smaller = "use another --run-dir with a smaller --batch-size"
    try:
        share_of_a_batch(halved, world_size)
    except UserError:  # the batch cannot be divided so
        return smaller
    return f"resume with --accumulate {parts}, or {smaller}"


def share_of_a_batch(config: RunConfig, world_size: int) -> int:
    """Return the number of clips of a batch per process.

    Raises:
        UserError: the batch cannot be divided evenly.
    """
    size, parts = config.training.batch_size, world_size * config.training.accumulate
    if size % parts or size // parts < 2:
        raise UserError(
            f"--batch-size {size} cannot be shared by {world_size} processes in {config.training.accumulate} parts "
            f"each: use a multiple of {parts}, at least {2 * parts}"
        )
    training = config.training
    swaps = "image" in config.model.condition and training.matching_aware
    if parts > 1 and size // parts % 2 and (training.diversity or training.feature_diversity or swaps):
        raise UserError(
            f"--batch-size {size} leaves {size // parts} clips to each of {parts} parts, but clips are compared in "
            f"pairs (--diversity, --feature-diversity, wrong first frames): use a multiple of {2 * parts}"
        )
    starts = count_starts(config.model)
    if size // parts < frame_stride(config.model) or (parts > 1 and size // parts % starts):
        raise UserError(
            f"--frame-every {config.model.frame_every}: the frames shown differ from clip to clip, and parts of "
            f"{size // parts} clips show other frames than the whole batch; use a --batch-size that is a "
            f"multiple of {parts * starts}, or another --frame-every"
        )
    return size // world_size
