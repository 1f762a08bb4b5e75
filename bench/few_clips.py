"""What DiffAugment changes where clips are few: training on some of 1,280 clips of digits, without and with it.

    python bench/few_clips.py --out FILE.jsonl [--clips 64 320 1280] [--seeds 0 1 2] [--steps 2000]

`fastvgan.train` draws new clips of the digits all the time, even with few handwritten pictures. Here each clip is drawn
once, as if they were videos. The model is what `fastvgan.Trainer` chooses for such clips, without a condition, and
`python -m fastvgan.evaluate --data digits` compares it with clips of writers that training never saw. A row is appended
to FILE as soon as its run is done, and the same command skips the rows that are there. Ends by printing a Markdown
table of mean ± standard deviation over seeds.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from objectives import check_file, drop_partial_line, head, read_rows, spread  # noqa: E402

import fastvgan  # noqa: E402
from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.data import open_source  # noqa: E402
from fastvgan.errors import UserError  # noqa: E402
from fastvgan.models import ModelConfig  # noqa: E402
from fastvgan.runs.config import DataConfig  # noqa: E402

ALL = 1280
AUGMENT = ("color", "translation", "cutout")
SCORES = ("frechet", "kernel", "diversity", "copies")


class DrawnClips(torch.utils.data.Dataset):
    """The first `count` of 1,280 clips of digits, each uint8 (16, 16, 16, 3), the same in every call."""

    def __init__(self, count: int):
        source = open_source(DataConfig(workers=0), ModelConfig(condition=("text",)))
        self.clips = next(source.batches(ALL, 0)).video[:count]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"video": self.clips[index]}


def run(
    folder: Path, clips: int, augment: tuple[str, ...], seed: int, steps: int, evaluated: int = 960
) -> dict[str, Any]:
    """Train, and evaluate by so many clips; return the scores of `fastvgan.evaluate`."""
    settings = {"seed": seed, "steps": steps, "augment": augment, "evaluate_every": 500}
    fastvgan.Trainer(data=DrawnClips(clips), run_dir=folder, resume="auto", **settings).train()
    scores = folder / "scores.json"
    command = ["-m", "fastvgan.evaluate", "--run", folder, "--data", "digits", "--clips", evaluated, "--json", scores]
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT)
    return json.loads(scores.read_text(encoding="utf-8"))["scores"]


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table: one per number of clips and augmentation."""
    yield "| clips | augment | seeds | " + " | ".join(SCORES) + " |"
    yield "| --- " * (3 + len(SCORES)) + "|"
    for (clips, augment), group in itertools.groupby(sorted(rows, key=_key), lambda row: _key(row)[:2]):
        members = list(group)
        scores = [spread([row["scores"].get(name) for row in members]) for name in SCORES]
        yield f"| {clips} | {augment or 'none'} | {len(members)} | " + " | ".join(scores) + " |"


def _key(row: dict[str, Any]) -> tuple[int, str, int]:
    return row["clips"], row["augment"], row["seed"]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--clips", type=int, nargs="+", default=[64], help=f"at most {ALL}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    given = parser.parse_args()
    if wrong := [clips for clips in given.clips if not 1 <= clips <= ALL]:
        raise UserError(f"--clips {wrong[0]}: expected 1 to {ALL}, which are drawn")
    check_file(given.out)
    work = given.out.with_suffix("")
    drop_partial_line(given.out)
    done = {_key(row) for row in read_rows(given.out)}
    if others := {row["steps"] for row in read_rows(given.out)} - {given.steps}:
        raise UserError(f"{given.out} has rows of {others.pop()} steps, not {given.steps}; pass another --out")
    for seed, clips, augment in itertools.product(given.seeds, given.clips, ((), AUGMENT)):
        row = {"clips": clips, "augment": " ".join(augment), "seed": seed, "steps": given.steps}
        if _key(row) in done:
            continue
        folder = work / f"{clips}-{'augment' if augment else 'plain'}-{seed}"
        row |= {**head(), "scores": run(folder, clips, augment, seed, given.steps)}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print("\n".join(table(read_rows(given.out))))


if __name__ == "__main__":
    run_command(main)
