"""What one step computes on, made within it: from the step's number alone, or from decoded clips too."""

from typing import NamedTuple

import torch

from fastvgan.data.sampling import Shuffle
from fastvgan.data.source import Clips, Source
from fastvgan.models import Condition
from fastvgan.models.noise import NoiseDriven
from fastvgan.pixels import to_float
from fastvgan.random_draws import Draws, Purpose, draw_below, normals, uniforms
from fastvgan.training.conditions import Conditions, swapped, told


class Inputs(NamedTuple):
    """What the networks take in a step.

    real: clips (N, C, T, H, W) in [-1, 1]. z: noise, float32 (N, ...). c: conditions of the clips, or None. wrong: K
    conditions per clip of which one part is wrong, or None. is_image_wrong: whether that part is the first frames;
    otherwise `wrong` has those of `c`.
    """

    real: torch.Tensor
    z: torch.Tensor
    c: Condition | None
    wrong: Condition | None
    is_image_wrong: bool = False


class BatchMaker:
    """Makes the inputs of step k from (seed, k), and from the clips of step k where those are decoded.

    Args:
        conditions: of the clips. generator: whose noise it is. source: of the clips.
        seed: of the run. wrong: how many wrong conditions a clip gets.
        rows, total: which clips of a batch of `total` these are, where several processes share it. What is drawn for a
            clip depends on its place in the whole batch alone.
        device: where inputs are made.
    """

    def __init__(
        self,
        conditions: Conditions,
        generator: NoiseDriven,
        source: Source,
        seed: int,
        wrong: int,
        rows: slice,
        total: int,
        device: "torch.device | str" = "cpu",
    ):
        self.parts = conditions.parts
        self._conditions, self._generator, self._source, self._seed = conditions, generator, source, seed
        self._wrong, self._total = wrong if conditions.can_be_wrong else 0, total
        of_a_clip = {
            Purpose.CLIP: source.draws,
            Purpose.TRAINING_NOISE: generator.noise_size(),
            Purpose.WRONG_CONDITION: self._wrong * conditions.draws,
        }
        self._draws = Draws(seed, of_a_clip, device)
        self._of_a_step = Draws(seed, {Purpose.CANDIDATES: 1}, device)
        self._rows = rows
        self._places = torch.arange(rows.start, rows.stop, device=device)
        self._shuffle = Shuffle(source.size, seed, rows.stop - rows.start, device) if source.shuffles else None

    def prepare(self, number: int) -> None:
        """Have on the device what the host knows of step `number`, before `make`; the host waits for nothing."""
        if self._shuffle:
            first = number * self._total
            self._shuffle.reach(range(first + self._rows.start, first + self._rows.stop))

    def wrong_part(self, number: int) -> int:
        """Which of the parts that can be wrong is wrong in step `number`, drawn on the host."""
        count = len(self._conditions.can_be_wrong)
        return draw_below(count, self._seed, Purpose.WRONG_PART, number) if self._wrong and count > 1 else 0

    def has_wrong_image(self, part: int) -> bool:
        """Whether that part is the first frames."""
        return self._wrong > 0 and self._conditions.can_be_wrong[part] == "image"

    def make(self, number: torch.Tensor, part: torch.Tensor, clips: Clips | None = None) -> Inputs:
        """The inputs of a step, first frames right; the host waits for nothing.

        Args:
            number: int64 () on the device, the step (from 0). part: int64 (), as `wrong_part` gives it.
            clips: those of the step, on the device; None where the source draws them.
        """
        samples = torch.add(self._places, number, alpha=self._total)
        words = self._draws(samples)
        if clips is None:
            chosen = self._shuffle(samples) if self._shuffle else None
            clips = self._source.draw(words[Purpose.CLIP], chosen)
        real = to_float(clips.video, clips.video.device)
        c = told(*self._conditions.right(clips), real, self.parts)
        z = self._generator.arrange(normals(words[Purpose.TRAINING_NOISE]))
        if not self._wrong:
            return Inputs(real, z, c, None)
        chances = uniforms(words[Purpose.WRONG_CONDITION]).unflatten(1, (self._wrong, -1))
        start = None
        if self._conditions.searches_some:
            start = uniforms(self._of_a_step(number[None])[Purpose.CANDIDATES]).squeeze()
        wrong = Condition(*self._conditions.wrong(clips, chances, start, part), c.image)
        return Inputs(real, z, c, wrong)


def with_wrong_images(inputs: Inputs) -> Inputs:
    """The same inputs with first frames that fit no clip; what else is wrong in them must be right."""
    return inputs._replace(wrong=inputs.wrong._replace(image=swapped(inputs.c.image)), is_image_wrong=True)


def step_seed(seed: int, step: int) -> int:
    """The seed of the generators that a network might draw from in a step: one 63-bit number for the pair."""
    # The multiplier is that of Knuth's 64-bit linear congruential generator.
    return (seed * 6364136223846793005 + step) % 2**63
