"""A preset's train step, ours as the trainer runs it on decoded clips, and the losses that stock computes in fp64."""

import functools
import itertools
from typing import NamedTuple

import torch
from on_gpu import DTYPE, ON_GPU
from stock_loop import StockLoop
from variants import DTYPES, TINY, device, load_in_order

from fastvgan.data.source import Clips
from fastvgan.models.config import ModelConfig
from fastvgan.pixels import to_float
from fastvgan.runs.config import PRESETS
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep, StepResult
from fastvgan.training.step.graphs import CudaGraphs, StepRunner

CHECKED = {"reference": 64, "clips-64": 4}  # clips of the float64 step; of more, a GPU may take minutes for the larger
STEPS_TO_CAPTURE = 20  # more than a runner runs as they are, before it captures them


class Problem(NamedTuple):
    """A preset's model, the clips of a step, and those of the step that is checked."""

    model: ModelConfig
    batch: int
    checked: int


class Batch(NamedTuple):
    """Clips of uint8 (N, T, H, W, C) and their noise, on the device."""

    video: torch.Tensor
    z: torch.Tensor


class Given:
    """Takes the place of `BatchMaker`: the same noise in every step, and no conditions."""

    def __init__(self, z: torch.Tensor):
        self.z = z

    def draw_wrong_part(self, number: int) -> int:
        return 0

    def prepare(self, number: int) -> None:
        """There is nothing that the host has to bring up to date."""

    def has_wrong_image(self, part: int) -> bool:
        return False

    def make(self, number: torch.Tensor, part: torch.Tensor, clips: Clips) -> Inputs:
        return Inputs(to_float(clips.video, clips.video.device), self.z, None, None)


def problem(preset: str) -> Problem:
    """A preset's, or in tiny mode the same little one of every preset."""
    config = PRESETS[preset]
    if TINY:
        small = {"frames": 4, "height": 16, "width": 16, "base_width": 2, "latent": 4}
        return Problem(config.model.model_copy(update=small), 2, 2)
    return Problem(config.model, config.training.batch_size, CHECKED[preset])


def batch_of(model: ModelConfig, size: int) -> Batch:
    """A batch as a step finds it, always the same one."""
    torch.manual_seed(1)
    shape = size, model.frames, model.height, model.width, model.channels
    video = torch.randint(256, shape, dtype=torch.uint8, device=device())
    return Batch(video, torch.randn(size, model.latent, device=device()))


def stock_inputs(batch: Batch, layout: torch.memory_format, dtype: torch.dtype = torch.float32):
    """Clips (N, C, T, H, W) and noise (N, latent, 1, 1, 1) as the stock loop takes them."""
    real = to_float(batch.video, device()).to(dtype).contiguous(memory_format=layout)
    return real, batch.z.to(dtype)[:, :, None, None, None]


@functools.cache
def exact_losses(preset: str, size: int, dtype: str = "fp64") -> torch.Tensor:
    """Both losses of the stock loop's first step on so many clips, in float64 or "fp32": G's comes after D's update."""
    model, exact = problem(preset).model, {"fp64": torch.float64, **DTYPES}[dtype]
    loop = StockLoop(f"{dtype}-eager-contiguous", model)
    return torch.stack(loop(*stock_inputs(batch_of(model, size), loop.layout, exact))).double()


class Counted(CudaGraphs):
    """CUDA graphs that are counted, so that it is sure that steps are replayed."""

    captured = 0

    def capture(self, function):
        self.captured += 1
        return super().capture(function)


class Ours:
    """Our step through the trainer's runner, on the same clips again and again.

    Args:
        preset: the model and how it is trained. dtype: "bf16" or "fp32".
        graphs: whether to capture the step in CUDA graphs, where there is a GPU.
    """

    def __init__(self, preset: str, graphs: bool, dtype: str = DTYPE):
        self.preset, self.problem, self.dtype = preset, problem(preset), dtype
        model, training = self.problem.model, PRESETS[preset].training
        self.step = AdversarialStep(model, training, device(), DTYPES[dtype])
        self.graphs = Counted(self.step.totals.device) if graphs and ON_GPU else None
        self.number, self.runners = itertools.count(), 0

    def runs(self, size: int):
        """A function that runs a step on a batch of this size, which is already captured where that is asked for."""
        batch = batch_of(self.problem.model, size)
        runner = StepRunner(self.step, Given(batch.z), "on" if self.graphs else "off", self.graphs)
        clips = Clips(batch.video)
        run = lambda: runner(next(self.number), clips)  # noqa: E731
        self.runners += 1
        if self.graphs:
            for _ in range(STEPS_TO_CAPTURE):
                run()
            assert self.graphs.captured == 3 * self.runners, "the step was not captured"
        return run

    def check(self, size: int | None = None, dtype: str = "fp64") -> None:
        """Both losses of the first step are the exact ones; of one that is replayed, too.

        Args:
            size: clips of that step, by default those that a GPU computes in float64 in no time.
            dtype: of the stock loop that it is compared with.
        """
        size = size or self.problem.checked
        run = self.runs(size)
        self.restart()
        run()
        found, exact = self.totals(), exact_losses(self.preset, size, dtype)
        losses = torch.stack([found["d_loss"], found["g_loss"]])
        loose = {"fp32": 1e-2, "bf16": 5e-2}[self.dtype]  # float32 may be tf32 on a GPU, and is in Triton's interpreter
        torch.testing.assert_close(losses, exact, rtol=loose, atol=loose, check_dtype=False)

    def restart(self) -> None:
        """Back to the stock loop's first weights, in place, where graphs find them."""
        stock = StockLoop("fp32-eager-contiguous", self.problem.model)
        self.step.reset()
        load_in_order(self.step.generator, stock.generator)
        load_in_order(self.step.discriminator, stock.discriminator)
        self.step.totals.zero_()

    def totals(self) -> dict[str, torch.Tensor]:
        """The sum of each scalar over all steps."""
        return dict(zip(StepResult._fields, self.step.totals[0].unbind(), strict=True))

    def well(self) -> bool:
        """Whether the losses and gradients of all steps were finite."""
        return not self.totals()["skipped"]
