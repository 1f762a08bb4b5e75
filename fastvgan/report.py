"""Write the HTML report of a run folder: `python -m fastvgan.report --run DIR`."""

from pathlib import Path

from fastvgan.command_line import parse, run_command
from fastvgan.errors import UserError
from fastvgan.runs.names import find_run
from fastvgan.settings import Settings

_SIGNS = ("config.yaml", "metrics.jsonl", "evaluation.jsonl", "log.txt", "samples")  # any one makes it a run folder


class Arguments(Settings):
    """Write the report of a run again, one HTML page with the run's curves, scores and samples."""

    run: Path | None = None
    """Run folder; by default the newest run under runs/."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.report", arguments)

    from fastvgan.training.report.collect import write_report

    run = find_run(parsed.run)
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; pass a run folder with --run")
    if not any((run / name).exists() for name in _SIGNS):
        raise UserError(f"{run} is not a run folder (no {', '.join(_SIGNS)}); pass a run folder with --run")
    print(write_report(run))


if __name__ == "__main__":
    run_command(main)
