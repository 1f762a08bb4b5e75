"""Captioned moving digits: the data set that ships with the package.

Handwritten 8x8 digits (the UCI optical digits that scikit-learn carries) move over a black frame in one colour, and a
sentence says which digit, which colour and which motion: "a red 7 moving up and down". The idea is that of the
single-digit captioned videos of Mittal et al. 2017 (Sync-DRAW); the digits here are small enough to learn on two cores.
In frames larger than 16x16 they are drawn with sharp outlines (`fastvgan.data.digit_shapes`).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits

from fastvgan.data.digit_shapes import REACH, coverage, distance_pictures, reconstruct_bitmaps
from fastvgan.data.sampling import sample_numbers
from fastvgan.data.source import Clips
from fastvgan.errors import UserError

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (255, 0, 255),
    "white": (255, 255, 255),
}
MOTIONS = ("up and down", "left and right", "diagonally", "in a circle")

# The samples are stored writer after writer, each writing the same sequence of digits; here one of them begins, so that
# nobody's hand is in both parts.
_WRITER_SPLIT = 1287


class DigitsSource:
    """Captioned moving digits, drawn without end.

    Args:
        frames, height, width: size of a clip; a digit is half as high and wide as the frame.
        channels: 3, or 1 for white digits on black whose captions name no colour.
        split: "train" (10 writers' digits) or "test" (the other writers' digits, under every caption).
        hold_out: share of the captions kept out of the training split, so that combinations of words never seen can
            be asked for; every single word stays.
        hold_out_seed: chooses which.

    Attributes:
        captions: the captions that are drawn; a clip's caption is an index into them.
        held_out: the captions kept out.

    Raises:
        UserError: with so large a share held out, a word would be in no caption; so small a one is of no caption.
    """

    splits = ("train", "test")

    classes = tuple(str(digit) for digit in range(10))
    remarks = ()
    decoder = "digits: drawn, not decoded"

    def __init__(
        self,
        frames: int = 16,
        height: int = 16,
        width: int = 16,
        channels: int = 3,
        split: str = "train",
        hold_out: float = 0.0,
        hold_out_seed: int = 0,
    ):
        self.shape = (frames, height, width, channels)
        colours = tuple(COLOURS) if channels == 3 else ("white",)
        every = list(itertools.product(range(10), colours, MOTIONS))
        kept_out = _choose_held_out(every, hold_out, hold_out_seed) if split == "train" else set()
        self._table = [row for i, row in enumerate(every) if i not in kept_out]
        self._digits = torch.tensor([digit for digit, _, _ in self._table])
        self.captions = [caption(*row, with_colour=channels == 3) for row in self._table]
        self.held_out = tuple(caption(*every[i], with_colour=channels == 3) for i in sorted(kept_out))
        images, digits = _handwriting(split)
        self.size = len(images)
        self._is_sharp = height > 16 or width > 16
        if self._is_sharp:
            images = distance_pictures(_bitmaps(split), height // 2, width // 2)
        self._images = [images[digits == digit] for digit in range(10)]

    def batches(
        self, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Clips]:
        """See `fastvgan.data.source.Source.batches`; nothing is shuffled, every clip is drawn anew."""
        for numbers in sample_numbers(batch_size, start, rank, world_size):
            drawn = np.stack([np.random.default_rng([seed, number]).random(5) for number in numbers])
            index = (drawn[:, 0] * len(self.captions)).astype(np.int64)
            yield Clips(self.render(index, drawn[:, 1:]), torch.from_numpy(index), self._digits[index])

    def render(self, caption_index: np.ndarray, chances: np.ndarray) -> torch.Tensor:
        """Clips for these indices into `captions`; uint8 (N, T, H, W, C).

        Args:
            chances: (N, 4) in [0, 1): which writer's digit, at which phase the path begins, where it lies, which way it
                goes.
        """
        frames, height, width, channels = self.shape
        rows = [self._table[i] for i in caption_index]
        hands = [self._images[digit] for digit, _, _ in rows]
        images = torch.stack([hand[int(u * len(hand))] for hand, u in zip(hands, chances[:, 0], strict=True)])
        path = _paths([motion for _, _, motion in rows], frames, *chances.T[1:])
        margin = REACH if self._is_sharp else 0
        grey = _place(images, torch.from_numpy(path).float(), height, width, margin)  # (N, T, H, W)
        if self._is_sharp:
            grey = coverage(grey)
        grey = grey.mul_(255).round_().to(torch.uint8)[..., None]
        if channels == 1:
            return grey
        # The colours are made of 0 and 255 alone, so that bytes can be multiplied.
        shown = torch.tensor([COLOURS[name] for _, name, _ in rows]).gt(0).to(torch.uint8)
        return grey * shown[:, None, None, None]


def caption(digit: int, colour: str, motion: str, with_colour: bool = True) -> str:
    """The sentence for a clip: "a red 7 moving up and down"."""
    return f"a {colour} {digit} moving {motion}" if with_colour else f"a {digit} moving {motion}"


def _choose_held_out(table: Sequence[tuple[int, str, str]], share: float, seed: int) -> set[int]:
    """Indices of this share of the rows, chosen so that each digit, each colour and each motion loses about as many.

    Raises:
        UserError: a word would be left in no row, or the share is of no whole row.
    """
    rng = np.random.default_rng(seed)
    # Columns count from 0 each, so that a row is three indices: of the digit, the colour and the motion.
    words = np.stack([np.unique(column, return_inverse=True)[1] for column in zip(*table, strict=True)])  # (3, rows)
    lost = np.zeros((len(words), words.max() + 1))
    chosen: set[int] = set()
    count = round(share * len(table))
    if share and not count:
        raise UserError(
            f"--hold-out {share} keeps none of the digits' {len(table)} captions out of training; take 0, or "
            f"{1 / len(table):.3f} or more"
        )
    for _ in range(count):
        # Any of the rows whose words have lost least so far.
        cost = sum(lost[kind, words[kind]] for kind in range(len(words))) + rng.random(len(table)) / 2
        cost[list(chosen)] = np.inf
        row = int(cost.argmin())
        chosen.add(row)
        lost[range(len(words)), words[:, row]] += 1
    kept = np.delete(words, list(chosen), axis=1)
    if any(len(np.unique(left)) < len(np.unique(column)) for left, column in zip(kept, words, strict=True)):
        raise UserError(
            f"--hold-out {share} keeps {len(chosen)} of the digits' {len(table)} captions out of training, so that "
            "some words would be in none; hold out fewer"
        )
    return chosen


def _paths(motions: Sequence[str], frames: int, phase: np.ndarray, where: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Centres of digits over time, (N, T, 2) as (x, y) in [-1, 1]: one cycle in 16 frames, or in the clip if shorter.

    Args:
        phase, where, way: (N,) in [0, 1): of the cycle at which it begins, of the span in which a straight path lies,
            and less than a half or not.
    """
    angle = 2 * math.pi * (np.arange(frames) / min(frames, 16) + phase[:, None])
    swing, turn = np.sin(angle), np.where(way < 0.5, -1, 1)[:, None]
    still = np.broadcast_to(where[:, None] - 0.5, swing.shape)
    kind = np.array([MOTIONS.index(motion) for motion in motions])[:, None]
    across = np.where(kind == 0, still, swing)
    down = np.select([kind == 0, kind == 1, kind == 2], [swing, still, swing * turn], np.cos(angle) * turn)
    return np.stack([across, down], -1)


