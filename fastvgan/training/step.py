"""The adversarial step: one update of the discriminator, one of the generator, one of the average."""

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from fastvgan.losses import OBJECTIVES, diversity, loss_on_fake, loss_on_real
from fastvgan.models import Condition, build
from fastvgan.models.config import ModelConfig
from fastvgan.training.config import TrainingConfig


class StepResult(NamedTuple):
    """Scalars of one step, float32 tensors on the device.

    Losses, the mean probability that D gives each kind of clip of being a real one that fits, and how much generated
    clips differ (see `fastvgan.losses.diversity`; of one condition only where that term has a weight).
    """

    d_loss: torch.Tensor
    g_loss: torch.Tensor
    d_real: torch.Tensor
    d_fake: torch.Tensor
    diversity: torch.Tensor


class AdversarialStep:
    """Both networks, their optimisers and the averaged generator, and what one step does to them.

    Args:
        model, config: what to build and how to train it.
        device: where. precision: torch.bfloat16 for autocast, or torch.float32 for none.
    """

    def __init__(self, model: ModelConfig, config: TrainingConfig, device: torch.device, precision: torch.dtype):
        torch.manual_seed(config.seed)
        generator, discriminator = build(model)
        self.generator = generator.to(device)
        self.discriminator = discriminator.to(device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # Not fused=True: on the CPU torch 2.13 then takes it, unchecked, that all tensors have one memory layout.
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), config.lr_generator, betas=config.betas)
        self.d_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), config.lr_discriminator, betas=config.betas
        )
        self._rates = config.lr_generator, config.lr_discriminator
        self.objective = OBJECTIVES[config.objective]
        self.decay = config.ema
        self.diversity, self.diversity_target = config.diversity, config.diversity_target
        self.autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)

    def __call__(
        self, number: int, real: torch.Tensor, z: torch.Tensor, c: Condition | None, wrong: Condition | None
    ) -> StepResult:
        """Step `number` (from 0) on real clips (N, C, T, H, W) in [-1, 1].

        One pass of G makes the clips for both updates: G does not change while D learns, so a second pass would give
        the same clips.
        """
        discriminator = self.discriminator
        told = _in_pairs(c) if self.diversity and c is not None else c
        with self.autocast:
            fake = self.generator(z, told)
            on_real, on_wrong = self._score_real(real, c, wrong)
            d_loss_real = loss_on_real(self.objective, on_real, on_wrong)
        # One backward pass each for real and generated clips: what the first one needs is free before the second.
        self.d_optimizer.zero_grad(set_to_none=True)
        d_loss_real.backward()
        with self.autocast:
            on_fake = discriminator(fake.detach(), told)
            d_loss_fake = loss_on_fake(self.objective, on_fake, on_wrong is not None)
        d_loss_fake.backward()
        self.d_optimizer.step()

        discriminator.requires_grad_(False)  # G's update needs the way through D, not D's weight gradients
        with self.autocast:
            g_loss = self.objective.generator(discriminator(fake, told))
            apart = diversity(fake, z, self.diversity_target)
        self.g_optimizer.zero_grad(set_to_none=True)
        (g_loss - self.diversity * apart if c is not None else g_loss).backward()
        self.g_optimizer.step()
        discriminator.requires_grad_(True)

        self._average(number)
        probability = (torch.sigmoid(x.detach().float()).mean() for x in (on_real, on_fake))
        return StepResult((d_loss_real + d_loss_fake).detach(), g_loss.detach(), *probability, apart.detach())

    def set_rates(self, share: float) -> None:
        """Bring both learning rates to this share of what the configuration says."""
        for optimizer, full in zip((self.g_optimizer, self.d_optimizer), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * share

    def _score_real(self, real, c, wrong):
        discriminator = self.discriminator
        features = discriminator.features(real, c)
        on_real = discriminator.score(features, c)
        if wrong is None:
            return on_real, None
        if discriminator.encoder.sees_image and wrong.image is not c.image:
            features = discriminator.features(real, wrong)
        return on_real, discriminator.score(features, wrong)

    @torch.no_grad()
    def _average(self, number: int) -> None:
        # The average must not hold on to the first, untrained weights: a shorter memory in the first steps.
        decay = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - decay)


def _in_pairs(c: Condition) -> Condition:
    """The conditions of the batch's first half, twice over, so that two generated clips share each."""
    return Condition(
        *(None if part is None else torch.cat([part[: (len(part) + 1) // 2]] * 2)[: len(part)] for part in c)
    )


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Iterable[tuple[torch.Tensor, Condition | None]]) -> None:
    """Give a generator's batch norms the mean statistics of its own activations over batches of (z, c).

    Averaged weights have statistics of their own, which neither the trained generator's nor an average of those is
    near. These are the standing statistics of Brock et al. 2018 (BigGAN).
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
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
        "generator_optimizer": (step.g_optimizer, step.generator),
        "discriminator_optimizer": (step.d_optimizer, step.discriminator),
    }
