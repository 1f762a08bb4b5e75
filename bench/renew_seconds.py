"""Renew the recorded seconds per benchmark: `python bench/renew_seconds.py FILE.json …`.

The files are written by `pytest bench/ --benchmark-only --full --benchmark-json=FILE.json`, on a quiet machine. Cases
that did not run keep their seconds if these are from the same machine, and are removed otherwise.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from support.case_seconds import KEY, RECORD, Record, as_json, name_machine, read_record  # noqa: E402

from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.files.atomic import whole  # noqa: E402


def renew(old: Record, runs: list[dict[str, Any]]) -> Record:
    """Return the table with the seconds of these runs.

    Raises:
        UserError: the runs are from different machines or at tiny sizes, or have no seconds per case.
    """
    try:
        machines = {name_machine(run["machine_info"]["fastvgan"]) for run in runs}
        tiny = any(run["machine_info"]["fastvgan"].get("tiny") for run in runs)
        seconds = {node: s for run in runs for node, s in run[KEY].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not results of these benchmarks with seconds per case: {error!r}; run them again") from error
    if len(machines) > 1:
        raise UserError(f"the files are from different machines ({' and '.join(sorted(machines))}); pass those of one")
    if tiny:
        raise UserError("the files are of small problems, whose times mean nothing; run without FASTVGAN_BENCH_TINY")
    (machine,) = machines
    days = sorted({run["datetime"][:10] for run in runs})
    how, kept = f"seconds measured {' and '.join(days)}", old.seconds if old.machine == machine else {}
    if kept.keys() - seconds.keys():
        how += f" (other cases: {old.how.partition(' (other cases')[0]})"
    return Record(machine, how, {**kept, **seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, default=RECORD, help="the table to write")
    parsed = parser.parse_args()
    try:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in parsed.files]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{' or '.join(map(str, parsed.files))} is not JSON: {error}") from error
    found = renew(read_record(), runs)
    with whole(parsed.out) as path:
        path.write_text(as_json(found), encoding="utf-8")
    print(f"wrote {parsed.out}: {len(found.seconds)} cases on {found.machine}")


if __name__ == "__main__":
    run_command(main)
