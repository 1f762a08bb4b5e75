"""The adversarial loop of tutorials in stock PyTorch, the baseline of our training step."""

import torch
import torch.nn.functional as F
from support.networks import REFERENCE, discriminator, generator
from support.variants import COMPILED, FORMATS, autocast, compile_options, device, in_layout

from fastvgan.models.config import ModelConfig


class StockLoop:
    """Runs G for D's update and again for its own, and always computes D's gradients.

    Args:
        variant: dtype, mode and memory format, such as "bf16-compile-channels_last", followed by "-graph" if the whole
            loop is captured in a CUDA graph; the dtype may be "fp64".
        model: configuration of the networks.
        adam: further options of both optimisers.
    """

    def __init__(self, variant: str, model: ModelConfig = REFERENCE, **adam):
        self.dtype, mode, layout, *graph = variant.split("-")
        torch.manual_seed(0)
        self.layout = FORMATS[layout]
        networks = [
            in_layout(network.to(device()), self.layout) for network in (generator(model), discriminator(model))
        ]
        if self.dtype == "fp64":
            networks = [network.double() for network in networks]
        self.generator, self.discriminator = networks
        self.optimizers = [torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999), **adam) for n in networks]
        if mode in COMPILED:
            mode = f"{mode}-graph" if mode == "autotune" and graph else mode
            for network in networks:
                network.compile(**compile_options(mode))

    def __call__(self, real: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Update D and G on clips (N, C, T, H, W) and noise (N, latent, 1, 1, 1); return the losses of D and G."""
        for_g, for_d = self.optimizers
        ones, zeros = torch.ones(len(real), device=device()), torch.zeros(len(real), device=device())
        with autocast(self.dtype):
            on_real, on_fake = (self.score(x) for x in (real, self.generator(z).detach()))
            d_loss = bce(on_real, ones) + bce(on_fake, zeros)
        for_d.zero_grad()
        d_loss.backward()
        for_d.step()
        with autocast(self.dtype):
            g_loss = bce(self.score(self.generator(z)), ones)
        for_g.zero_grad()
        g_loss.backward()
        for_g.step()
        return d_loss.detach(), g_loss.detach()

    def score(self, x: torch.Tensor) -> torch.Tensor:
        return self.discriminator(x).flatten()


def bce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), target)
