"""Rows: a training step of a 3D DCGAN, and the same training by Lightning and by our command."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from comparison import lightning_gan
from comparison.rows import Check, Opened, Row, Side, largest_relative_error, name_stock, without_result
from support.networks import BATCH, clips_of
from support.stock_loop import StockLoop
from support.variants import DTYPES, FORMATS, TINY, device, load_in_order

from fastvgan.models.config import ModelConfig
from fastvgan.runs.presets import PRESETS
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep

TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2}  # of losses; on a GPU, fp32 is tf32 in cuDNN's convolutions
_CONFIG = PRESETS["reference"]
_TINY_MODEL = {"frames": 4, "height": 16, "width": 16, "base_width": 2, "latent": 4}
_CHECKED_STEPS = 3
_STEPS, _WARM = (3, 1) if TINY else (9, 3)  # steps per call of a whole training, and those at its start not counted


def model() -> ModelConfig:
    """Return the networks: those of the preset `reference`, or tiny ones with --quick."""
    return _CONFIG.model.model_copy(update=_TINY_MODEL) if TINY else _CONFIG.model


def inputs(layout: torch.memory_format = torch.contiguous_format) -> tuple[torch.Tensor, torch.Tensor]:
    """Make clips (N, C, T, H, W) in [-1, 1] and noise (N, latent), always the same ones."""
    torch.manual_seed(1)
    shape = clips_of(model(), 2 if TINY else BATCH)
    real = torch.rand(shape, device=device()).mul(2).sub(1).contiguous(memory_format=layout)
    return real, torch.randn(len(real), model().latent, device=device())


class OurStep:
    """Our training step on the same clips and noise every time, from the stock loop's initial weights."""

    def __init__(self, dtype: str):
        self.step = AdversarialStep(model(), _CONFIG.training, device(), DTYPES[dtype])
        stock = StockLoop("fp32-eager-contiguous", model())
        load_in_order(self.step.generator, stock.generator)
        load_in_order(self.step.discriminator, stock.discriminator)
        self.inputs, self.number = Inputs(*inputs(torch.channels_last_3d)), 0

    def __call__(self) -> torch.Tensor:
        """Run a step; return the losses of D and G."""
        result = self.step(self.number, self.inputs)
        self.number += 1
        return torch.stack([result.d_loss, result.g_loss]).detach().float().clone()


class TheirStep:
    """The textbook loop on the same clips and noise."""

    def __init__(self, variant: str):
        self.loop = StockLoop(variant, model())
        real, z = inputs(self.loop.layout)
        self.inputs = real, z[:, :, None, None, None]

    def __call__(self) -> torch.Tensor:
        return torch.stack(self.loop(*self.inputs)).float()


@contextmanager
def open_step(dtype: str) -> Iterator[Opened]:
    """Open the training step in one dtype."""
    theirs = {name: TheirStep(f"{dtype}-{variant}") for name, variant in name_stock().items()}
    sides = {**theirs, "fastvgan": OurStep(dtype)}
    losses = {name: [side() for _ in range(_CHECKED_STEPS)] for name, side in sides.items()}
    ours = losses.pop("fastvgan")
    off = max(largest_difference(ours, theirs) for theirs in losses.values())
    check = Check(f"losses of D and G in {_CHECKED_STEPS} steps, relative", off, TOLERANCE[dtype])
    yield Opened({name: without_result(side) for name, side in sides.items()}, check)


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Return the largest relative difference of a loss in any step."""
    pairs = [(a.reshape(-1, 1), b.reshape(-1, 1)) for a, b in zip(ours, theirs, strict=True)]
    return max(largest_relative_error(a, b) for a, b in pairs)


@contextmanager
def open_training() -> Iterator[Opened]:
    """Open whole trainings, with data and logging: Lightning's loop in this process, our command in another one.

    Lightning's clips are in memory; our command draws its digits while it trains, and averages G's weights.
    """
    real, z = inputs()
    step = OurStep("fp32")
    ours, off = [step() for _ in range(_CHECKED_STEPS)], 0.0
    sides: dict[str, Side] = {}
    for layout in FORMATS:
        stock = StockLoop(f"fp32-eager-{layout}", model())
        fit = lightning_gan.Training(stock.generator, stock.discriminator, real.cpu(), model().latent, stock.layout)
        off = max(off, largest_difference(ours, fit.losses(z, _CHECKED_STEPS)))
        name = "Lightning" if layout == "contiguous" else "Lightning, channels_last_3d"
        sides[name] = lambda fit=fit: fit.step_seconds(_STEPS)[_WARM:]
    check = Check(f"losses of D and G in {_CHECKED_STEPS} steps, relative", off, TOLERANCE["fp32"])
    yield Opened({**sides, "fastvgan train": time_our_command}, check)


def time_our_command() -> list[float]:
    """Train by our command, and return the seconds of each step, with the wait for its data."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        small = [f"--{name.replace('_', '-')}={value}" for name, value in _TINY_MODEL.items()] if TINY else []
        command = [sys.executable, "-m", "fastvgan.train", "--preset", "reference", "--run-dir", str(run), *small]
        command += [f"--batch-size={len(inputs()[0])}", "--precision=fp32", f"--steps={_STEPS}", "--log-every=1"]
        command += [f"--{name}-every=1000000" for name in ("sample", "evaluate", "checkpoint")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [values["videos_per_second"] for line in lines if "videos_per_second" in (values := json.loads(line))]
    return [len(inputs()[0]) / rate for rate in rates[_WARM:]]


def rows() -> list[Row]:
    """Return the rows, most important first."""
    size, frames, height, width = len(inputs()[0]), model().frames, model().height, model().width
    step = f"training step of a 3D DCGAN, {size} clips of {frames}x{height}x{width}"
    return [
        Row("step-fp32", f"{step}, float32", lambda: open_step("fp32"), 45),
        Row("step-bf16", f"{step}, bfloat16", lambda: open_step("bf16"), 35),
        Row("lightning", "the same in a whole training with data and logs, float32", open_training, 0, 3),
    ]
