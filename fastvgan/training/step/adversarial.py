"""The adversarial step: one update of the discriminator, one of the generator, one of the average."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

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
from fastvgan.models.discriminators import sum_logits
from fastvgan.models.warp import GeneratorOutput
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.batches import Inputs
from fastvgan.training.parallel import Parallel
from fastvgan.training.step.scalar import DeviceScalar
from fastvgan.training.step.tensor_lists import average_into, copied, restore_where
from fastvgan.training.step.update import Update
from fastvgan_kernels._torch import BatchNorm
from fastvgan_kernels.finite import add_finite
from fastvgan_kernels.logistic import logistic
from fastvgan_kernels.weight_copies import WeightCopies, refresh


class StepResult(NamedTuple):
    """Scalars of one step, float32 tensors on the device.

    Losses; the mean probability that D gives each kind of clip of being a real one that fits; how much generated clips
    differ (see `fastvgan.losses.diversity`; of one condition only where that term has a weight); the gradient penalty,
    NaN in steps without; the cross entropies of a clip's own condition among wrong ones, of real and of generated
    clips, NaN without that term; the norms of both gradients; and 1 if one of them, or a loss, was not finite, so that
    an update was left out.
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


_OF_D = ("d_loss", "d_real", "d_fake", "r1", "d_contrast", "d_grad_norm")
_OF_G = ("g_loss", "diversity", "g_contrast", "g_grad_norm", "skipped")


class Held(NamedTuple):
    """What the two updates of a step share: the buffers before it, and the generated clips, with their graph."""

    before: list[torch.Tensor]  # of bytes
    drawn: GeneratorOutput | None


