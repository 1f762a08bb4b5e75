"""Captioned moving digits: the data set that ships with the package.

Handwritten 8x8 digits (the UCI optical digits that scikit-learn carries) move over a black frame in one colour, and a
sentence says which digit, which colour and which motion: "a red 7 moving up and down". The idea is that of the
single-digit captioned videos of Mittal et al. 2017 (Sync-DRAW); the digits here are small enough to learn on two cores.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from fastvgan.data.source import Clips

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (255, 0, 255),
    "white": (255, 255, 255),
}
# (x, y) of the path over one cycle as multiples of (sin, cos) of the phase; see `_path`.
MOTIONS = ("up and down", "left and right", "diagonally", "in a circle")

# The samples are stored writer after writer, each writing the same sequence of digits; here one of them begins, so that
# nobody's hand is in both parts.
_WRITER_SPLIT = 1287


class DigitsSource:
    """Captioned moving digits, drawn without end.

    Args:
        frames, height, width: size of a clip; a digit is half as high and wide as the frame.
        channels: 3, or 1 for white digits on black whose captions name no colour.
        split: "train" (10 writers' digits) or "test" (the other writers' digits).
    """

    classes = tuple(str(digit) for digit in range(10))
    remarks = ()

    def __init__(self, frames=16, height=16, width=16, channels=3, split="train"):
        self.shape = (frames, height, width, channels)
        colours = tuple(COLOURS) if channels == 3 else ("white",)
        self._table = list(itertools.product(range(10), colours, MOTIONS))
        self.captions = [caption(*row, with_colour=channels == 3) for row in self._table]
        images, targets = load_digits(return_X_y=True)
        part = slice(None, _WRITER_SPLIT) if split == "train" else slice(_WRITER_SPLIT, None)
        images = torch.from_numpy(images[part].astype(np.float32) / 16).view(-1, 1, 8, 8)
        self.size = len(images)
        self._images = [images[targets[part] == digit] for digit in range(10)]

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Clips]:
        """See `fastvgan.data.source.Source.batches`; nothing is shuffled, every clip is drawn anew."""
        for number in itertools.count(start):
            rng = np.random.default_rng([seed, number])
            index = rng.integers(len(self.captions), size=batch_size)
            video = self.render(index, rng)
            label = torch.tensor([self._table[i][0] for i in index])
            yield Clips(video, torch.from_numpy(index), label)

    def render(self, caption_index, rng: np.random.Generator) -> torch.Tensor:
        """Clips for these indices into `captions`; uint8 (N, T, H, W, C).

        Which writer's digit, where the path lies and at which phase it begins comes from `rng`.
        """
        frames, height, width, channels = self.shape
        rows = [self._table[i] for i in caption_index]
        images = torch.stack([self._images[digit][rng.integers(len(self._images[digit]))] for digit, _, _ in rows])
        path = np.stack([_path(motion, frames, rng) for _, _, motion in rows])  # (N, T, 2) in [-1, 1]
        grey = _place(images, torch.from_numpy(path).float(), height, width)  # (N, T, H, W) in [0, 1]
        if channels == 1:
            colour = torch.full((len(rows), 1), 255.0)
        else:
            colour = torch.tensor([COLOURS[name] for _, name, _ in rows], dtype=torch.float32)
        return (grey[..., None] * colour[:, None, None, None]).round().to(torch.uint8)


def caption(digit: int, colour: str, motion: str, with_colour: bool = True) -> str:
    """The sentence for a clip: "a red 7 moving up and down"."""
    return f"a {colour} {digit} moving {motion}" if with_colour else f"a {digit} moving {motion}"


def _path(motion: str, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Centre of the digit over time, (T, 2) as (x, y) in [-1, 1]: one cycle in 16 frames, or in the clip if shorter."""
    phase = 2 * math.pi * (np.arange(frames) / min(frames, 16) + rng.random())
    swing, other = np.sin(phase), np.full(frames, rng.uniform(-0.5, 0.5))
    if motion == "up and down":
        return np.stack([other, swing], -1)
    if motion == "left and right":
        return np.stack([swing, other], -1)
    if motion == "diagonally":
        return np.stack([swing, swing * rng.choice([-1, 1])], -1)
    return np.stack([swing, np.cos(phase) * rng.choice([-1, 1])], -1)


def _place(images: torch.Tensor, path: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Draw (N, 1, 8, 8) digits at half the frame's size, centred along path (N, T, 2); gives (N, T, H, W)."""
    n, frames, _ = path.shape
    theta = torch.zeros(n, frames, 2, 3)
    theta[..., 0, 0] = theta[..., 1, 1] = 2
    theta[..., 2] = -path
    grid = F.affine_grid(theta.flatten(0, 1), [n * frames, 1, height, width], align_corners=False)
    repeated = images.repeat_interleave(frames, 0)
    return F.grid_sample(repeated, grid, align_corners=False).view(n, frames, height, width)
