"""The adversarial step: one update of the discriminator, of the generator and of its average."""

import contextlib
import copy
import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastvgan import losses
from fastvgan.layers import spectral
from fastvgan.layers.upsampling import find_upsampling_kernels
from fastvgan.losses import OBJECTIVES, PairedObjective, contrast, diversity, feature_diversity, mean_differences
from fastvgan.models import Condition, build
from fastvgan.models.config import ModelConfig
from fastvgan.models.discriminators import Discriminators, sum_logits
from fastvgan.models.warp import GeneratorOutput
from fastvgan.random_draws import Purpose
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.batches import Inputs
from fastvgan.training.coherence import coherence
from fastvgan.training.parallel import Parallel
from fastvgan.training.schedule import beta_at, beta_level
from fastvgan.training.step.augmentation import Augmentation
from fastvgan.training.step.objectives import first_loss, generator_loss, mean_probabilities, second_loss
from fastvgan.training.step.passes import (
    add,
    draw,
    freeze,
    mean_over_parts,
    pair_conditions,
    score,
    score_constant,
    score_real,
    select_rows,
    sum_losses,
    update_targets,
)
from fastvgan.training.step.penalties import Penalties, Penalty
from fastvgan.training.step.results import D_SCALARS, G_SCALARS, StepResult, StepStart
from fastvgan.training.step.scalar import DeviceScalar
from fastvgan.training.step.update import Update
from fastvgan_kernels.finite import add_finite
from fastvgan_kernels.lists import average_into, copy_bytes, restore_where
from fastvgan_kernels.projection import project
from fastvgan_kernels.weight_copies import WeightCopies, refresh

