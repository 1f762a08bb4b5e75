"""Write a run's report anew, one page with everything its folder shows: `python -m fastvgan.report --run DIR`."""

from pathlib import Path

from fastvgan.command_line import parse, run_command
from fastvgan.errors import UserError
from fastvgan.runs.names import find_run
from fastvgan.settings import Settings

_SIGNS = ("config.yaml", "metrics.jsonl", "evaluation.jsonl", "log.txt", "samples")  # any one makes it a run folder


class Arguments(Settings):
    """Write a run's report anew, one page with everything its folder shows."""

    run: Path | None = None
    """Run folder; by default the newest run under runs/."""


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(Arguments, "python -m fastvgan.report", arguments)

    from fastvgan.training.report.collect import write_report

    run = find_run(parsed.run)
    if not run.is_dir():
        raise UserError(f"{run} is no folder; name a run folder by --run")
    if not any((run / name).exists() for name in _SIGNS):
        raise UserError(f"{run} is no run folder: it holds neither {', nor '.join(_SIGNS)}")
    print(write_report(run))


if __name__ == "__main__":
    run_command(main)