class AdversarialStep:
    """Both networks, their optimisers and the averaged generator, and what one step does to them.

    A step is `prepare`, which is the host's, then `begin`, `update_discriminator` and `update_generator`. These three
    read and write the same tensors in every step and never wait for the device, so that each can be captured in a CUDA
    graph. What is scalar and changes from step to step (learning rates, the average's memory) is in tensors too.

    Args:
        model, config: what to build and how to train it.
        device: where. precision: torch.bfloat16 or torch.float16 for autocast, or torch.float32 for none.
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
        self._build = model, config.seed
        self.generator, self.discriminator = (network.to(device) for network in self._networks())
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self._parallel = parallel or Parallel()
        self.world_size = self._parallel.world_size
        self._g, self._d = self._parallel.wrap(self.generator), self._parallel.wrap(self.discriminator)
        scaled = precision == torch.float16
        self.g_update, self.d_update = (
            Update(network, rate, config.betas, scaled, self._parallel.any, self.world_size > 1)
            for network, rate in (
                (self.generator, config.lr_generator),
                (self.discriminator, config.lr_discriminator),
            )
        )
        self.objective = OBJECTIVES[config.objective]
        self.decay, self._forgets = config.ema, DeviceScalar(0, device)
        self._diversity_share = DeviceScalar(1, device)
        self.diversity, self.diversity_target = config.diversity, config.diversity_target
        self.feature_diversity = config.feature_diversity
        # How much real clips of one condition differ in each feature of a discriminator: D's update tells G's.
        self._real_differences = [torch.zeros(width, device=device) for width in self.discriminator.widths()]
        self.contrast, self.first_frame, self.redraw = config.contrast, config.first_frame, config.redraw
        self.r1, self.r1_every, self.accumulate = config.r1, config.r1_every, config.accumulate
        # Without its cache a cast made in one CUDA graph is never used in another.
        enabled = precision != torch.float32
        self.autocast = torch.autocast(device.type, precision, enabled=enabled, cache_enabled=False)
        self._copies = ()
        if enabled and reads_copies(device):
            networks = self.generator, self.discriminator
            self._copies = tuple(WeightCopies(_convolution_weights(network), precision) for network in networks)
        self._nan = torch.full((), torch.nan, device=device)
        self._of_d = torch.zeros(len(_OF_D), device=device)
        self._values = torch.zeros(len(StepResult._fields), device=device)
        self.totals = torch.zeros(2, len(StepResult._fields), device=device)

    def __call__(
        self,
        number: int,
        real: torch.Tensor,
        z: torch.Tensor,
        c: Condition | None,
        wrong: Condition | None,
        regularise: bool = False,
        *,
        is_image_wrong: bool = False,
    ) -> StepResult:
        """Step `number` (from 0) on real clips (N, C, T, H, W) in [-1, 1]; see `Inputs` for what they come with.

        Args:
            regularise: add the gradient penalty.
        """
        inputs = Inputs(real, z, c, wrong, is_image_wrong)
        self.prepare(number)
        held = self.begin(inputs)
        self.update_discriminator(inputs, held, regularise)
        self.update_generator(inputs, held)
        return StepResult(*self._values.clone().unbind())

    def regularises(self, number: int) -> bool:
        """Whether step `number` has the gradient penalty."""
        return self.r1 > 0 and number % self.r1_every == 0

    def prepare(self, number: int) -> None:
        """What differs from step to step."""
        # The average must not hold on to the first, untrained weights: a shorter memory in the first steps.
        self._forgets.set(1 - min(self.decay, (1 + number) / (10 + number)))

    def begin(self, inputs: Inputs) -> Held:
        """Generate the clips of both updates.

        G does not change while D learns, so that a second pass would give the same clips. Where a batch is taken in
        parts it is made all the same, since it would be held for all parts at once.
        """
        before = copied(self._buffers())
        refresh(*self._copies)
        with self._reading_copies():
            return Held(before, self._generate(inputs) if self.accumulate == 1 else None)

    def update_discriminator(self, inputs: Inputs, held: Held, regularise: bool = False) -> None:
        """Train D to tell real clips from generated ones, and from real ones under a wrong condition."""
        self.d_update.clear()
        scalars, differences = [], []
        with self._reading_copies():
            for last, part in self._parts(inputs):
                drawn = held.drawn
                if drawn is None:
                    with torch.no_grad():
                        drawn = self._generate(part)
                found, apart = self._judge(part, drawn.clips.detach(), regularise, last)
                scalars.append(found)
                differences += apart
        for here, *parts in zip(self._real_differences, *differences, strict=True):
            if parts:
                here.copy_(torch.stack(parts).mean(0))
        mean = _means(scalars)
        torch.stack([*mean, self.d_update.apply(mean[0])], out=self._of_d)
        refresh(*self._copies[1:])

    def update_generator(self, inputs: Inputs, held: Held, keep_graph: bool = False) -> None:
        """Train G to pass for real, and bring the average, the statistics and the totals up to date.

        Args:
            keep_graph: leave the graph of `held.drawn` as it is, to be gone through again.
        """
        self.g_update.clear()
        scalars = []
        with (
            self._reading_copies(),
            _frozen(self.discriminator),
        ):  # G's update needs the way through D, not D's weight gradients
            for last, part in self._parts(inputs):
                with self._g.alone(not last):
                    drawn = self._generate(part) if held.drawn is None else held.drawn
                    scalars.append(self._fool(part, drawn, keep_graph))
        mean = _means(scalars)
        norm = self.g_update.apply(mean[0])
        bad = torch.maximum(self.d_update.found, self.g_update.found)
        # A clip that is not finite went through the batch norms before anyone noticed.
        restore_where(bad, self._buffers(), held.before)
        self._average()
        self._add_up(*mean, norm, bad)

    def set_rates(self, share: float) -> None:
        """Bring both learning rates to this share of what the configuration says."""
        self.g_update.set_share(share)
        self.d_update.set_share(share)

    def set_diversity(self, share: float) -> None:
        """Bring the weight of the diversity term to this share of what the configuration says."""
        self._diversity_share.set(share)

    def reset(self) -> None:
        """Bring everything back, in place, to what it was before the first step."""
        for mine, first in zip((self.generator, self.discriminator), self._networks(), strict=True):
            mine.load_state_dict(first.state_dict())
        self.ema.load_state_dict(self.generator.state_dict())
        self.g_update.reset()
        self.d_update.reset()

    def state(self) -> dict[str, torch.Tensor]:
        """What an exact resumption needs beside weights and moments, by name."""
        updates = {"generator": self.g_update, "discriminator": self.d_update}
        return {f"{name}/{key}": value for name, u in updates.items() for key, value in u.state().items()}

    def _networks(self):
        model, seed = self._build
        torch.manual_seed(seed)
        return build(model)

    def _buffers(self) -> Iterable[torch.Tensor]:
        return itertools.chain(self.generator.buffers(), self.discriminator.buffers())

    def _parts(self, inputs: Inputs) -> Iterable[tuple[bool, Inputs]]:
        """The parts that a batch is taken in, each with whether it is the last."""
        if self.accumulate == 1:
            yield True, inputs
            return
        size = len(inputs.z) // self.accumulate
        for i in range(self.accumulate):
            yield i == self.accumulate - 1, _rows(inputs, slice(i * size, (i + 1) * size))

    def _generate(self, inputs: Inputs) -> GeneratorOutput:
        with self.autocast:
            return self._g(_draw, inputs.z, self._told(inputs.c))

    def _told(self, c: Condition | None) -> Condition | None:
        return _in_pairs(c) if (self.diversity or self.feature_diversity) and c is not None else c

    def _judge(
        self, part: Inputs, fake: torch.Tensor, regularise: bool, last: bool
    ) -> tuple[tuple[torch.Tensor, ...], list[list[torch.Tensor]]]:
        """D's gradients on one part; its scalars in the order of _OF_D, and how much real clips differ, if wanted.

        The latter is a list of none or one, that of `mean_differences` for each discriminator.
        """
        real = part.real.detach().requires_grad_() if regularise else part.real
        # One backward pass each for real and generated clips: what the first one needs is free before the second.
        with self._d.alone():
            # In float16 a gradient's gradient would need a scale of its own.
            with contextlib.nullcontext() if regularise and self.d_update.scaled else self.autocast:
                on_real, on_wrong, seen = self._d(_score_real, real, part.c, part.wrong, part.is_image_wrong)
                apart = []
                if self.feature_diversity and part.c is not None:
                    gather = self._parallel.gather
                    c = Condition(*(None if x is None else gather(x) for x in part.c))
                    alike = c.alike()
                    with torch.no_grad():
                        apart.append([mean_differences(gather(one.pool()), alike) for one in seen])
                loss_real = _total(partial(loss_on_real, self.objective), on_real, *on_wrong)
                fits = _total(contrast, on_real, *on_wrong) if self.contrast and on_wrong else None
                penalty = gradient_penalty(sum_logits(on_real), real) if regularise else self._nan
            # Weighed by how seldom it comes: the lazy regularisation of Karras et al. 2020 (StyleGAN2).
            cost = loss_real + self.r1 * self.r1_every * penalty if regularise else loss_real
            cost = cost if fits is None else cost + self.contrast * fits
            self.d_update.backward(self._shared(cost))
        with self._d.alone(not last):
            with self.autocast:
                on_fake = self._d(_score, fake, self._told(part.c))
                loss_fake = _total(partial(loss_on_fake, self.objective, matching_aware=bool(on_wrong)), on_fake)
            self.d_update.backward(self._shared(loss_fake))
        probabilities = (_mean_probability(logits) for logits in (on_real, on_fake))
        fits = self._nan if fits is None else fits.detach()
        return ((loss_real + loss_fake).detach(), *probabilities, penalty.detach(), fits), apart

    def _fool(self, part: Inputs, drawn: GeneratorOutput, keep_graph: bool) -> tuple[torch.Tensor, ...]:
        """G's gradients on one part; its scalars in the order of _OF_G."""
        fake = drawn.clips
        with self.autocast:
            c, d, fits = self._told(part.c), self.discriminator, None
            features = d.features(fake, c)
            logits = d.score(features, c)
            loss = _total(self.objective.generator, logits)
            if self.contrast and part.wrong is not None and any(x is not None for x in part.wrong[:2]):
                # Wrong first frames would take another pass through D, so that here only the other parts are wrong.
                wrong = self._told(part.wrong._replace(image=part.c.image))
                fits = _total(contrast, logits, d.score(features, wrong))
            apart = varied = diversity(fake, part.z, self.diversity_target)
            if self.diversity and part.c is not None and drawn.picture is not None:
                # Two places are enough to tell clips apart, so pictures need a term of their own. They overlap where
                # clips do not, which halves the difference of two real ones.
                varied = apart + diversity(drawn.picture, part.z, self.diversity_target / 2)
        cost = loss - self.diversity * self._diversity_share.tensor * varied if part.c is not None else loss
        if self.feature_diversity and part.c is not None:
            seen = feature_diversity([one.pool() for one in features], self._real_differences, self._parallel.mean)
            cost = cost - self.feature_diversity * self._diversity_share.tensor * seen
        cost = cost if fits is None else cost + self.contrast * fits
        if self.first_frame and c is not None and c.image is not None:
            cost = cost + self.first_frame * F.mse_loss(fake[:, :, 0].float(), c.image.float())
        if self.redraw and drawn.redrawn is not None:
            cost = cost + self.redraw * drawn.redrawn
        self.g_update.backward(self._shared(cost), keep_graph)
        return loss.detach(), apart.detach(), self._nan if fits is None else fits.detach()

    def _shared(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.accumulate == 1 else loss / self.accumulate

    @contextlib.contextmanager
    def _reading_copies(self):
        with contextlib.ExitStack() as stack:
            for copies in self._copies:
                stack.enter_context(copies.in_use())
            yield

    @torch.no_grad()
    def _average(self) -> None:
        average_into(list(self.ema.parameters()), list(self.generator.parameters()), self._forgets.tensor)

    @torch.no_grad()
    def _add_up(self, *of_g: torch.Tensor) -> None:
        """This step's scalars, and into `totals` the sum of what was finite, and of how many steps."""
        by_name = dict(zip((*_OF_D, *_OF_G), (*self._of_d.unbind(), *of_g), strict=True))
        torch.stack([by_name[name] for name in StepResult._fields], out=self._values)
        add_finite(self._values, self.totals)


def _draw(generator: nn.Module, z: torch.Tensor, c: Condition | None) -> GeneratorOutput:
    return generator.draw(z, c)


def _score(discriminator: nn.Module, x: torch.Tensor, c: Condition | None) -> list[torch.Tensor]:
    return discriminator.score(discriminator.features(x, c), c)


def _score_real(
    discriminator: nn.Module, real: torch.Tensor, c: Condition | None, wrong: Condition | None, is_image_wrong: bool
):
    """Each discriminator's logits of real clips under their own conditions, and those under wrong ones.

    The latter are in a tuple of their own, which is empty where there are no wrong conditions. Third comes what the
    first were made of.
    """
    features = discriminator.features(real, c)
    seen = features
    on_real = discriminator.score(features, c)
    if wrong is None:
        return on_real, (), seen
    if is_image_wrong:  # what else is wrong enters after the features
        features = discriminator.features(real, wrong)
    return on_real, (discriminator.score(features, wrong),), seen


def _total(loss: Callable[..., torch.Tensor], *logits: list[torch.Tensor]) -> torch.Tensor:
    """The sum over the discriminators of a loss of each one's logits."""
    losses = [loss(*of_one) for of_one in zip(*logits, strict=True)]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _mean_probability(logits: list[torch.Tensor]) -> torch.Tensor:
    """Of being real, over clips and discriminators alike."""
    means = [logistic(of_one.detach(), True)[1] for of_one in logits]
    return means[0] if len(means) == 1 else torch.stack(means).mean()


def _means(parts: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """The mean over a batch's parts of each of their scalars."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack([torch.stack(scalars) for scalars in parts]).mean(0).unbind()


def _convolution_weights(network: nn.Module) -> list[nn.Parameter]:
    """Weights that convolutions cast; a ConvLSTM's and 2-D ones included."""
    return [p for p in network.parameters() if p.dim() >= 3 and p.dtype == torch.float32]


def reads_copies(device: torch.device) -> bool:
    """Whether convolutions there read copies of weights; on a CPU the compiled ones read float32 as it is."""
    return device.type == "cuda"


@contextlib.contextmanager
def _frozen(network: nn.Module):
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _in_pairs(c: Condition) -> Condition:
    """Every other condition of the batch, twice over, so that two neighbouring generated clips share each."""
    return Condition(*(None if x is None else torch.stack([x[::2]] * 2, 1).flatten(0, 1)[: len(x)] for x in c))


def _rows(inputs: Inputs, rows: slice) -> Inputs:
    c, wrong = inputs.c and inputs.c.rows(rows), inputs.wrong and inputs.wrong.rows(rows)
    return Inputs(inputs.real[rows], inputs.z[rows], c, wrong, inputs.is_image_wrong)


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Iterable[tuple[torch.Tensor, Condition | None]]) -> None:
    """Give a generator's batch norms the mean statistics of its own activations over batches of (z, c).

    Averaged weights have statistics of their own, which neither the trained generator's nor an average of those is
    near. These are the standing statistics of Brock et al. 2018 (BigGAN).
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over all batches seen
    network.train()
    for z, c in batches:
        network(z, c)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def networks(step: AdversarialStep) -> dict[str, nn.Module]:
    """The networks by the names they have in a checkpoint."""
    return {"generator": step.generator, "discriminator": step.discriminator, "ema": step.ema}


def optimizers(step: AdversarialStep) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
    """The optimisers by the names they have in a checkpoint, each with the network it trains."""
    return {
        "generator_optimizer": (step.g_update.optimizer, step.generator),
        "discriminator_optimizer": (step.d_update.optimizer, step.discriminator),
    }
