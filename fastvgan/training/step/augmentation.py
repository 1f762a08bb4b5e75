"""Augmentation within a step: its random numbers, and its probability, which may adapt to D's overfitting."""

from collections.abc import Callable

import torch

from fastvgan.models import Condition
from fastvgan.random_draws import Draws, Purpose
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.augment import WORDS, ChangeMaker, apply_changes
from fastvgan.training.batches import Inputs

_INTERVAL = 4  # steps between adaptations, in the paper's published code


class Augmentation:
    """Changes what the discriminators see, by `fastvgan.training.augment`; all arguments pass unchanged without it.

    Every clip has its own random numbers as a real one, as a generated one in D's update, and in G's, as in the code
    that Zhao et al. 2020 published.

    With a target the probability follows Karras et al. 2020 (Training Generative Adversarial Networks with Limited
    Data, section 3.1): every four steps it rises if the mean of r = E[sign(D(real))] over them is above the target, and
    falls if it is below. It is a tensor on the device, and changes there.

    Args:
        config: which augmentations, and how strong.
        height, width: size of the clips in pixels.
        device: device of the clips.
        everywhere: averages a value over all processes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        height: int,
        width: int,
        device: torch.device,
        everywhere: Callable[[torch.Tensor], torch.Tensor] = lambda mean: mean,
    ):
        self.names, self._target, self._everywhere = config.augment, config.augment_target, everywhere
        self.is_used = bool(self.names) and config.augment_strength > 0
        self.adapts = self.is_used and self._target is not None
        self._most, self._first = config.augment_strength, 0.0 if self.adapts else config.augment_strength
        self._change = _INTERVAL * config.batch_size / config.augment_clips
        # The probability, the sum of r since it last changed, and the number of steps since then.
        self._state = torch.tensor([self._first, 0.0, 0.0], device=device)
        self.probability = self._state[0]
        if self.is_used:
            self._make = ChangeMaker(self.names, height, width, device)
            uses = Purpose.AUGMENT_REAL, Purpose.AUGMENT_FAKE, Purpose.AUGMENT_GENERATOR
            self._draws = {use: Draws(config.seed, {use: WORDS}, device) for use in uses}

    def real(self, inputs: Inputs) -> Inputs:
        """Change the real clips for D's update, with the first frames that they are compared with."""
        if not self.is_used:
            return inputs
        c, wrong = inputs.c, inputs.wrong
        image = None if c is None else c.image
        other = wrong.image if wrong is not None and inputs.is_image_wrong else None
        video, *images = self._show(
            Purpose.AUGMENT_REAL, inputs, inputs.real, *(x for x in (image, other) if x is not None)
        )
        if c is None or image is None:
            return inputs._replace(real=video)
        if wrong is not None:  # the last image is the wrong one, if there is one
            wrong = wrong._replace(image=images[-1])
        return inputs._replace(real=video, c=c._replace(image=images[0]), wrong=wrong)

    def fake(
        self, use: Purpose, inputs: Inputs, clips: torch.Tensor, c: Condition | None
    ) -> tuple[torch.Tensor, Condition | None]:
        """Change generated clips, and the first frames among their conditions.

        A paired objective's update of G has real clips changed as the generated ones that they are compared with.

        Args:
            use: AUGMENT_FAKE in D's update, AUGMENT_GENERATOR in G's.
            inputs: inputs of the step, for the numbers of the samples.
            clips: (N, C, T, H, W).
            c: their conditions.
        """
        if not self.is_used:
            return clips, c
        if c is None or c.image is None:
            return self._show(use, inputs, clips)[0], c
        video, image = self._show(use, inputs, clips, c.image)
        return video, c._replace(image=image)

    @torch.no_grad()
    def adapt(self, sign: torch.Tensor, bad: torch.Tensor) -> None:
        """Adapt the probability after a step.

        Args:
            sign: r of the step, the mean sign () of D's logits on real clips; NaN if nothing `adapts`.
            bad: () above 0 if the step was not finite, so that it changes nothing.
        """
        if not self.adapts or self._target is None:
            return
        probability, signs, steps = self._state.unbind()
        signs, steps = signs + self._everywhere(sign), steps + 1
        is_due = steps >= _INTERVAL
        step = (signs / _INTERVAL - self._target).sign() * self._change
        changed = (probability + step * is_due).clamp(0, self._most)
        new = torch.stack([changed, torch.where(is_due, 0, signs), torch.where(is_due, 0, steps)])
        self._state.copy_(torch.where(bad > 0, self._state, new))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state that exact resumption needs: scalars () by name, none if the probability is fixed."""
        return dict(zip(("probability", "signs", "steps"), self._state.unbind(), strict=True)) if self.adapts else {}

    def reset(self) -> None:
        """Reset the probability, in place, to its first value."""
        self._state.zero_()
        self.probability.fill_(self._first)

    def _show(self, use: Purpose, inputs: Inputs, clips: torch.Tensor, *images: torch.Tensor) -> list[torch.Tensor]:
        if inputs.samples is None:
            raise ValueError("--augment needs the numbers of the samples, `Inputs.samples`")
        words = self._draws[use](inputs.samples)[use]
        return apply_changes(self._make(words, self.probability), clips, *images)