if TYPE_CHECKING:
    from fastvgan.models.head import Projection
    from fastvgan.training.step.passes import Generator


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
        self._kernels = find_upsampling_kernels(self.generator) if model.upsampling == "resize" else []
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
        self.penalties, self.accumulate = Penalties(model, config, device), config.accumulate
        self._beta2, self._beta2_final, self.beta_level = config.betas[1], config.beta2_final, 0
        self.coherence = config.coherence
        # Without its cache a cast made in one CUDA graph is never used in another.
        has_autocast = precision != torch.float32
        self.autocast = torch.autocast(device.type, precision, enabled=has_autocast, cache_enabled=False)
        self._copies: tuple[WeightCopies, ...] = ()
        if has_autocast and reads_copies(device):
            both = self.generator, self.discriminator
            self._copies = tuple(WeightCopies(_convolution_weights(network), precision) for network in both)
        self._nan = torch.full((), torch.nan, device=device)
        self._no_penalty = Penalty(self._nan, None)
        self._d_scalars = torch.zeros(len(D_SCALARS), device=device)
        self._scalars = torch.zeros(len(StepResult._fields), device=device)
        self.totals = torch.zeros(2, len(StepResult._fields), device=device)

    def __call__(self, number: int, inputs: Inputs, regularise: bool = False) -> StepResult:
        """Run step `number` (from 0), with R1 and R2 if `regularise`, and return its scalars."""
        self.prepare(number)
        start = self.begin(inputs)
        self.update_discriminator(inputs, start, regularise)
        self.update_generator(inputs, start)
        return StepResult(*self._scalars.clone().unbind())

    @property
    def skipped_steps(self) -> torch.Tensor:
        """The number () of skipped steps among those in `totals`."""
        return self.totals[0, StepResult._fields.index("skipped")]

    def has_gradient_penalty(self, number: int) -> bool:
        """Whether step `number` has R1 or R2."""
        return self.penalties.are_due(number)

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
        # Once per step, so that all its passes, and all parts of its batch, see D's weights divided by the same norms.
        spectral.iterate(self.discriminator)
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
        update_targets(self._real_differences, differences)
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
        # G's update needs gradients through D, not those of D's weights, so that all passes share normalised ones.
        with self._use_copies(), freeze(self.discriminator), parametrize.cached():
            for is_last, part in self._parts(inputs):
                with self._g.no_sync(not is_last):
                    drawn = self._generate(part) if start.drawn is None else start.drawn
                    scalars.append(self._backward_generator(part, drawn, keep_graph))
        mean = mean_over_parts(scalars)
        norm = self.g_update.apply(mean[0])
        project(self._kernels, unless=self.g_update.found)
        bad = torch.maximum(self.d_update.found, self.g_update.found)
        # A clip that is not finite has gone through the batch norms by now.
        restore_where(bad, self._buffers(), start.before)
        self._average()
        used = self.augmentation.probability.clone() if self.augmentation.adapts else self._nan
        self.augmentation.adapt(self._d_scalars[D_SCALARS.index("d_sign")], bad)
        self._add_to_totals(*mean, norm, bad, used)

    def set_rates(self, share: float) -> None:
        """Set both learning rates to a share of the configured ones."""
        self.g_update.set_share(share)
        self.d_update.set_share(share)

    def set_diversity(self, share: float) -> None:
        """Set the weight of the diversity terms to a share of the configured one."""
        self._diversity_share.set(share)

    def set_burn_in(self, progress: float) -> None:
        """Set the weights of R1 and R2 and Adam's second beta to those after a share of the burn-in.

        Adam's beta is a number on the host, which a CUDA graph keeps, so it has few values: `beta_level` says which.
        """
        self.penalties.set_progress(progress)
        if self._beta2_final is not None:
            self.beta_level = beta_level(progress)
            for update in (self.d_update, self.g_update):
                update.set_beta2(beta_at(self._beta2, self._beta2_final, self.beta_level))

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
    ) -> tuple[tuple[torch.Tensor, ...], list[tuple[list[torch.Tensor], torch.Tensor]]]:
        """Add D's gradients on one part.

        Returns:
            Scalars in the order of D_SCALARS without the norm, and how much real clips differ: nothing, or one pair of
            `mean_differences` for each discriminator and which clips are alike.
        """
        penalties, c = self.penalties, self._fake_conditions(part.c)
        has_r1, has_r2 = regularise and penalties.r1.is_on, regularise and penalties.r2.is_on
        gp = self._backward_between(part, fake) if penalties.gp else self._nan
        part = part._replace(real=penalties.r1.prepare(part.real)) if has_r1 else part
        fake = penalties.r2.prepare(fake) if has_r2 else fake
        # One backward pass each for real and generated clips: the first one's memory is free before the second. A game
        # of pairs has one for both.
        with self._d.no_sync():
            with self._precision(has_r1):
                real = self._d(score_real, self.augmentation.real(part))
                apart = self._differences(part, real.features)
                first = first_loss(self.objective, real)
                fits = sum_losses(contrast, real.right, *real.wrong) if self.contrast and real.wrong else None
                r1 = self._no_penalty
                if has_r1:
                    r1 = penalties.r1(real.right, part.real, part.samples, partial(self._score_real, part))
            terms = [first, r1.cost, None if fits is None else self.contrast * fits]
            if first is not None:
                self.d_update.backward(self._per_part(add(terms)))
                terms = []
        with self._d.no_sync(not is_last):
            with self._precision(has_r2):
                score_fake = partial(self._score_fake, part, c)
                on_fake = score_fake(fake)
                second = second_loss(self.objective, real, on_fake)
                r2 = penalties.r2(on_fake, fake, part.samples, score_fake) if has_r2 else self._no_penalty
            self.d_update.backward(self._per_part(add([*terms, second, r2.cost])))
        probabilities = mean_probabilities(self.objective, real.right, on_fake)
        fits = self._nan if fits is None else fits.detach()
        sign = sum_logits(real.right).detach().sign().mean() if self.augmentation.adapts else self._nan
        return (add([first, second]).detach(), *probabilities, r1.value, r2.value, gp, fits, sign), apart

    def _score_real(self, part: Inputs, clips: torch.Tensor) -> list[torch.Tensor]:
        """Compute D's logits of clips that are shown as the real ones of a part."""
        shown = self.augmentation.real(part._replace(real=clips, wrong=None))
        return self._d(score, shown.real, shown.c)

    def _score_fake(self, part: Inputs, c: Condition | None, clips: torch.Tensor) -> list[torch.Tensor]:
        """Compute D's logits of clips that are shown as generated ones."""
        return self._d(score, *self.augmentation.fake(Purpose.AUGMENT_FAKE, part, clips, c))

    def _backward_between(self, part: Inputs, fake: torch.Tensor) -> torch.Tensor:
        """Add the gradients of the penalty between real and generated clips; return its value."""
        mixed = self.penalties.interpolate(part.real, fake, part.samples)
        with self._d.no_sync():
            with self._precision(True):
                logits = self._score_fake(part, self._fake_conditions(part.c), mixed)
                value, cost = self.penalties.between(logits, mixed)
            self.d_update.backward(self._per_part(cost))
        return value

    def _precision(self, is_penalised: bool) -> contextlib.AbstractContextManager[object]:
        """Return the context of a pass of D: autocast, except where a penalty needs more digits."""
        # In float16 a gradient's gradient would need its own scale; small differences of logits need float32's digits.
        needs_float32 = is_penalised and (self.d_update.is_scaled or not self.penalties.is_exact)
        return contextlib.nullcontext() if needs_float32 else self.autocast

    def _differences(self, part: Inputs, features: "list[Projection]") -> list[tuple[list[torch.Tensor], torch.Tensor]]:
        if not self.feature_diversity or part.c is None:
            return []
        gather = self._parallel.gather
        c = Condition(*(None if x is None else gather(x) for x in part.c))
        alike = c.alike()
        with torch.no_grad():
            return [([mean_differences(gather(each.pool()), alike) for each in features], alike)]

    def _backward_generator(self, part: Inputs, drawn: GeneratorOutput, keep_graph: bool) -> tuple[torch.Tensor, ...]:
        """Add G's gradients on one part; return scalars in the order of G_SCALARS without norm and flag."""
        fake = drawn.clips
        with self.autocast:
            given, d, fits = self._fake_conditions(part.c), self.discriminator, None
            shown, c = self.augmentation.fake(Purpose.AUGMENT_GENERATOR, part, fake, given)
            features = d.features(shown, c)
            logits = d.score(features, c)
            real = None
            if isinstance(self.objective, PairedObjective):
                real = score_constant(d, *self.augmentation.fake(Purpose.AUGMENT_GENERATOR, part, part.real, part.c))
            loss = generator_loss(self.objective, logits, real)
            if self.contrast and part.wrong is not None and any(x is not None for x in part.wrong[:2]):
                # Wrong first frames would take another pass through D, so only the other parts are wrong here.
                wrong = self._fake_conditions(part.wrong._replace(image=None))
                wrong = wrong and wrong._replace(image=None if c is None else c.image)
                fits = sum_losses(contrast, logits, d.score(features, wrong))
            is_varied = bool(self.diversity) and part.c is not None
            with torch.set_grad_enabled(is_varied):
                apart = varied = diversity(fake, part.z, self.diversity_target)
            if is_varied and drawn.picture is not None:
                # A different place is enough to make clips differ, so pictures need their own term. They overlap where
                # clips do not, which halves the difference of two real ones.
                varied = apart + diversity(drawn.picture, part.z, self.diversity_target / 2)
        cost = loss - self.diversity * self._diversity_share.tensor * varied if is_varied else loss
        if self.feature_diversity and part.c is not None:
            seen = feature_diversity([each.pool() for each in features], self._real_differences, self._parallel.mean)
            cost = cost - self.feature_diversity * self._diversity_share.tensor * seen
        cost = cost if fits is None else cost + self.contrast * fits
        if self.first_frame and given is not None and given.image is not None:
            cost = cost + self.first_frame * losses.frame_error(fake[:, :, 0], given.image)
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
        by_name = dict(zip((*D_SCALARS, *G_SCALARS), (*self._d_scalars.unbind(), *g_scalars), strict=True))
        add_finite([by_name[name] for name in StepResult._fields], self._scalars, self.totals)


def _convolution_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that convolutions cast, including a ConvLSTM's and 2-D ones; no original of another weight."""
    named = ((name, p) for name, p in network.named_parameters() if p.dim() >= 3 and p.dtype == torch.float32)
    return [p for name, p in named if not spectral.is_original(name)]


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
