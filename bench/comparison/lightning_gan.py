"""A GAN trained by Lightning with manual optimisation, in the form that its documentation gives for GANs."""

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from comparison.rows import Missing
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

_BATCHES = 8  # batches of clips in memory


def _import_lightning() -> Any:
    try:
        import lightning.pytorch as lightning
    except ImportError as error:
        raise Missing(f"Lightning cannot be imported ({error}); pip install lightning") from error
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return lightning


class Training:
    """The training of two networks on clips in memory.

    Args:
        generator: (N, latent, 1, 1, 1) to clips; trained in place.
        discriminator: clips to logits; trained in place.
        clips: one batch, float32 (N, C, T, H, W) in [-1, 1], on the CPU.
        latent: number of noise values per clip.
        layout: memory format of the clips on the device.

    Raises:
        Missing: Lightning is not installed.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        clips: torch.Tensor,
        latent: int,
        layout: torch.memory_format = torch.contiguous_format,
    ):
        self.lightning, self.clips = _import_lightning(), clips
        self.noise: Callable[[int, torch.device], torch.Tensor] = lambda n, place: torch.randn(n, latent, device=place)
        self.module = _make_module(self.lightning, generator, discriminator, lambda *given: self.noise(*given), layout)

    def losses(self, z: torch.Tensor, steps: int) -> list[torch.Tensor]:
        """Train some steps on the batch with the noise z (N, latent); return the losses of D and G per step."""
        drawn, self.noise = self.noise, lambda n, place: z.to(place)
        try:
            seen = self._fit(DataLoader(TensorDataset(self.clips.repeat(steps, 1, 1, 1, 1)), len(self.clips)), steps)
        finally:
            self.noise = drawn
        return [losses for _, losses in seen]

    def step_seconds(self, steps: int) -> list[float]:
        """Train some steps on shuffled clips; return the seconds from the end of each step to that of the next."""
        clips = self.clips.repeat(max(_BATCHES, steps), 1, 1, 1, 1)
        seen = self._fit(DataLoader(TensorDataset(clips), len(self.clips), shuffle=True, drop_last=True), steps)
        ends = [end for end, _ in seen]
        return [after - before for before, after in zip(ends, ends[1:], strict=False)]

    def _fit(self, batches: DataLoader, steps: int) -> list[tuple[float, torch.Tensor]]:
        """Return the time of each step's end, and its losses."""
        seen: list[tuple[float, torch.Tensor]] = []
        module = self.module

        class Observer(self.lightning.Callback):
            def on_train_batch_end(self, *_: Any) -> None:
                losses = module.losses.cpu()  # waits for a GPU
                seen.append((time.perf_counter(), losses))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on workers and intervals
            trainer = self.lightning.Trainer(
                max_epochs=1,
                limit_train_batches=steps,
                accelerator="auto",
                devices=1,
                precision="32-true",
                callbacks=[Observer()],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module, batches)
        return seen


def _make_module(
    lightning: Any, generator: nn.Module, discriminator: nn.Module, draw: Callable, layout: torch.memory_format
) -> Any:
    class GAN(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = generator, discriminator
            self.losses = torch.zeros(2)

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            networks = self.generator, self.discriminator
            return [torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in networks]

        def training_step(self, batch: list[torch.Tensor]) -> None:
            for_g, for_d = self.optimizers()
            real = batch[0].contiguous(memory_format=layout)
            fake = self.generator(draw(len(real), real.device)[:, :, None, None, None])
            d_loss = self.score(real, 1.0) + self.score(fake.detach(), 0.0)
            for_d.zero_grad()
            self.manual_backward(d_loss)
            for_d.step()
            g_loss = self.score(fake, 1.0)
            for_g.zero_grad()
            self.manual_backward(g_loss)
            for_g.step()
            self.log_dict({"d_loss": d_loss.detach(), "g_loss": g_loss.detach()})
            self.losses = torch.stack([d_loss, g_loss]).detach().float()

        def score(self, clips: torch.Tensor, wanted: float) -> torch.Tensor:
            logits = self.discriminator(clips).flatten()
            return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))

    return GAN()
