"""Train a video GAN: `python -m fastvgan.train`. With no argument it trains on captioned moving digits."""

import logging
import os
from pathlib import Path

import tyro

from fastvgan.command_line import Given, read_flags, run_command, settings_from
from fastvgan.errors import UserError
from fastvgan.settings import Settings
from fastvgan.threads import count_processors
from fastvgan.training.config import RunConfig, preset, read_config
from fastvgan.training.resume import Start, find_start

_DIGITS, _CLIPS = "digits", "clips"  # what to start from, by the data

_MOST_WORKERS = 64  # on a machine of 16 processors or fewer


class Arguments(Settings):
    """Train a video GAN. With no argument: captioned moving digits, on whatever the machine has."""

    run: tyro.conf.OmitArgPrefixes[RunConfig]
    preset: str | None = None
    """Settings to start from, which flags override: digits (without --data), digits-recurrent, digits-conv3d,
    digits-image, digits-class, digits-64, clips (the default for other data), clips-64 or reference."""
    config: Path | None = None
    """YAML file of settings to start from, instead of a preset; flags override them."""
    run_dir: Path | None = None
    """Folder to write to; by default a new one under runs/."""
    resume: str | None = None
    """`auto` goes on from the last complete checkpoint of the run folder (without --run-dir, of the newest run under
    runs/), or begins if there is none; a path names a checkpoint or a run folder."""
    print_config: bool = False
    """Print the settings as YAML and end."""
    dry_run: bool = False
    """Check everything, say what would be trained, and end without training or writing."""


def main(arguments: list[str] | None = None) -> int:
    given = read_flags(Arguments, arguments)
    parallel = _connect(given.get("run", "training", "device"))
    try:
        return _run(given, parallel)
    finally:
        if parallel is not None:
            parallel.close()


def _run(given: Given, parallel) -> int:
    base, start = parallel.from_first(lambda: _start_from(given)) if parallel else _start_from(given)
    parsed = settings_from(Arguments, given, Arguments(run=base), "python -m fastvgan.train")
    if parsed.print_config:
        print(parsed.run.to_yaml(), end="")
        return 0
    return _train(parsed.run, start, parsed.dry_run, parallel)


def _connect(device: str | None):
    """The processes that torchrun started with this one, or None."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    import torch

    from fastvgan.training.device import pick_device
    from fastvgan.training.parallel import Parallel, local_rank, world

    rank, size = world()
    if rank:
        logging.getLogger("fastvgan").setLevel(logging.ERROR)
    chosen = pick_device(device or "auto", local_rank())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return Parallel(rank, size, chosen)


def _start_from(given: Given) -> tuple[RunConfig, Start]:
    """The settings that flags then override, and where the run begins."""
    named, config, data = given.get("preset"), given.get("config"), given.get("run", "data", "data")
    if named and config:
        raise UserError("--preset and --config both say what to start from; give one of them")
    own_data = data not in (None, _DIGITS)
    base = read_config(config) if config else preset(named or (_CLIPS if own_data else _DIGITS))
    if own_data and not config:  # what presets hold out are captions of the digits
        base = base.model_copy(update={"data": base.data.model_copy(update={"hold_out": 0.0})})
    name = config.stem if config else named or Path(data or "").name or _DIGITS
    start = find_start(name, given.get("run_dir"), given.get("resume"))
    if start.saved and not (named or config):
        base = start.saved
    return base, start


def _check_workers(workers: int) -> None:
    """A number far above the machine's would only fill its memory; a saved one may come from a larger machine."""
    processors = count_processors()
    most = max(_MOST_WORKERS, 4 * processors)
    if workers > most:
        raise UserError(f"--workers {workers}: must be at most {most} here, where there are {processors} processors")


def _train(config: RunConfig, start: Start, dry_run: bool, parallel) -> int:
    _check_workers(config.data.workers)
    # Everything heavy comes in here, so that --help and bad flags answer at once.
    from fastvgan.export import BEST, EXPORTED
    from fastvgan.training.scoring import describe
    from fastvgan.training.trainer import Trainer

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trainer = Trainer(config, start, parallel)
    if dry_run:
        if trainer.parallel.first:
            print("\n".join([trainer.describe(), *start.remarks, *trainer.source.remarks]))
        return 0
    status = trainer.run()
    if not trainer.parallel.first:
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
