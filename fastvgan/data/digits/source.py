"""Captioned moving digits: the data set that ships with the package.

Handwritten 8x8 digits (UCI's optical digits, see handwriting.md) move over a black frame in one colour. A caption names
the digit, its colour and its motion: "a red 7 moving up and down". The idea is that of the single-digit captioned
videos of Mittal et al. 2017 (Sync-DRAW); these digits are small enough to train on with two cores. In frames larger
than 16x16 they are drawn with sharp outlines (`fastvgan.data.digits.shapes`).
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from fastvgan.data.digits.drawn import DrawnSource
from fastvgan.data.digits.pcg64 import uniforms as uniforms_of_numpy
from fastvgan.data.digits.phrases import phrase_table
from fastvgan.data.digits.shapes import REACH, coverage, distance_pictures, reconstruct_bitmaps
from fastvgan.data.digits.words import COLOURS, MOTIONS
from fastvgan.data.fingerprint import compute_fingerprint
from fastvgan.data.share import choose_share
from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.files.pictures import to_bytes
from fastvgan.files.tensor_file import read_tensors
from fastvgan.random_draws import uniforms

_HANDWRITING = Path(__file__).with_name("handwriting.safetensors")
# The samples are stored writer by writer. This is the first sample of a writer, so that no writer is in both splits.
_WRITER_SPLIT = 1287

_VERSION = 1  # raise it when the same random words draw other clips
_WORDS = 5  # random words per clip: its caption, and the four chances of `DigitsSource.render`


class Variant(NamedTuple):
    """How the digits differ from the plain ones; `reverse` and `share` apply to the training split only.

    reverse: Show each clip backwards in time with probability 1/2, by one more random word.
    share: Share of the handwritten pictures to draw clips from.
    seed: Chooses these pictures.
    is_free: Describe clips in free language.
    """

    reverse: bool = False
    share: float = 1.0
    seed: int = 0
    is_free: bool = False


_PLAIN = Variant()


class DigitsSource(DrawnSource):
    """An endless source of captioned moving digits.

    Args:
        frames: Frames per clip.
        height: Height of a clip; a digit is half as high as the frame.
        width: Width of a clip; a digit is half as wide as the frame.
        channels: 3, or 1 for white digits on black and captions without a colour.
        split: "train" (the digits of 10 writers) or "test" (those of the other writers, under every caption).
        hold_out: Share of the captions kept out of the training split, to evaluate unseen combinations of words. Each
            single word stays in some caption.
        hold_out_seed: Chooses these captions.
        variant: Changes to the plain digits.

    Attributes:
        captions: The captions that are drawn; a clip's caption is an index into them.
        phrasings: The same number of phrasings of each caption, if they are in free language; else empty.
        held_out: The captions kept out.

    Raises:
        UserError: `hold_out` would remove every caption with some word, or is too small to keep out any caption; or the
            share of the pictures lacks some digit.
    """

    splits = ("train", "test")

    classes: Sequence[str] = tuple(str(digit) for digit in range(10))
    decoder = "digits: drawn, not decoded"
    draws = _words = _WORDS

    def __init__(
        self,
        frames: int = 16,
        height: int = 16,
        width: int = 16,
        channels: int = 3,
        split: str = "train",
        hold_out: float = 0.0,
        hold_out_seed: int = 0,
        variant: Variant = _PLAIN,
    ):
        variant = variant if split == "train" else Variant(is_free=variant.is_free)
        self._reverse = variant.reverse
        if variant.reverse:
            self.draws = self._words = _WORDS + 1
        self.shape = (frames, height, width, channels)
        colours = tuple(COLOURS) if channels == 3 else ("white",)
        rows = list(itertools.product(range(10), colours, MOTIONS))
        kept_out = _choose_held_out(rows, hold_out, hold_out_seed) if split == "train" else set()
        self._table = [row for i, row in enumerate(rows) if i not in kept_out]
        self.captions: Sequence[str] = [caption(*row, with_colour=channels == 3) for row in self._table]
        self.held_out = tuple(caption(*rows[i], with_colour=channels == 3) for i in sorted(kept_out))
        images, digits = _handwriting(split)
        chosen = _choose_pictures(digits, variant)
        self.remarks: Sequence[str] = ()
        if len(chosen) < len(images):
            self.remarks = (f"--share {variant.share:g}: {len(chosen):,} of {len(images):,} pictures",)
        images, digits = images[chosen], digits[chosen]
        self.size = len(images)
        self.phrasings = phrase_table(self._table, channels == 3) if variant.is_free else ()
        facts = ["digits", _VERSION, self.captions, digits.tolist(), to_bytes((16 * images).byte()).hex()]
        facts += [self.phrasings] if variant.is_free else []
        self.fingerprint = compute_fingerprint(facts, self.size, self.captions, self.classes)
        self._is_sharp = height > 16 or width > 16
        if self._is_sharp:
            images = distance_pictures(_bitmaps(split)[chosen], height // 2, width // 2)
        self._sorted_digits, order = digits.sort(stable=True)
        self._pictures = images[order]
        self._tables: dict[torch.device, _Tables] = {}

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Draw clips by random words; see `fastvgan.data.source.Source.draw`.

        Args:
            words: int64 (N, W) in [0, 2**32), with W = `draws`.
            clips: Unused.
        """
        chances = uniforms(words)
        index = self._captions_by(chances)
        video = self.render(index, chances[:, 1:_WORDS])
        if self._reverse:
            video = torch.where(chances[:, _WORDS, None, None, None, None] < 0.5, video, video.flip(1))
        return Clips(video, index, self._tables_on(words.device).labels[index])

    def draw_of(self, captions: Sequence[int], seed: int, numbers: range) -> Clips:
        """Draw only those clips that have one of some captions, which takes less time than to draw all and choose.

        Args:
            captions: Indices into `captions`.
            seed: As for `batches`.
            numbers: Which of the clips that `batches` yields with this seed, counted from its first one.
        """
        words = self._words_by(seed)(numbers)
        is_wanted = torch.zeros(len(self.captions), dtype=torch.bool)
        is_wanted[list(captions)] = True
        return self.draw(words[is_wanted[self._captions_by(uniforms(words))]])

    def _captions_by(self, chances: torch.Tensor) -> torch.Tensor:
        """The captions of the clips that are drawn by chances, float64 (N, W)."""
        return (chances[:, 0] * len(self.captions)).long()

    def render(self, caption_index: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
        """Draw clips of some captions, on the device of the chances.

        Grey values are rounded from float32; those half-way between two bytes may differ by 1 between devices.

        Args:
            caption_index: int64 (N,), indices into `captions`.
            chances: float64 (N, 4) in [0, 1): which picture of the digit, the phase in which the path begins, its
                place, and its direction.

        Returns:
            uint8 (N, T, H, W, C).
        """
        channels, tables = self.shape[3], self._tables_on(chances.device)
        rows = tables.captions[caption_index]
        picture = torch.addcmul(rows[:, 0], rows[:, 1], chances[:, 0]).long()  # first + count * chance
        path = _paths(rows[:, 2:].unflatten(1, (-1, 2)), tables.time, *chances[:, 1:].split(1, 1))  # (N, T, 2)
        grey = self._sample(tables, picture, path)[..., None]  # (N, T, H, W, 1)
        if channels == 1:
            return grey
        # Each component of a colour is 0 or 255, so that a factor of 0 or 1 does not overflow a byte.
        return grey * tables.colours[caption_index][:, None, None, None]

    def draw_still(self, digits: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
        """Draw pictures of digits in the centre of the frame, on the device of the chances.

        Args:
            digits: int64 (N,), from 0 to 9.
            chances: float64 (N,) in [0, 1), which picture of the digit.

        Returns:
            Grey values, uint8 (N, H, W).
        """
        tables = self._tables_on(chances.device)
        first, count = tables.digits[digits].unbind(1)
        picture = torch.addcmul(first, count, chances).long()
        return self._sample(tables, picture, chances.new_zeros(len(digits), 1, 2))[:, 0]

    def _sample(self, tables: "_Tables", picture: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """Sample pictures, int64 (N,), with their centres on a path (N, T, 2); return uint8 (N, T, H, W)."""
        _, height, width, _ = self.shape
        frames = path.shape[1]
        grid = tables.places - path.float()[:, :, None, None]  # (N, T, H, W, 2)
        # The frames of a clip form one tall grid, so that each picture is sampled by one call.
        grey = F.grid_sample(
            tables.pictures[picture], grid.view(-1, frames * height, width, 2), align_corners=False
        ).view(-1, frames, height, width)
        if self._is_sharp:
            grey = coverage(grey)
        return grey.mul_(255).round_().to(torch.uint8)

    def _tables_on(self, device: torch.device) -> "_Tables":
        if device not in self._tables:
            self._tables[device] = _Tables(*(table.to(device) for table in self._make_tables()))
        return self._tables[device]

    def _make_tables(self) -> "_Tables":
        frames, height, width, _ = self.shape
        rows, columns = self._pictures.shape[1:]
        margin = REACH if self._is_sharp else 0
        # Share of a picture, which has margins, that the digit itself takes.
        inside = torch.tensor([1 - 2 * margin / columns, 1 - 2 * margin / rows], dtype=torch.float64)  # (x, y)
        motions = _motion_tables()  # (M, 5, 2)
        motions[:, _LENGTHS] *= inside
        counts = self._sorted_digits.bincount(minlength=10)
        first = counts.cumsum(0) - counts
        digits = torch.tensor([digit for digit, _, _ in self._table])
        kinds = torch.tensor([MOTIONS.index(motion) for _, _, motion in self._table])
        captions = torch.cat([torch.stack([first, counts], 1)[digits], motions[kinds].flatten(1)], 1)
        across, down = ((2 * torch.arange(size) + 1) / size - 1 for size in (width, height))
        places = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)  # (H, W, 2)
        return _Tables(
            captions,
            2 * math.pi * torch.arange(frames, dtype=torch.float64)[:, None] / min(frames, 16),
            (2 * places * inside).float(),
            self._pictures[:, None],
            torch.tensor([COLOURS[name] for _, name, _ in self._table]).gt(0).to(torch.uint8),
            digits,
            torch.stack([first, counts], 1).double(),
        )


class _Tables(NamedTuple):
    """Tables from which clips are drawn, on one device.

    captions: float64 (captions, 12): the first picture of the caption's digit, their number, and the five rows (x, y)
        of its motion, see `_paths`.
    time: float64 (T, 1), an angle.
    places: float32 (H, W, 2), the position (x, y) of each pixel in a centred picture with edges at -1 and 1.
    pictures: float32 (P, 1, h, w), sorted by digit.
    colours: uint8 (captions, 3) of 0 and 1.
    labels: int64 (captions,), the digit.
    digits: float64 (10, 2), the first picture of each digit, and their number.
    """

    captions: torch.Tensor
    time: torch.Tensor
    places: torch.Tensor
    pictures: torch.Tensor
    colours: torch.Tensor
    labels: torch.Tensor
    digits: torch.Tensor


def caption(digit: int, colour: str, motion: str, with_colour: bool = True) -> str:
    """Return the caption of a clip: "a red 7 moving up and down"."""
    return f"a {colour} {digit} moving {motion}" if with_colour else f"a {digit} moving {motion}"


def _choose_held_out(table: Sequence[tuple[int, str, str]], share: float, seed: int) -> set[int]:
    """Choose indices of a share of the rows so that all digits, colours and motions lose about equally many.

    Raises:
        UserError: Some word would be left in no row, or the share is less than half a row.
    """
    if not share:
        return set()
    count = round(share * len(table))
    if not count:
        raise UserError(
            f"--hold-out {share} is less than one of the digits' {len(table)} captions; use 0, or at least "
            f"{1 / len(table):.3f}"
        )
    chances = uniforms_of_numpy(seed)
    lost: Counter[tuple[int, int | str]] = Counter()  # by kind of word and word
    chosen: set[int] = set()
    for _ in range(count):
        # A random one of the rows whose words have lost least so far.
        cost = [sum(lost[word] for word in enumerate(row)) + next(chances) / 2 for row in table]
        best = min(set(range(len(table))) - chosen, key=lambda i: (cost[i], i))
        chosen.add(best)
        lost.update(enumerate(table[best]))
    kept = {word for i, row in enumerate(table) if i not in chosen for word in enumerate(row)}
    if not kept.issuperset(lost):
        raise UserError(
            f"--hold-out {share} keeps {len(chosen)} of the digits' {len(table)} captions out of training, which "
            "leaves some words in no caption; use a smaller --hold-out"
        )
    return chosen


_LENGTHS = [0, 1, 3, 4]  # rows of a motion's table that are lengths, not angles


def _motion_tables() -> torch.Tensor:
    """The arguments of `_paths` for each of MOTIONS, float64 (motions, 5, 2), for x and y; a circle has radius 1."""
    swing, turning = (1, 1, 0, 0, 0), (1, -1, 0, 0, 0)
    ahead, still = (1, -1, math.pi / 2, 0, 0), (0, 0, 0, -0.5, 1)
    axes = {
        "up and down": (still, swing),
        "left and right": (swing, still),
        "diagonally": (swing, turning),
        "in a circle": (swing, ahead),
    }
    return torch.tensor([axes[motion] for motion in MOTIONS], dtype=torch.float64).transpose(1, 2)


def _paths(
    motions: torch.Tensor, time: torch.Tensor, phase: torch.Tensor, where: torch.Tensor, way: torch.Tensor
) -> torch.Tensor:
    """Centres of digits over time, float64 (N, T, 2) as (x, y): along each axis an oscillation or a fixed place.

    Args:
        motions: (N, 5, 2), for each axis the amplitude in either direction, the phase shift, and the first value and
            length of the interval that a fixed place is drawn from.
        time: (T, 1), an angle.
        phase: (N, 1) in [0, 1), share of the cycle at which the motion begins.
        where: (N, 1) in [0, 1), place of a straight path in its interval.
        way: (N, 1) in [0, 1), the direction: below 0.5 or not.
    """
    forth, back, ahead, begin, span = motions.unbind(1)  # each (N, 2)
    size = torch.where(way < 0.5, back, forth)
    angle = torch.add(ahead, phase, alpha=2 * math.pi)[:, None] + time  # (N, T, 2)
    return torch.addcmul(torch.addcmul(begin, span, where)[:, None], size[:, None], angle.sin_())


def _handwriting(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The digits of a split: grey values, float32 (N, 8, 8) in [0, 1], and the digit that each shows, int64 (N,)."""
    tensors, _ = read_tensors(_HANDWRITING)
    part = slice(None, _WRITER_SPLIT) if split == "train" else slice(_WRITER_SPLIT, None)
    return tensors["images"][part].float() / 16, tensors["digits"][part].long()


def _choose_pictures(digits: torch.Tensor, variant: Variant) -> list[int]:
    """Indices of the pictures to draw clips from, given the digit that each shows.

    Raises:
        UserError: Some digit has no picture.
    """
    chosen = choose_share(len(digits), variant.share, variant.seed, "pictures")
    if missing := sorted(set(range(10)) - set(digits[chosen].tolist())):
        raise UserError(
            f"--share {variant.share} leaves {len(chosen)} of {len(digits)} pictures, none of the digit {missing[0]}; "
            "use a larger --share, or another --share-seed"
        )
    return chosen


@functools.lru_cache
def _bitmaps(split: str) -> torch.Tensor:
    return reconstruct_bitmaps(_handwriting(split)[0])
