"""Count the modes that a run on stacked digits covers: `python bench/modes.py RUN [--json FILE]`."""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from fastvgan import load  # noqa: E402
from fastvgan.command_line import run_command  # noqa: E402
from fastvgan.files.atomic import check_writable  # noqa: E402
from fastvgan.metrics.modes import ModeCount, count_modes, read_modes  # noqa: E402

_CLIPS = 25_600  # as in Metz et al. 2017
_CHUNK = 256


def count_modes_of(run: Path, clips: int, seed: int) -> ModeCount:
    """Generate clips by the averaged generator of a run, and count the modes of 1,000 that they cover."""
    generator = load(run)
    starts = tqdm(range(0, clips, _CHUNK), "generating", unit="batch", disable=None, leave=False)
    parts = [read_modes(generator.generate(n=min(_CHUNK, clips - i), seed=seed + i)) for i in starts]
    return count_modes(torch.cat(parts))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, checkpoint or exported file")
    parser.add_argument("--clips", type=int, default=_CLIPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    given = parser.parse_args()
    if given.json:
        check_writable(given.json)
    found = count_modes_of(given.run, given.clips, given.seed)
    print(f"{found.modes} of 1,000 modes in {given.clips} clips, divergence {found.divergence:.3f} nats")
    if given.json:
        given.json.write_text(json.dumps({"clips": given.clips, "seed": given.seed, **found._asdict()}) + "\n", "utf-8")


if __name__ == "__main__":
    run_command(main)
