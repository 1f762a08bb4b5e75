"""`fastvgan.Trainer`: a training run from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DataLoader

import fastvgan
from fastvgan.data import IN_PYTHON
from fastvgan.data.datasets import AnyDataset, ClipShape, DatasetSource, examine, examine_source, is_dataset
from fastvgan.data.source import Source
from fastvgan.errors import UserError
from fastvgan.runs.config import DataConfig, RunConfig
from fastvgan.runs.effects import check_effects
from fastvgan.training.defaults import fit_preset, fit_settings_to_shape
from fastvgan.training.loop import TrainingLoop
from fastvgan.training.parallel import Parallel
from fastvgan.training.run.callbacks import Callback, Callbacks
from fastvgan.training.run.request import (
    Request,
    add_advice,
    check_workers,
    connect,
    find_base,
    fit_to_clips,
    is_fitted,
    override,
)
from fastvgan.training.run.resume import Start

if TYPE_CHECKING:
    from fastvgan import VideoGenerator
    from fastvgan.data.clips import Listing

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class TrainingResult:
    """The result of `Trainer.train`.

    Attributes:
        run_dir: the run folder, with checkpoints, samples, metrics and report.html.
        scores: the last evaluation's scores, by name; empty in all but the first of several processes. `generator` may
            be an earlier step's; `fastvgan evaluate --run RUN_DIR` scores that one.
        step: number of steps done.
        stopped: what ended the run early, "SIGINT", "SIGTERM" or "a callback"; None if it ended with its last step.
    """

    run_dir: Path
    scores: dict[str, float]
    step: int
    stopped: str | None = None

    @cached_property
    def generator(self) -> "VideoGenerator":
        """The generator of the checkpoint with the best score, else of the last one, on the CPU.

        Raises:
            UserError: the run folder holds no generator.
        """
        return fastvgan.load(self.run_dir)


class Trainer:
    """A training run: what the command `fastvgan train` does, with the same run folder and the same results.

    With `torchrun`, each process creates the same Trainer. A run in the main thread ends after SIGINT, such as Ctrl+C
    or a notebook's stop button, and SIGTERM, with its state saved.

    Args:
        config: settings to start from: the name of a preset, the path of a YAML file as in a run folder, or a
            `RunConfig`. None takes those of the resumed run, else those that suit the data: for clips of your own, the
            size, number of frames, condition and preset that fit them, as the command does. With the preset clips,
            clips-64 or clips-128 they decide the condition.
        data: the clips: a folder or manifest, "digits" or "stacked-digits", a torch Dataset (see
            `fastvgan.data.DatasetSource` for its items), or a `fastvgan.data.Source`. None takes that of the settings.
        run_dir: the folder to write; None for a new one under runs/.
        resume: "auto" resumes from the last complete checkpoint of the run folder (without `run_dir`, of the newest run
            under runs/), or starts from step 0 without a checkpoint; a path names a checkpoint or a run folder.
        changed_data: resume even if the data differ from those that the checkpoint was trained on.
        callbacks: instances of `fastvgan.Callback`, called in this order.
        **settings: further settings, by the names of the command's flags: batch_size=16 for --batch-size 16. A dataset
            is read in this process unless `workers` sets a number of worker processes.

    Attributes:
        config: the run's `RunConfig`.
        run_dir: the run folder.
        steps: number of steps at the end of the run.

    Raises:
        UserError: the settings, data, device, folder or checkpoint cannot be used; nothing has been written then.

    Example:
        ```python
        class Print(fastvgan.Callback):
            def on_evaluate(self, trainer, scores):
                print(trainer.step, scores)

        trainer = fastvgan.Trainer("digits", run_dir="runs/five", steps=500, callbacks=[Print()])
        result = trainer.train()
        clips = result.generator.generate("a blue 5 moving left and right", n=4)
        ```
    """

    def __init__(
        self,
        config: "RunConfig | str | Path | None" = None,
        data: "str | Path | AnyDataset | Source | None" = None,
        *,
        run_dir: str | Path | None = None,
        resume: str | Path | None = None,
        changed_data: bool = False,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ):
        if changed_data and resume is None:
            raise UserError("changed_data needs a run to resume; pass resume='auto', or leave changed_data out")
        if not (config is None or isinstance(config, RunConfig | str | Path)):
            kind = type(config).__name__
            raise UserError(f"config: expected the name of a preset, a YAML file or a RunConfig, not {kind}")
        for name, value in (("run_dir", run_dir), ("resume", resume), ("data", data)):
            if isinstance(value, str) and not value:
                raise UserError(f"{name} is an empty string; pass a path, or leave it out")
            if name != "data" and not isinstance(value, str | Path | None):
                raise UserError(f"{name}: expected a path, not {type(value).__name__}")
        called = Callbacks(self, callbacks) if callbacks else None
        request = Request(
            Path(config) if isinstance(config, str) and config.endswith(_YAML) else config,
            _name(data),
            None if run_dir is None else Path(run_dir),
            None if resume is None else str(resume),
        )
        self._parallel = connect(settings.get("device"))
        try:
            plan = _plan(request, data, settings, self._parallel)
            start = plan.start._replace(changed_data=changed_data)
            self._loop = TrainingLoop(plan.config, start, self._parallel, plan.data, called)
        except BaseException:
            self._disconnect()
            raise
        self.config: RunConfig = self._loop.config
        self.steps: int = self._loop.steps
        self._has_trained = False

    @property
    def run_dir(self) -> Path:
        """The run folder; without `run_dir`, `train` writes the next one if another run has begun there since."""
        return self._loop.folder

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self._loop.done

    @property
    def scores(self) -> dict[str, float]:
        """The last evaluation's scores, by name; empty before the first one."""
        return self._loop.scores

    def describe(self) -> str:
        """Describe the run in a few lines."""
        return "\n".join([self._loop.describe(), *self._loop.remarks])

    def stop(self) -> None:
        """End the run early, from a callback, with its outputs written and its state saved as at the last step.

        It ends at once if `on_step_end` asks for it; other callbacks, and several processes, train one more step.
        """
        self._loop.stop()

    def train(self) -> TrainingResult:
        """Train to the last step, or until a callback or a signal ends the run.

        Returns:
            The run folder, scores and generator.

        Raises:
            UserError: the run folder or the last checkpoint cannot be written, the data can no longer be read, memory
                runs out, or losses stay non-finite; or this Trainer has trained before. The last good state is saved.
        """
        if self._has_trained:
            raise UserError(
                f"this Trainer has trained {self.run_dir} already; create another one, with resume='auto' to continue"
            )
        self._has_trained = True
        try:
            self._loop.run()
        finally:
            self._disconnect()
        return TrainingResult(self.run_dir, self._loop.scores, self._loop.done, self._loop.stopped)

    def _disconnect(self) -> None:
        if self._parallel is not None:
            self._parallel.close()
            self._parallel = None


