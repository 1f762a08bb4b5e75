"""Train a video GAN: `python -m fastvgan.train`. With no argument it trains on captioned moving digits."""

import argparse
import logging
import os
import sys
from pathlib import Path

import tyro

from fastvgan.errors import UserError, run_command
from fastvgan.settings import Settings
from fastvgan.training.config import RunConfig, preset, read_config
from fastvgan.training.resume import Start, find_start

_DIGITS, _CLIPS = "digits", "clips"  # what to start from, by the data


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
    given = sys.argv[1:] if arguments is None else arguments
    known = _first_flags(given)
    parallel = _connect(known.device)
    try:
        return _run(given, known, parallel)
    finally:
        if parallel is not None:
            parallel.close()


def _run(given: list[str], known: argparse.Namespace, parallel) -> int:
    base, start = parallel.from_first(lambda: _start_from(known)) if parallel else _start_from(known)
    parsed, unknown = tyro.cli(
        Arguments,
        prog="python -m fastvgan.train",
        description=__doc__,
        default=Arguments(run=base),
        args=given,
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(f"there is no flag {unknown[0]}; --help lists them")
    if parsed.print_config:
        print(parsed.run.to_yaml(), end="")
        return 0
    return _train(parsed.run, start, parsed.dry_run, parallel)


def _first_flags(given: list[str]) -> argparse.Namespace:
    """These decide the defaults of all others and the run folder's name, so they are read before the rest."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("preset", "config", "data", "run-dir", "resume", "device"):
        first.add_argument(f"--{flag}", f"--{flag.replace('-', '_')}", nargs="?")
    return first.parse_known_args(given)[0]


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


def _start_from(known: argparse.Namespace) -> tuple[RunConfig, Start]:
    """The settings that flags then override, and where the run begins."""
    if known.preset and known.config:
        raise UserError("--preset and --config both say what to start from; give one of them")
    config = Path(known.config) if known.config else None
    own_data = known.data not in (None, _DIGITS)
    base = read_config(config) if config else preset(known.preset or (_CLIPS if own_data else _DIGITS))
    if own_data and not config:  # what presets hold out are captions of the digits
        base = base.model_copy(update={"data": base.data.model_copy(update={"hold_out": 0.0})})
    name = config.stem if config else known.preset or Path(known.data or "").name or _DIGITS
    start = find_start(name, Path(known.run_dir) if known.run_dir else None, known.resume)
    if start.saved and not (known.preset or config):
        base = start.saved
    return base, start


def _train(config: RunConfig, start: Start, dry_run: bool, parallel) -> int:
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