def _place(images: torch.Tensor, path: torch.Tensor, height: int, width: int, margin: int) -> torch.Tensor:
    """Draw pictures of digits (N, h, w) at half the frame's size, centred along path (N, T, 2); gives (N, T, H, W).

    Bilinear, what lies beyond a picture's edge counting as 0: along each axis a small matrix that mixes the picture's
    rows, or columns, into the frame's.

    Args:
        margin: rows and columns on each side of a picture that lie outside of the digit.
    """
    down, across = (
        _mix(path[..., axis], size, rows, margin)
        for axis, size, rows in ((1, height, images.shape[1]), (0, width, images.shape[2]))
    )  # (N, T, H, h), (N, T, W, w)
    return down @ images[:, None] @ across.transpose(-1, -2)


def _mix(centre: torch.Tensor, size: int, rows: int, margin: int) -> torch.Tensor:
    """How much each of a frame's `size` rows shows of each of a picture's rows: (..., size, rows) for (...) centres."""
    shown = (2 * torch.arange(size) + 1) / size - 1  # middle of each row, over [-1, 1]
    # The same, counted in rows of the picture.
    inside = (2 * shown - centre[..., None] + 1) * (rows / 2 - margin) + (margin - 0.5)
    return (1 - (inside[..., None] - torch.arange(rows)).abs()).clamp_(min=0)


def _handwriting(split: str) -> tuple[torch.Tensor, np.ndarray]:
    """The digits of a split: grey values (N, 8, 8) in [0, 1], and which digit each is (N,)."""
    images, digits = load_digits(return_X_y=True)
    part = slice(None, _WRITER_SPLIT) if split == "train" else slice(_WRITER_SPLIT, None)
    return torch.from_numpy(images[part].astype(np.float32) / 16).view(-1, 8, 8), digits[part]


@functools.lru_cache
def _bitmaps(split: str) -> torch.Tensor:
    return reconstruct_bitmaps(_handwriting(split)[0])