class _Plan(NamedTuple):
    """What a run is made of; `data` is None for data that the configuration names."""

    config: RunConfig
    start: Start
    data: "Listing | Source | None"


def _plan(request: Request, data: Any, settings: dict[str, Any], parallel: Parallel | None) -> _Plan:
    first = (parallel or Parallel()).run_on_first
    base, start = first(lambda: find_base(request))
    if data is not None and not isinstance(data, str | Path):
        return _plan_python(request, data, settings, base, start)
    if data is not None:
        settings = {**settings, "data": str(data)}
    run = override(base, settings)
    check_workers(run.data.workers)
    listing = None
    if is_fitted(request, start):
        base, listing = first(lambda: fit_to_clips(request, run, settings.keys()))
        run = override(base, settings)
    check_effects(run, settings.keys())
    return _Plan(run, add_advice(request, start, run), listing)


def _plan_python(
    request: Request, data: "AnyDataset | Source", settings: dict[str, Any], base: RunConfig, start: Start
) -> _Plan:
    """Plan a run on a dataset or a source, which are objects of this process."""
    settings = {"workers": 0, **settings, "data": request.data}
    override(base, settings)  # refuses bad settings before any item is read
    found = examine_source(data) if isinstance(data, Source) else examine(data)
    if is_fitted(request, start) and request.fitted_preset:
        run = override(base, settings)
        base, remarks = fit_preset(request.fitted_preset, found.condition, found.size, run, settings.keys())
        start = start._replace(remarks=(*start.remarks, *remarks))
    elif is_fitted(request, start):
        shape = found.shape._asdict()
        fitted, remarks = fit_settings_to_shape(found, override(base, settings), settings.keys())
        start = start._replace(remarks=(*start.remarks, *remarks))
        try:
            base = override(fitted, {**shape, "condition": found.condition or "none"})
        except UserError as error:
            raise UserError(f"the dataset's clips have {found.shape}: {error}; resize them in the dataset") from error
    run = override(base, settings)
    check_effects(run, settings.keys())
    check_workers(run.data.workers)
    for name, field in DataConfig.model_fields.items():
        value = getattr(run.data, name)
        if name not in ("data", "workers") and value != field.default:
            raise UserError(f"{name} {value!r} does not apply to {request.data}; leave it at {field.default!r}")
    model = run.model
    wanted = ClipShape(model.frames, model.height, model.width, model.channels)
    if found.shape != wanted:
        raise UserError(
            f"the clips of {request.data} have {found.shape}, and the model takes {wanted}; pass "
            f"{found.shape.as_settings}, or other clips"
        )
    if not isinstance(data, Source):
        data = DatasetSource(data, wanted, model.condition, workers=run.data.workers)
    return _Plan(run, start, data)


def _name(data: Any) -> str | None:
    """Return the data's name in the configuration.

    Raises:
        UserError: it is neither a path, a dataset nor a source.
    """
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    if is_dataset(data) or isinstance(data, Source):
        return f"{IN_PYTHON}{type(data).__name__}"
    hint = "; pass its dataset" if isinstance(data, DataLoader) else ""
    raise UserError(
        f"data: expected a path, a torch Dataset or a fastvgan.data.Source, not {type(data).__name__}{hint}"
    )
