"""Train a video GAN: `python -m fastvgan.train`. With no argument it trains on captioned moving digits."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from fastvgan.command_line import Given, log_to_terminal, read_flags, run_command, settings_from
from fastvgan.errors import UserError
from fastvgan.runs.config import RunConfig
from fastvgan.runs.effects import check_effects
from fastvgan.settings import Settings
from fastvgan.training.run.request import (
    Request,
    add_advice,
    check_workers,
    connect,
    find_base,
    fit_to_clips,
    is_fitted,
    let_epochs_count,
)
from fastvgan.training.run.resume import Start

if TYPE_CHECKING:
    from fastvgan.data.clips import Listing
    from fastvgan.training.parallel import Parallel

T = TypeVar("T")


class Arguments(Settings):
    """Train a video GAN. With no argument: captioned moving digits, on whatever the machine has.

    The defaults shown are those of the preset digits; --print-config prints those of other flags.
    """

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
    runs/), or starts from step 0 without a checkpoint; a path names a checkpoint or a run folder."""
    changed_data: bool = False
    """With --resume: resume even if the data differ from those that the checkpoint was trained on."""
    print_config: bool = False
    """Print the settings as YAML and exit."""
    dry_run: bool = False
    """Check everything, describe the run, and exit without training or writing."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; see `Arguments`."""
    given = read_flags(Arguments, arguments)
    parallel = connect(given.get("run", "training", "device"))
    try:
        return _run(given, parallel)
    finally:
        if parallel is not None:
            parallel.close()


def _run(given: Given, parallel: "Parallel | None") -> int:
    first = parallel.run_on_first if parallel else _call
    request = _request(given)
    base, start = first(lambda: find_base(request))
    parsed, listing = _parse(given, base), None
    if not parsed.print_config:
        check_workers(parsed.run.data.workers)
    if is_fitted(request, start):
        base, listing = first(lambda: fit_to_clips(request, parsed.run, {path[-1] for path in given.values}))
        parsed = _parse(given, base)
    check_effects(parsed.run, {path[-1] for path in given.values})
    if parsed.print_config:
        for remark in listing.remarks if listing else ():
            print(remark, file=sys.stderr)
        print(parsed.run.to_yaml(), end="")
        return 0
    if parsed.changed_data and parsed.resume is None:
        raise UserError("--changed-data needs --resume; pass --resume auto, or leave --changed-data out")
    start = add_advice(request, start, parsed.run)._replace(changed_data=parsed.changed_data)
    return _train(parsed.run, start, parsed.dry_run, parallel, listing)


def _call(function: Callable[[], T]) -> T:
    return function()


def _parse(given: Given, base: RunConfig) -> Arguments:
    base = let_epochs_count(base, {path[-1] for path in given.values})
    return settings_from(Arguments, given, Arguments(run=base), "python -m fastvgan.train")


def _request(given: Given) -> Request:
    named, config = given.get("preset"), given.get("config")
    if named and config:
        raise UserError("--preset and --config exclude each other; pass one of them")
    only_shows = given.get("print_config") or given.get("dry_run")
    folders = given.get("run_dir"), given.get("resume")
    return Request(named or config, given.get("run", "data", "data"), *folders, may_write=not only_shows)


def _train(
    config: RunConfig, start: Start, dry_run: bool, parallel: "Parallel | None", listing: "Listing | None"
) -> int:
    # Heavy imports come late, so that --help and bad flags answer at once.
    from fastvgan.generation.files import BEST, EXPORTED
    from fastvgan.runs.checkpoint import find_best
    from fastvgan.training.loop import TrainingLoop
    from fastvgan.training.run.scoring import describe

    log_to_terminal()
    loop = TrainingLoop(config, start, parallel, listing)
    if dry_run:
        if loop.parallel.is_first:
            print("\n".join([loop.describe(), *loop.remarks]))
        return 0
    status = loop.run()
    if not loop.parallel.is_first:
        return status
    newest = max((path.name for path in (loop.folder / "samples").glob("step-*.png")), default="none")
    print(f"run folder: {loop.folder}")
    left = {"samples": f"samples/{newest}", "generator": EXPORTED, "best": BEST, "report": "report.html"}
    for what, where in left.items():
        if (path := loop.folder / where).is_file():
            best = find_best(loop.folder / "checkpoints") if what == "best" else None
            print(f"{what + ':':12}{path}" + (f" ({best[0].name})" if best else ""))
    if loop.scores:
        print(f"scores:     step-{loop.scored_step}: {describe(loop.scores)}")
    return status


if __name__ == "__main__":
    run_command(main)
