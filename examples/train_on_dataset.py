"""Train on a torch Dataset of one's own, with a callback that stops the run when it no longer improves.

python examples/train_on_dataset.py
python examples/train_on_dataset.py --steps 2000 --run-dir runs/discs
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.data import Dataset

import fastvgan

COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 0.9, 0.3), "blue": (0.3, 0.4, 1.0)}
SIZES = {"small": 2.5, "large": 4.5}


class Discs(Dataset):
    """A disc that circles around the middle, drawn when it is asked for. Replace it by clips of your own."""

    def __init__(self, size: int = 300):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        colour = list(COLOURS)[index % 3]
        size = list(SIZES)[index // 3 % 2]
        # fastvgan seeds the global generators for each sample, so that a resumed run sees the same clips.
        start = 2 * math.pi * torch.rand(())
        angle = start + 2 * math.pi * torch.arange(8).view(8, 1, 1) / 8
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        distance = torch.hypot(x - 7.5 - 3 * angle.cos(), y - 7.5 - 3 * angle.sin())  # (T, H, W)
        disc = (SIZES[size] - distance).clamp(0, 1)
        return {"video": disc[..., None] * torch.tensor(COLOURS[colour]), "caption": f"a {size} {colour} disc"}


class StopWithoutProgress(fastvgan.Callback):
    """Print each evaluation, and stop after three that are worse than the best one."""

    def __init__(self, score: str = "coarse_frechet", patience: int = 3):
        self.score, self.patience = score, patience
        self.best, self.worse = math.inf, 0

    def on_evaluate(self, trainer: fastvgan.Trainer, scores: Mapping[str, float]) -> None:
        if self.score not in scores:
            return
        now = scores[self.score]
        print(f"step {trainer.step} of {trainer.steps}: {self.score} {now:.2f}, best so far {min(now, self.best):.2f}")
        self.worse = 0 if now < self.best else self.worse + 1
        self.best = min(now, self.best)
        if self.worse >= self.patience:
            trainer.stop()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the script in seconds")
    parser.add_argument("--run-dir", type=Path, help="by default a new folder under runs/")
    given = parser.parse_args(arguments)

    settings: dict = {"steps": given.steps, "batch_size": 16, "base_width": 16, "checkpoint_every": 100}
    if given.small:
        settings |= {"batch_size": 4, "base_width": 2, "latent": 8, "evaluate_clips": 16}
    # The model takes its size, length and condition from the dataset's clips.
    trainer = fastvgan.Trainer(data=Discs(), run_dir=given.run_dir, callbacks=[StopWithoutProgress()], **settings)
    print(trainer.describe())
    result = trainer.train()

    path = result.run_dir / "disc.gif"
    result.generator(["a large red disc", "a small blue disc"], seed=1).save(path)
    print(f"{path}: a large red and a small blue disc, after {result.step} steps")
    print(f"report: {result.run_dir / 'report.html'}")


if __name__ == "__main__":
    main()
