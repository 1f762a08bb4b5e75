"""Train a video GAN: `python -m fastvgan.train`. With no argument it trains on captioned moving digits."""

import argparse
import logging
import sys
from pathlib import Path

import tyro

from fastvgan.errors import UserError, run_command
from fastvgan.settings import Settings
from fastvgan.training.config import RunConfig, preset, read_config
from fastvgan.training.resume import Start, find_start

_DEFAULT = "digits"


class Arguments(Settings):
    """Train a video GAN. With no argument: captioned moving digits, on whatever the machine has."""

    run: tyro.conf.OmitArgPrefixes[RunConfig]
    preset: str = _DEFAULT
    """Settings to start from: digits, digits-recurrent or reference; flags override them."""
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
    base, start = _start_from(given)
    parsed, unknown = tyro.cli(
        Arguments,
        prog="python -m fastvgan.train",
        description=__doc__,
        default=Arguments(run=base),
        args=given,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if unknown:
        raise UserError(f"there is no flag {unknown[0]}; --help lists them")
    if parsed.print_config:
        print(parsed.run.to_yaml(), end="")
        return 0
    return _train(parsed.run, start, parsed.dry_run)


def _start_from(given: list[str]) -> tuple[RunConfig, Start]:
    """The settings that flags then override, and where the run begins.

    These flags decide the defaults of all others and the run folder's name, so they are read before the rest.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("preset", "config", "data", "run-dir", "resume"):
        first.add_argument(f"--{flag}", f"--{flag.replace('-', '_')}", nargs="?")
    known, _ = first.parse_known_args(given)
    if known.preset and known.config:
        raise UserError("--preset and --config both say what to start from; give one of them")
    config = Path(known.config) if known.config else None
    base = read_config(config) if config else preset(known.preset or _DEFAULT)
    name = config.stem if config else known.preset or Path(known.data or "").name or _DEFAULT
    start = find_start(name, Path(known.run_dir) if known.run_dir else None, known.resume)
    if start.saved and not (known.preset or config):
        base = start.saved
    return base, start


def _train(config: RunConfig, start: Start, dry_run: bool) -> int:
    # Everything heavy comes in here, so that --help and bad flags answer at once.
    from fastvgan.export import EXPORTED
    from fastvgan.training.trainer import Trainer

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trainer = Trainer(config, start)
    if dry_run:
        print("\n".join([trainer.describe(), *trainer.source.remarks]))
        return 0
    status = trainer.run()
    samples = sorted((start.folder / "samples").glob("*.png"))
    print(f"run folder: {start.folder}\nsamples:    {samples[-1]} and .gif\ngenerator:  {start.folder / EXPORTED}")
    return status


if __name__ == "__main__":
    run_command(main)
