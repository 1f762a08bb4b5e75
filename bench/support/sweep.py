"""Training steps that differ from a base in one size: frames, height and width, feature maps, batch or processes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from step_cost import make_runner
from support.on_gpu import DTYPE, ON_GPU
from support.variants import DTYPES, TINY, device

from fastvgan.runs.config import RunConfig
from fastvgan.runs.presets import PRESETS
from fastvgan.training.parallel import Parallel
from fastvgan.training.step.adversarial import AdversarialStep

FAMILIES = {"conv3d": "reference", "recurrent": "digits"}  # a preset of each family of models
STEPS_TO_CAPTURE = 20  # more than a runner runs eagerly before it captures


@dataclass(frozen=True)
class Sizes:
    """Sizes of a step: frames per clip, height and width, feature maps of the first layer, clips per process."""

    frames: int
    size: int
    width: int
    batch: int
    processes: int = 1


if TINY:
    BASE = {"conv3d": Sizes(4, 16, 2, 4), "recurrent": Sizes(4, 16, 2, 4)}
elif ON_GPU:
    BASE = {"conv3d": Sizes(16, 16, 128, 64), "recurrent": Sizes(16, 16, 32, 32)}
else:  # at most one second per step
    BASE = {"conv3d": Sizes(16, 16, 32, 8), "recurrent": Sizes(16, 16, 16, 8)}
_TIMES = {"frames": (0.5, 2, 4), "size": (2, 4), "width": (0.5, 2), "batch": (0.5, 2, 4)}  # factors of the base's sizes
if TINY:
    _TIMES = dict.fromkeys(_TIMES, (2,))


@dataclass(frozen=True)
class Point:
    """A step of the sweep: a family of models, the dimension that it changes ("base" for none), and its sizes."""

    family: str
    dimension: str
    sizes: Sizes

    @property
    def name(self) -> str:
        value = "" if self.dimension == "base" else f"={getattr(self.sizes, self.dimension)}"
        return f"{self.family} {self.dimension}{value}"

    @property
    def config(self) -> RunConfig:
        """The configuration of its run; the batch size counts all processes."""
        return config_of(self.family, self.sizes, self.sizes.processes * self.sizes.batch)


def config_of(family: str, sizes: Sizes, batch: int) -> RunConfig:
    """Return a family's preset with these sizes and this batch size."""
    preset = PRESETS[FAMILIES[family]]
    updates = {"frames": sizes.frames, "height": sizes.size, "width": sizes.size, "base_width": sizes.width}
    model = preset.model.model_copy(update=updates)
    training = preset.training.model_copy(update={"batch_size": batch})
    return preset.model_copy(update={"model": model, "training": training})


def points() -> list[Point]:
    """Return the base of each family, then each changed size, alternating between families in case time runs out."""
    of_each = [_points_of(family, base) for family, base in BASE.items()]
    return [point for together in zip(*of_each, strict=True) for point in together]


def _points_of(family: str, base: Sizes) -> list[Point]:
    values = {name: [int(share * getattr(base, name)) for share in shares] for name, shares in _TIMES.items()}
    values["processes"] = _processes()
    changed = [(name, replace(base, **{name: value})) for name, each in values.items() for value in each]
    return [Point(family, name, sizes) for name, sizes in [("base", base), *changed]]


def _processes() -> list[int]:
    """Return the numbers of processes above one: up to the number of GPUs, or two on a CPU."""
    if not ON_GPU:
        return [2]
    return list(itertools.takewhile(lambda n: n <= torch.cuda.device_count(), (2, 4, 8)))


def runner_of(
    point: Point, where: torch.device | None = None, parallel: Parallel | None = None, captures: bool = True
) -> tuple[Callable[[], None], AdversarialStep]:
    """Return a function that runs the point's next step, and the step.

    Args:
        point: the point of the sweep.
        where: the device, by default the benchmarks' device.
        parallel: the processes that share the step.
        captures: whether a single process on a GPU captures the step as CUDA graphs.
    """
    captures = captures and ON_GPU and point.sizes.processes == 1
    training = point.config.training.model_copy(update={"cuda_graphs": "on" if captures else "off"})
    config = point.config.model_copy(update={"training": training})
    runner, step = make_runner(config, where or device(), DTYPES[DTYPE], parallel)
    numbers = itertools.count()

    def run() -> None:
        runner(next(numbers))

    for _ in range(STEPS_TO_CAPTURE if captures else 2):
        run()
    return run, step
