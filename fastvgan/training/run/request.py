"""From what a user asks for to the settings of a run, for the command and for `fastvgan.Trainer`."""

import difflib
import logging
import os
from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from fastvgan.data import IN_PYTHON
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors
from fastvgan.runs.config import RunConfig, read_config
from fastvgan.runs.effects import check_length
from fastvgan.runs.names import DRAWN, are_same_data
from fastvgan.runs.presets import FITTED, preset, suggest_preset
from fastvgan.training.run.resume import Start, find_start

if TYPE_CHECKING:
    from fastvgan.data.clips import Listing
    from fastvgan.training.parallel import Parallel

_DIGITS, _STACKED, _CLIPS = "digits", "stacked-digits", "clips"  # default presets: of that data, and of other data
_MOST_WORKERS = 64  # on a machine of 16 processors or fewer


class Request(NamedTuple):
    """What a user asks for.

    Attributes:
        base: settings to start from: the name of a preset, a YAML file, or settings; None for those that suit the data.
        data: name, folder or manifest of the data; None for that of the settings.
        run_dir: the folder to write, or None for a new one.
        resume: "auto", the path of a run folder or checkpoint, or None.
        may_write: whether the run may train.
    """

    base: str | Path | RunConfig | None = None
    data: str | None = None
    run_dir: Path | None = None
    resume: str | None = None
    may_write: bool = True

    @property
    def has_own_data(self) -> bool:
        """Whether the data is named, and is not the digits, which presets hold captions out of."""
        return self.data not in (None, _DIGITS)

    @property
    def fitted_preset(self) -> str | None:
        """The named preset that is fitted to own clips, or None."""
        return self.base if isinstance(self.base, str) and self.base in FITTED and self.has_own_data else None


def find_base(request: Request) -> tuple[RunConfig, Start]:
    """Return the settings that the user's own override, and the state that the run starts from.

    Raises:
        UserError: the preset, the file or the checkpoint does not exist, or the folder already holds a run.
    """
    named, data = request.base, request.data
    if isinstance(named, RunConfig):
        base = named
    elif isinstance(named, Path):
        base = read_config(named)
    else:
        base = preset(named or (_STACKED if data == _STACKED else _CLIPS if request.has_own_data else _DIGITS))
        if request.has_own_data:  # presets hold out captions of the digits
            base = base.model_copy(update={"data": base.data.model_copy(update={"hold_out": 0.0})})
    name = named.stem if isinstance(named, Path) else named if isinstance(named, str) else None
    name = name or Path(data or base.data.data).name.removeprefix(IN_PYTHON) or _DIGITS
    start = find_start(name, request.run_dir, request.resume, request.may_write)
    has_other_data = start.saved and data is not None and not are_same_data(data, start.saved.data.data)
    # Without a state to continue another run may begin.
    if start.saved and start.checkpoint is None and (named is not None or has_other_data):
        replaced = f"{start.folder} has no checkpoint: a new run begins there, without the settings of its config.yaml"
        start = start._replace(saved=None, remarks=(*start.remarks, replaced))
    if start.saved and named is None:
        return start.saved, start
    if start.saved and request.fitted_preset:  # what its clips decided when it began
        saved = start.saved.training
        training = {"matching_aware": saved.matching_aware, "steps": saved.steps}
        base = base.model_copy(
            update={
                "model": base.model.model_copy(update={"condition": start.saved.model.condition}),
                "training": base.training.model_copy(update=training),
            }
        )
    return base, start


def is_fitted(request: Request, start: Start) -> bool:
    """Return whether defaults depend on the clips: for own data without other settings to start from or a saved run."""
    has_own_clips = request.data is not None and request.data not in DRAWN
    return has_own_clips and (request.base is None or request.fitted_preset is not None) and start.saved is None


def fit_to_clips(request: Request, run: RunConfig, named: Collection[str]) -> "tuple[RunConfig, Listing]":
    """Return the settings that suit the clips, which those that the user named override, and the clips.

    Args:
        request: what the user asks for.
        run: the settings so far.
        named: names of the settings that the user gave.

    Raises:
        UserError: the data or the device cannot be used, or the user named both steps and epochs.
    """
    from fastvgan.data import list_clips
    from fastvgan.machine.device import pick_device
    from fastvgan.training.defaults import fit_preset, fit_settings

    check_length(run, named)  # both fail before the folder is listed, which may take long
    device = pick_device(run.training.device)
    listing = list_clips(run.data, run.model.condition if "condition" in named else None)
    if request.fitted_preset:
        base, remarks = fit_preset(request.fitted_preset, listing.condition, len(listing.items), run, named)
    else:
        base, remarks = fit_settings(listing, run, named, device.type == "cpu")
    return base, listing._replace(remarks=[*remarks, *listing.remarks])


def add_advice(request: Request, start: Start, run: RunConfig) -> Start:
    """Add a remark that names the preset that was tuned for the settings, if the user started from none."""
    advice = () if request.base or start.saved else suggest_preset(run)
    return start._replace(remarks=(*start.remarks, *advice))


def let_epochs_count(base: RunConfig, named: Container[str]) -> RunConfig:
    """Return settings without a number of steps if the user named one of epochs only, which steps would override."""
    if "epochs" not in named or "steps" in named:
        return base
    return base.model_copy(update={"training": base.training.model_copy(update={"steps": None})})


def override(base: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return settings with some of them replaced by name, as the flags of the command replace them.

    Args:
        base: the settings.
        settings: values by name, such as {"batch_size": 16}; a string stands for a tuple of one.

    Raises:
        UserError: a name is unknown or a value is not allowed.
    """
    values = let_epochs_count(base, settings).model_dump()
    places = {
        name: values[part]
        for part, kind in RunConfig.model_fields.items()
        for name, described in kind.annotation.model_fields.items()  # pyrefly: ignore[missing-attribute]
        if tyro.conf.Suppress not in described.metadata
    }
    for name, value in settings.items():
        if name not in places:
            near = difflib.get_close_matches(name, places, 1)
            raise UserError(f"{name!r} is not a setting" + (f"; did you mean {near[0]!r}?" if near else ""))
        if isinstance(value, str) and not value:
            raise UserError(f"{name} is an empty string; pass a value, or leave it out")
        is_one = isinstance(value, str) and isinstance(places[name][name], tuple)
        places[name][name] = (value,) if is_one else value
    return RunConfig.model_validate(values)


def check_workers(workers: int) -> None:
    """Refuse many more workers than processors, which only take memory; saved settings may be a larger machine's.

    Raises:
        UserError: there are too many.
    """
    processors = count_processors()
    most = max(_MOST_WORKERS, 4 * processors)
    if workers > most:
        raise UserError(f"--workers {workers}: must be at most {most} on this machine of {processors} processors")


def connect(device: str | None) -> "Parallel | None":
    """Connect to the processes that torchrun started with this one; None if this is the only process.

    Args:
        device: name of the device to train on; None for "auto".

    Raises:
        UserError: the device or the environment variables cannot be used.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    import torch

    from fastvgan.machine.device import pick_device
    from fastvgan.training.parallel import Parallel, local_rank, world

    rank, size = world()
    if rank:
        logging.getLogger("fastvgan").setLevel(logging.ERROR)
    chosen = pick_device(device or "auto", local_rank())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Parallel(rank, size, chosen)
