"""Our train step of a preset, as the trainer runs it on decoded clips, and stock PyTorch's losses in float64."""

import functools
import itertools
from typing import NamedTuple

import torch
from support.on_gpu import DTYPE, ON_GPU
from support.stock_loop import StockLoop
from support.variants import DTYPES, TINY, device, load_in_order

from fastvgan.data.source import Clips
from fastvgan.files.pixels import to_float
from fastvgan.models.config import ModelConfig
from fastvgan.runs.presets import PRESETS
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep, StepResult
from fastvgan.training.step.graphs import CudaGraphs, StepRunner

CHECKED = {"reference": 64, "clips-64": 4}  # clips of the float64 step, which takes minutes on larger batches
STEPS_TO_CAPTURE = 20  # more than a runner runs eagerly before it captures


class Problem(NamedTuple):
    """A preset's model, its batch size, and the batch size of the checked step."""

    model: ModelConfig
    batch: int
    checked: int


class Batch(NamedTuple):
    """Clips of uint8 (N, T, H, W, C) and their noise, on the device."""

    video: torch.Tensor
    z: torch.Tensor


class ConstantInputs:
    """A `BatchMaker` with the same noise in every step, and no conditions."""

    def __init__(self, z: torch.Tensor):
        self.z = z

    def draw_wrong_part(self, number: int) -> int:
        return 0

    def prepare(self, number: int) -> None:
        """Do nothing: there are no conditions to update."""

    def has_wrong_image(self, part: int) -> bool:
        return False

    def make(self, number: torch.Tensor, part: torch.Tensor, clips: Clips) -> Inputs:
        return Inputs(to_float(clips.video, clips.video.device), self.z, None, None)


def problem(preset: str) -> Problem:
    """Return the preset's problem; in tiny mode, the same small one for all presets."""
    config = PRESETS[preset]
    if TINY:
        small = {"frames": 4, "height": 16, "width": 16, "base_width": 2, "latent": 4}
        return Problem(config.model.model_copy(update=small), 2, 2)
    return Problem(config.model, config.training.batch_size, CHECKED[preset])


def batch_of(model: ModelConfig, size: int) -> Batch:
    """Make a batch, always the same one."""
    torch.manual_seed(1)
    shape = size, model.frames, model.height, model.width, model.channels
    video = torch.randint(256, shape, dtype=torch.uint8, device=device())
    return Batch(video, torch.randn(size, model.latent, device=device()))


def stock_inputs(batch: Batch, layout: torch.memory_format, dtype: torch.dtype = torch.float32):
    """Return clips (N, C, T, H, W) and noise (N, latent, 1, 1, 1) for the stock loop."""
    real = to_float(batch.video, device()).to(dtype).contiguous(memory_format=layout)
    return real, batch.z.to(dtype)[:, :, None, None, None]


@functools.cache
def exact_losses(preset: str, size: int, dtype: str = "fp64") -> torch.Tensor:
    """Compute both losses of the stock loop's first step, in float64 or "fp32"; G's after D's update."""
    model, exact = problem(preset).model, {"fp64": torch.float64, **DTYPES}[dtype]
    loop = StockLoop(f"{dtype}-eager-contiguous", model)
    return torch.stack(loop(*stock_inputs(batch_of(model, size), loop.layout, exact))).double()


class CountingGraphs(CudaGraphs):
    """CUDA graphs with a count of captures, to check that steps are replayed."""

    captures = 0

    def capture(self, function):
        self.captures += 1
        return super().capture(function)


class Ours:
    """Our step, run by the trainer's runner on the same clips every time.

    Args:
        preset: the model and its training configuration.
        graphs: whether to capture the step in CUDA graphs, on a GPU.
        dtype: "bf16" or "fp32".
    """

    def __init__(self, preset: str, graphs: bool, dtype: str = DTYPE):
        self.preset, self.problem, self.dtype = preset, problem(preset), dtype
        model, training = self.problem.model, PRESETS[preset].training
        self.step = AdversarialStep(model, training, device(), DTYPES[dtype])
        self.graphs = CountingGraphs(self.step.totals.device) if graphs and ON_GPU else None
        self.number, self.runners = itertools.count(), 0

    def make_runner(self, size: int):
        """Return a function that runs a step on a batch of this size, captured already if `graphs` was set."""
        batch = batch_of(self.problem.model, size)
        runner = StepRunner(self.step, ConstantInputs(batch.z), "on" if self.graphs else "off", self.graphs)
        clips = Clips(batch.video)
        run = lambda: runner(next(self.number), clips)  # noqa: E731
        self.runners += 1
        if self.graphs:
            for _ in range(STEPS_TO_CAPTURE):
                run()
            assert self.graphs.captures == 3 * self.runners, "the step was not captured"
        return run

    def check(self, size: int | None = None, dtype: str = "fp64") -> None:
        """Check both losses of the first step, captured or not, against the stock loop.

        Args:
            size: batch size, by default one that a GPU computes quickly in float64.
            dtype: dtype of the stock loop.
        """
        size = size or self.problem.checked
        run = self.make_runner(size)
        self.restart()
        run()
        found, exact = self.totals(), exact_losses(self.preset, size, dtype)
        losses = torch.stack([found["d_loss"], found["g_loss"]])
        loose = {"fp32": 1e-2, "bf16": 5e-2}[self.dtype]  # float32 may be tf32 on a GPU and in Triton's interpreter
        torch.testing.assert_close(losses, exact, rtol=loose, atol=loose, check_dtype=False)

    def restart(self) -> None:
        """Reset the weights in place to the stock loop's initial weights; CUDA graphs keep their addresses."""
        stock = StockLoop("fp32-eager-contiguous", self.problem.model)
        self.step.reset()
        load_in_order(self.step.generator, stock.generator)
        load_in_order(self.step.discriminator, stock.discriminator)
        self.step.totals.zero_()

    def totals(self) -> dict[str, torch.Tensor]:
        """Return the sum of each scalar over all steps."""
        return dict(zip(StepResult._fields, self.step.totals[0].unbind(), strict=True))

    def is_finite(self) -> bool:
        """Return whether the losses and gradients of all steps were finite."""
        return not self.totals()["skipped"]
