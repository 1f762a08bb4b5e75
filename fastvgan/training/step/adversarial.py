"""The adversarial step: one update of the discriminator, of the generator and of its average."""

import contextlib
import copy
import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from fastvgan.losses import (
    OBJECTIVES,
    contrast,
    diversity,
    feature_diversity,
    gradient_penalty,
    loss_on_fake,
    loss_on_real,
    mean_differences,
)
from fastvgan.models import Condition, build
from fastvgan.models.config import ModelConfig
from fastvgan.models.discriminators import Discriminators, sum_logits
from fastvgan.models.warp import GeneratorOutput
from fastvgan.random_draws import Purpose
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.batches import Inputs
from fastvgan.training.coherence import coherence
from fastvgan.training.parallel import Parallel
from fastvgan.training.step.augmentation import Augmentation
from fastvgan.training.step.passes import (
    draw,
    freeze,
    mean_over_parts,
    mean_probability,
    pair_conditions,
    score,
    score_real,
    select_rows,
    sum_losses,
)
from fastvgan.training.step.scalar import DeviceScalar
from fastvgan.training.step.tensor_lists import average_into, copy_bytes, restore_where
from fastvgan.training.step.update import Update
from fastvgan_kernels.finite import add_finite
from fastvgan_kernels.weight_copies import WeightCopies, refresh

if TYPE_CHECKING:
    from fastvgan.models.head import Projection
    from fastvgan.training.step.passes import Generator


class StepResult(NamedTuple):
    """Scalars of one step, float32 tensors () on the device.

    Attributes:
        d_loss, g_loss: losses of both networks.
        d_real, d_fake: mean probability of being real and matching that D gives real and generated clips.
        diversity: how much generated clips differ (see `fastvgan.losses.diversity`); clips of one condition only if
            that term has a weight.
        r1: gradient penalty; NaN in steps without it.
        d_contrast, g_contrast: cross entropies of a clip's own condition among wrong ones, of real and of generated
            clips; NaN without that term.
        d_grad_norm, g_grad_norm: norms of the gradients.
        skipped: 1 if a gradient or a loss was not finite, so that an update was skipped; else 0.
        d_sign, augment: mean sign of D's logits on real clips, and the probability of augmentations that follows it;
            NaN with a fixed probability.
    """

    d_loss: torch.Tensor
    g_loss: torch.Tensor
    d_real: torch.Tensor
    d_fake: torch.Tensor
    diversity: torch.Tensor
    r1: torch.Tensor
    d_contrast: torch.Tensor
    g_contrast: torch.Tensor
    d_grad_norm: torch.Tensor
    g_grad_norm: torch.Tensor
    skipped: torch.Tensor
    d_sign: torch.Tensor
    augment: torch.Tensor


_D_SCALARS = ("d_loss", "d_real", "d_fake", "r1", "d_contrast", "d_sign", "d_grad_norm")
_G_SCALARS = ("g_loss", "diversity", "g_contrast", "g_grad_norm", "skipped", "augment")


class StepStart(NamedTuple):
    """What the two updates of a step share.

    Attributes:
        before: bytes of all buffers before the step, uint8 tensors.
        drawn: the generated clips with their autograd graph; None if a batch is processed in parts.
    """

    before: list[torch.Tensor]
    drawn: GeneratorOutput | None


