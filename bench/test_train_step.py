"""One adversarial step of the preset `reference`: the textbook loop in stock PyTorch against ours."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from variants import DTYPES, FORMATS, device, synchronised

from fastvgan.losses import OBJECTIVES, discriminator_loss
from fastvgan.training.config import PRESETS
from fastvgan.training.step import AdversarialStep

BATCH = 64
CONFIG = PRESETS["reference"]
STOCK = [f"{dtype}-{layout}-{mode}" for dtype in DTYPES for layout in FORMATS for mode in ("eager", "compile")]


class StockLoop:
    """The loop as tutorials write it: G runs for D's update and again for its own, D's gradients are always made."""

    def __init__(self, variant):
        dtype, layout, mode = variant.split("-")
        torch.manual_seed(0)
        generator = nn.Sequential(
            nn.ConvTranspose3d(100, 256, 4, 1, 0, bias=False), nn.BatchNorm3d(256), nn.ReLU(),
            nn.ConvTranspose3d(256, 128, 4, 2, 1, bias=False), nn.BatchNorm3d(128), nn.ReLU(),
            nn.ConvTranspose3d(128, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        discriminator = nn.Sequential(
            nn.Conv3d(3, 128, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
            nn.Conv3d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm3d(256), nn.LeakyReLU(0.2),
            nn.Conv3d(256, 1, 4, 1, 0, bias=False),
        )  # fmt: skip
        self.layout = FORMATS[layout]
        self.generator = generator.to(device(), memory_format=self.layout)
        self.discriminator = discriminator.to(device(), memory_format=self.layout)
        self.optimizers = [torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in (generator, discriminator)]
        if mode == "compile":
            generator.compile()
            discriminator.compile()
        self.autocast = torch.autocast(device().type, torch.bfloat16, enabled=dtype == "bf16")

    def __call__(self, real, z):
        for_g, for_d = self.optimizers
        ones, zeros = torch.ones(BATCH, device=device()), torch.zeros(BATCH, device=device())
        with self.autocast:
            on_real, on_fake = (self.score(x) for x in (real, self.generator(z).detach()))
            d_loss = bce(on_real, ones) + bce(on_fake, zeros)
        for_d.zero_grad()
        d_loss.backward()
        for_d.step()
        with self.autocast:
            g_loss = bce(self.score(self.generator(z)), ones)
        for_g.zero_grad()
        g_loss.backward()
        for_g.step()
        return d_loss.detach(), g_loss.detach()

    def score(self, x):
        return self.discriminator(x).flatten()


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits.float(), target)


def inputs(layout=torch.channels_last_3d):
    torch.manual_seed(1)
    real = torch.rand(BATCH, 3, 16, 16, 16, device=device()).mul(2).sub(1).contiguous(memory_format=layout)
    return real, torch.randn(BATCH, 100, device=device())


def same_losses(step, stock, real, z):
    """Both losses of a first step agree, given the same weights."""
    for mine, theirs in ((step.generator, stock.generator), (step.discriminator, stock.discriminator)):
        mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    loose = 5e-2 if step.autocast._enabled else 1e-3
    with torch.no_grad(), step.autocast:
        mine = discriminator_loss(
            OBJECTIVES["nonsaturating"], step.discriminator(real), step.discriminator(step.generator(z))
        )
    with torch.no_grad():
        fake = stock.generator(z[:, :, None, None, None])
        theirs = bce(stock.score(real), torch.ones(BATCH, device=device()))
        theirs = theirs + bce(stock.score(fake), torch.zeros(BATCH, device=device()))
    torch.testing.assert_close(mine, theirs, rtol=loose, atol=loose)


@pytest.mark.parametrize("variant", [*(f"stock-{name}" for name in STOCK), "ours-fp32", "ours-bf16"])
def test_train_step_reference(benchmark, variant):
    benchmark.group = "train step, preset reference, batch 64"
    side, _, rest = variant.partition("-")
    if side == "stock":
        stock = StockLoop(rest)
        real, z = inputs(stock.layout)
        z = z[:, :, None, None, None]
        run = synchronised(lambda: stock(real, z))
    else:
        precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[rest]
        step = AdversarialStep(CONFIG.model, CONFIG.training, device(), precision)
        real, z = inputs()
        same_losses(step, StockLoop("fp32-channels_last-eager"), real, z)
        run = synchronised(lambda: step(0, real, z, None, None))
    benchmark.extra_info["videos"] = BATCH
    # The first rounds compile, and compile anew when D stops to want gradients.
    benchmark.pedantic(run, rounds=7, warmup_rounds=3)
