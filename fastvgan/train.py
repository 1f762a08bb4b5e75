"""Train a video GAN: `python -m fastvgan.train`. With no argument it trains on captioned moving digits."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from fastvgan.command_line import Given, log_to_terminal, read_flags, run_command, settings_from
from fastvgan.errors import UserError
from fastvgan.machine.threads import count_processors
from fastvgan.runs.config import RunConfig, read_config
from fastvgan.runs.presets import preset
from fastvgan.settings import Settings
from fastvgan.training.run.resume import Start, find_start

if TYPE_CHECKING:
    from fastvgan.data.clips import Listing
    from fastvgan.training.parallel import Parallel

T = TypeVar("T")

_DIGITS, _STACKED, _CLIPS = "digits", "stacked-digits", "clips"  # default presets: of that data, and of other data

_MOST_WORKERS = 64  # on a machine of 16 processors or fewer


class Arguments(Settings):
    """Train a video GAN. With no argument: captioned moving digits, on whatever the machine has."""

    run: tyro.conf.OmitArgPrefixes[RunConfig]
    preset: str | None = None
    """Settings to start from, which flags override: digits (without --data), digits-recurrent, digits-conv3d,
    digits-image, digits-class, digits-64, clips (the default for other data up to 32 pixels), clips-64 (above that),
    clips-128, stacked-digits (with --data stacked-digits) or reference."""
    config: Path | None = None
    """YAML file of settings to start from, instead of a preset; flags override them."""
    run_dir: Path | None = None
    """Folder to write to; by default a new one under runs/."""
    resume: str | None = None
    """`auto` resumes from the last complete checkpoint of the run folder (without --run-dir, of the newest run under
    runs/), or starts a new run without a checkpoint; a path names a checkpoint or a run folder."""
    changed_data: bool = False
    """With --resume: resume even if the data differ from those that the checkpoint was trained on."""
    print_config: bool = False
    """Print the settings as YAML and exit."""
    dry_run: bool = False
    """Check everything, describe the run, and exit without training or writing."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; see `Arguments`."""
    given = read_flags(Arguments, arguments)
    parallel = _connect(given.get("run", "training", "device"))
    try:
        return _run(given, parallel)
    finally:
        if parallel is not None:
            parallel.close()


def _run(given: Given, parallel: "Parallel | None") -> int:
    first = parallel.run_on_first if parallel else _call
    base, start = first(lambda: _start_from(given))
    parsed, listing = _parse(given, base), None
    if not parsed.print_config:
        _check_workers(parsed.run.data.workers)
    if _is_fitted(given, start):
        base, listing = first(lambda: _fit(given, parsed.run))
        parsed = _parse(given, base)
    if parsed.print_config:
        for remark in listing.remarks if listing else ():
            print(remark, file=sys.stderr)
        print(parsed.run.to_yaml(), end="")
        return 0
    if parsed.changed_data and parsed.resume is None:
        raise UserError("--changed-data needs --resume; pass --resume auto, or leave --changed-data out")
    start = start._replace(changed_data=parsed.changed_data)
    return _train(parsed.run, start, parsed.dry_run, parallel, listing)


def _call(function: Callable[[], T]) -> T:
    return function()


def _parse(given: Given, base: RunConfig) -> Arguments:
    return settings_from(Arguments, given, Arguments(run=base), "python -m fastvgan.train")


def _connect(device: str | None) -> "Parallel | None":
    """Connect to the processes that torchrun started with this one; None if this is the only process."""
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


def _start_from(given: Given) -> tuple[RunConfig, Start]:
    """Return the settings that flags override, and the state that the run starts from."""
    named, config, data = given.get("preset"), given.get("config"), given.get("run", "data", "data")
    if named and config:
        raise UserError("--preset and --config exclude each other; pass one of them")
    own_data = data not in (None, _DIGITS)
    by_data = _STACKED if data == _STACKED else _CLIPS if own_data else _DIGITS
    base = read_config(config) if config else preset(named or by_data)
    if own_data and not config:  # presets hold out captions of the digits
        base = base.model_copy(update={"data": base.data.model_copy(update={"hold_out": 0.0})})
    name = config.stem if config else named or Path(data or "").name or _DIGITS
    start = find_start(name, given.get("run_dir"), given.get("resume"))
    if start.saved and not (named or config):
        base = start.saved
    return base, start


def _is_fitted(given: Given, start: Start) -> bool:
    """Return whether defaults depend on the clips: for own data without a preset, config file or resumed run."""
    named = given.get("preset") or given.get("config") or start.saved
    return given.get("run", "data", "data") not in (None, _DIGITS, _STACKED) and not named


def _fit(given: Given, run: RunConfig) -> "tuple[RunConfig, Listing]":
    """Return the settings that suit the clips, which flags override, and the listing of the clips."""
    from fastvgan.data import list_clips
    from fastvgan.machine.device import pick_device
    from fastvgan.training.defaults import fit_settings

    device = pick_device(run.training.device)  # fails before the folder is listed, which may take long
    named = {path[-1] for path in given.values}
    listing = list_clips(run.data, run.model.condition if "condition" in named else None)
    base, remarks = fit_settings(listing, run, named, device.type == "cpu")
    return base, listing._replace(remarks=[*remarks, *listing.remarks])


def _check_workers(workers: int) -> None:
    """Refuse many more workers than processors, which only take memory; saved settings may be a larger machine's."""
    processors = count_processors()
    most = max(_MOST_WORKERS, 4 * processors)
    if workers > most:
        raise UserError(f"--workers {workers}: must be at most {most} on this machine of {processors} processors")


def _train(
    config: RunConfig, start: Start, dry_run: bool, parallel: "Parallel | None", listing: "Listing | None"
) -> int:
    # Heavy imports come late, so that --help and bad flags answer at once.
    from fastvgan.generation.files import BEST, EXPORTED
    from fastvgan.training.run.scoring import describe
    from fastvgan.training.trainer import Trainer

    log_to_terminal()
    trainer = Trainer(config, start, parallel, listing)
    if dry_run:
        if trainer.parallel.is_first:
            print("\n".join([trainer.describe(), *trainer.remarks]))
        return 0
    status = trainer.run()
    if not trainer.parallel.is_first:
        return status
    newest = max((path.name for path in (start.folder / "samples").glob("*.png")), default="none")
    print(f"run folder: {start.folder}")
    left = {"samples": f"samples/{newest}", "generator": EXPORTED, "best": BEST, "report": "report.html"}
    for what, where in left.items():
        if (path := start.folder / where).is_file():
            print(f"{what + ':':12}{path}")
    if trainer.scores:
        print(f"scores:     {describe(trainer.scores)}")
    return status


if __name__ == "__main__":
    run_command(main)