class AdversarialStep:
    """Both networks, their optimisers and the averaged generator, and the step that trains them.

    A step is `prepare`, which runs on the host, then `begin`, `update_discriminator` and `update_generator`. These
    three read and write the same tensors in every step and never wait for the device, so that each can be captured in a
    CUDA graph. Scalars that change between steps (learning rates, the decay of the average) are tensors, too.

    Args:
        model: the networks to build.
        config: how to train them.
        device: device of all tensors.
        precision: torch.bfloat16 or torch.float16 for autocast, or torch.float32 for none.
        parallel: the processes that share a step, if there are several.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: TrainingConfig,
        device: torch.device,
        precision: torch.dtype,
        parallel: Parallel | None = None,
    ):
        self._model, self._seed = model, config.seed
        generator, discriminator = self._build_networks()
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self._parallel = parallel or Parallel()
        self.world_size = self._parallel.world_size
        self._g, self._d = self._parallel.wrap(self.generator), self._parallel.wrap(self.discriminator)
        is_scaled = precision == torch.float16
        self.g_update, self.d_update = (
            Update(network, rate, config.betas, is_scaled, self._parallel.any, self.world_size > 1)
            for network, rate in (
                (self.generator, config.lr_generator),
                (self.discriminator, config.lr_discriminator),
            )
        )
        self.objective = OBJECTIVES[config.objective]
        self.augmentation = Augmentation(config, model.height, model.width, device, self._parallel.mean)
        self.decay, self._ema_share = config.ema, DeviceScalar(0, device)
        self._diversity_share = DeviceScalar(1, device)
        self.diversity, self.diversity_target = config.diversity, config.diversity_target
        self.feature_diversity = config.feature_diversity
        # How much real clips of one condition differ in each feature of a discriminator: from D's update for G's.
        self._real_differences = [torch.zeros(width, device=device) for width in self.discriminator.widths()]
        self.contrast, self.first_frame, self.redraw = config.contrast, config.first_frame, config.redraw
        self.coherence = config.coherence
        self.r1, self.r1_every, self.accumulate = config.r1, config.r1_every, config.accumulate
        # Without its cache a cast made in one CUDA graph is never used in another.
        has_autocast = precision != torch.float32
        self.autocast = torch.autocast(device.type, precision, enabled=has_autocast, cache_enabled=False)
        self._copies: tuple[WeightCopies, ...] = ()
        if has_autocast and reads_copies(device):
            both = self.generator, self.discriminator
            self._copies = tuple(WeightCopies(_convolution_weights(network), precision) for network in both)
        self._nan = torch.full((), torch.nan, device=device)
        self._d_scalars = torch.zeros(len(_D_SCALARS), device=device)
        self._scalars = torch.zeros(len(StepResult._fields), device=device)
        self.totals = torch.zeros(2, len(StepResult._fields), device=device)

    def __call__(self, number: int, inputs: Inputs, regularise: bool = False) -> StepResult:
        """Run step `number` (from 0), with the gradient penalty if `regularise`, and return its scalars."""
        self.prepare(number)
        start = self.begin(inputs)
        self.update_discriminator(inputs, start, regularise)
        self.update_generator(inputs, start)
        return StepResult(*self._scalars.clone().unbind())

    def has_gradient_penalty(self, number: int) -> bool:
        """Whether step `number` has the gradient penalty."""
        return self.r1 > 0 and number % self.r1_every == 0

    def prepare(self, number: int) -> None:
        """Set step `number`'s EMA decay."""
        # Faster decay in the first steps, so that the average forgets the untrained weights.
        self._ema_share.set(1 - min(self.decay, (1 + number) / (10 + number)))

    def begin(self, inputs: Inputs) -> StepStart:
        """Generate the clips for both updates.

        G does not change while D is updated, so a second pass would compute the same clips. A batch in parts gets its
        second pass anyway, since keeping the clips would keep them for all parts at once.
        """
        before = copy_bytes(self._buffers())
        refresh(*self._copies)
        with self._use_copies():
            return StepStart(before, self._generate(inputs) if self.accumulate == 1 else None)

    def update_discriminator(self, inputs: Inputs, start: StepStart, regularise: bool = False) -> None:
        """Train D to tell real clips from generated ones, and from real ones under a wrong condition."""
        self.d_update.clear()
        scalars, differences = [], []
        with self._use_copies():
            for is_last, part in self._parts(inputs):
                drawn = start.drawn
                if drawn is None:
                    with torch.no_grad():
                        drawn = self._generate(part)
                found, apart = self._backward_discriminator(part, drawn.clips.detach(), regularise, is_last)
                scalars.append(found)
                differences += apart
        for target, *parts in zip(self._real_differences, *differences, strict=True):
            if parts:
                target.copy_(torch.stack(parts).mean(0))
        mean = mean_over_parts(scalars)
        torch.stack([*mean, self.d_update.apply(mean[0])], out=self._d_scalars)
        refresh(*self._copies[1:])

    def update_generator(self, inputs: Inputs, start: StepStart, keep_graph: bool = False) -> None:
        """Train G to pass for real, then update the average, the statistics and the totals.

        Args:
            inputs: inputs of the step.
            start: what `begin` returned.
            keep_graph: keep the autograd graph of `start.drawn` for another backward pass.
        """
        self.g_update.clear()
        scalars = []
        # G's update needs gradients through D, not those of D's weights.
        with self._use_copies(), freeze(self.discriminator):
            for is_last, part in self._parts(inputs):
                with self._g.no_sync(not is_last):
                    drawn = self._generate(part) if start.drawn is None else start.drawn
                    scalars.append(self._backward_generator(part, drawn, keep_graph))
        mean = mean_over_parts(scalars)
        norm = self.g_update.apply(mean[0])
        bad = torch.maximum(self.d_update.found, self.g_update.found)
        # A clip that is not finite has gone through the batch norms by now.
        restore_where(bad, self._buffers(), start.before)
        self._average()
        used = self.augmentation.probability.clone() if self.augmentation.adapts else self._nan
        self.augmentation.adapt(self._d_scalars[_D_SCALARS.index("d_sign")], bad)
        self._add_to_totals(*mean, norm, bad, used)

    def set_rates(self, share: float) -> None:
        """Set both learning rates to a share of the configured ones."""
        self.g_update.set_share(share)
        self.d_update.set_share(share)

    def set_diversity(self, share: float) -> None:
        """Set the weight of the diversity terms to a share of the configured one."""
        self._diversity_share.set(share)

    def reset(self) -> None:
        """Reset everything, in place, to its state before the first step."""
        for network, fresh in zip((self.generator, self.discriminator), self._build_networks(), strict=True):
            network.load_state_dict(fresh.state_dict())
        self.ema.load_state_dict(self.generator.state_dict())
        self.g_update.reset()
        self.d_update.reset()
        self.augmentation.reset()

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state that exact resumption needs besides weights and moments: scalars () by name."""
        updates = {"generator": self.g_update, "discriminator": self.d_update}
        parts = {**updates, "augment": self.augmentation}
        return {f"{name}/{key}": value for name, part in parts.items() for key, value in part.state().items()}

    def _build_networks(self) -> "tuple[Generator, Discriminators]":
        torch.manual_seed(self._seed)
        # build() returns plain modules; every family's networks have these types.
        return cast("tuple[Generator, Discriminators]", build(self._model))

    def _buffers(self) -> Iterable[torch.Tensor]:
        return itertools.chain(self.generator.buffers(), self.discriminator.buffers())

    def _parts(self, inputs: Inputs) -> Iterator[tuple[bool, Inputs]]:
        """Yield the parts that a batch is processed in, each with whether it is the last."""
        if self.accumulate == 1:
            yield True, inputs
            return
        size = len(inputs.z) // self.accumulate
        for i in range(self.accumulate):
            yield i == self.accumulate - 1, select_rows(inputs, slice(i * size, (i + 1) * size))

    def _generate(self, inputs: Inputs) -> GeneratorOutput:
        with self.autocast:
            return self._g(draw, inputs.z, self._fake_conditions(inputs.c))

    def _fake_conditions(self, c: Condition | None) -> Condition | None:
        """Return the conditions of generated clips: in pairs if a term compares clips of one condition."""
        return pair_conditions(c) if (self.diversity or self.feature_diversity) and c is not None else c

    def _backward_discriminator(
        self, part: Inputs, fake: torch.Tensor, regularise: bool, is_last: bool
    ) -> tuple[tuple[torch.Tensor, ...], list[list[torch.Tensor]]]:
        """Add D's gradients on one part.

        Returns:
            Scalars in the order of _D_SCALARS without the norm, and how much real clips differ: nothing, or one list of
            `mean_differences` for each discriminator.
        """
        if regularise:
            part = part._replace(real=part.real.detach().requires_grad_())
        # One backward pass each for real and generated clips: the first one's memory is free before the second.
        with self._d.no_sync():
            # In float16 a gradient's gradient would need its own scale.
            with contextlib.nullcontext() if regularise and self.d_update.is_scaled else self.autocast:
                real = self._d(score_real, self.augmentation.real(part))
                apart = self._differences(part, real.features)
                loss_real = sum_losses(partial(loss_on_real, self.objective), real.right, *real.wrong)
                fits = sum_losses(contrast, real.right, *real.wrong) if self.contrast and real.wrong else None
                penalty = gradient_penalty(sum_logits(real.right), part.real) if regularise else self._nan
            # Weighted by its interval: the lazy regularisation of Karras et al. 2020 (StyleGAN2).
            cost = loss_real + self.r1 * self.r1_every * penalty if regularise else loss_real
            cost = cost if fits is None else cost + self.contrast * fits
            self.d_update.backward(self._per_part(cost))
        with self._d.no_sync(not is_last):
            with self.autocast:
                shown = self.augmentation.fake(Purpose.AUGMENT_FAKE, part, fake, self._fake_conditions(part.c))
                on_fake = self._d(score, *shown)
                loss_fake = sum_losses(partial(loss_on_fake, self.objective, matching_aware=bool(real.wrong)), on_fake)
            self.d_update.backward(self._per_part(loss_fake))
        probabilities = mean_probability(real.right), mean_probability(on_fake)
        fits = self._nan if fits is None else fits.detach()
        sign = sum_logits(real.right).detach().sign().mean() if self.augmentation.adapts else self._nan
        return ((loss_real + loss_fake).detach(), *probabilities, penalty.detach(), fits, sign), apart

    def _differences(self, part: Inputs, features: "list[Projection]") -> list[list[torch.Tensor]]:
        if not self.feature_diversity or part.c is None:
            return []
        gather = self._parallel.gather
        c = Condition(*(None if x is None else gather(x) for x in part.c))
        alike = c.alike()
        with torch.no_grad():
            return [[mean_differences(gather(each.pool()), alike) for each in features]]

    def _backward_generator(self, part: Inputs, drawn: GeneratorOutput, keep_graph: bool) -> tuple[torch.Tensor, ...]:
        """Add G's gradients on one part; return scalars in the order of _G_SCALARS without norm and flag."""
        fake = drawn.clips
        with self.autocast:
            given, d, fits = self._fake_conditions(part.c), self.discriminator, None
            shown, c = self.augmentation.fake(Purpose.AUGMENT_GENERATOR, part, fake, given)
            features = d.features(shown, c)
            logits = d.score(features, c)
            loss = sum_losses(self.objective.generator, logits)
            if self.contrast and part.wrong is not None and any(x is not None for x in part.wrong[:2]):
                # Wrong first frames would take another pass through D, so only the other parts are wrong here.
                wrong = self._fake_conditions(part.wrong._replace(image=None))
                wrong = wrong and wrong._replace(image=None if c is None else c.image)
                fits = sum_losses(contrast, logits, d.score(features, wrong))
            apart = varied = diversity(fake, part.z, self.diversity_target)
            if self.diversity and part.c is not None and drawn.picture is not None:
                # A different place is enough to make clips differ, so pictures need their own term. They overlap where
                # clips do not, which halves the difference of two real ones.
                varied = apart + diversity(drawn.picture, part.z, self.diversity_target / 2)
        cost = loss - self.diversity * self._diversity_share.tensor * varied if part.c is not None else loss
        if self.feature_diversity and part.c is not None:
            seen = feature_diversity([each.pool() for each in features], self._real_differences, self._parallel.mean)
            cost = cost - self.feature_diversity * self._diversity_share.tensor * seen
        cost = cost if fits is None else cost + self.contrast * fits
        if self.first_frame and given is not None and given.image is not None:
            cost = cost + self.first_frame * F.mse_loss(fake[:, :, 0].float(), given.image.float())
        if self.coherence:
            cost = cost + self.coherence * coherence(fake, part.real, self._parallel.mean)
        if self.redraw and drawn.redrawn is not None:
            cost = cost + self.redraw * drawn.redrawn
        self.g_update.backward(self._per_part(cost), keep_graph)
        return loss.detach(), apart.detach(), self._nan if fits is None else fits.detach()

    def _per_part(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.accumulate == 1 else loss / self.accumulate

    @contextlib.contextmanager
    def _use_copies(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for copies in self._copies:
                stack.enter_context(copies.in_use())
            yield

    @torch.no_grad()
    def _average(self) -> None:
        average_into(list(self.ema.parameters()), list(self.generator.parameters()), self._ema_share.tensor)

    @torch.no_grad()
    def _add_to_totals(self, *g_scalars: torch.Tensor) -> None:
        """Store this step's scalars, and add finite ones and their counts to `totals`."""
        by_name = dict(zip((*_D_SCALARS, *_G_SCALARS), (*self._d_scalars.unbind(), *g_scalars), strict=True))
        torch.stack([by_name[name] for name in StepResult._fields], out=self._scalars)
        add_finite(self._scalars, self.totals)


def _convolution_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that convolutions cast, including a ConvLSTM's and 2-D ones."""
    return [p for p in network.parameters() if p.dim() >= 3 and p.dtype == torch.float32]


def reads_copies(device: torch.device) -> bool:
    """Whether convolutions on a device read low-precision copies of weights; compiled ones on a CPU read float32."""
    return device.type == "cuda"


def networks(step: AdversarialStep) -> dict[str, nn.Module]:
    """Return the networks by their names in a checkpoint."""
    return {"generator": step.generator, "discriminator": step.discriminator, "ema": step.ema}


def optimizers(step: AdversarialStep) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
    """Return the optimisers by their names in a checkpoint, each with the network it trains."""
    return {
        "generator_optimizer": (step.g_update.optimizer, step.generator),
        "discriminator_optimizer": (step.d_update.optimizer, step.discriminator),
    }
