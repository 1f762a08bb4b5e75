"""The size, the number of frames and the condition that suit a set of clips, where the user names none."""

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction
from statistics import median_low
from typing import NamedTuple, Protocol

from fastvgan.data.media.types import cover
from fastvgan.errors import UserError
from fastvgan.models.config import SIDES

_LARGEST = 64  # pixels a side of what is chosen for the user, decoded frames apart
_FRAMES = (4, 8, 16)
_WORD = re.compile(r"\w")


class Described(Protocol):
    """What may have captions and a class: a line of a manifest, or a clip found in a folder."""

    @property
    def captions(self) -> Sequence[str]:
        """Its captions."""
        ...

    @property
    def label(self) -> str | None:
        """Its class, or None."""
        ...


class FittedCondition(NamedTuple):
    """What a model is to follow, "text", "class" or "none", and a sentence that says why."""

    part: str
    remark: str


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The median height and the median width of clips; at least half of them are as high, and half as wide."""
    return median_low(height for height, _ in sizes), median_low(width for _, width in sizes)


def fit_size(sizes: Sequence[tuple[int, int]], height: int | None = None, width: int | None = None) -> tuple[int, int]:
    """The height and width to train at, powers of two from 16 to 64, for clips of these heights and widths.

    A clip of the median height and width is enlarged least, then cropped least; of sizes alike in both, the largest is
    taken. So 1280x720 gives a height of 32 and a width of 64, and 640x480 gives 64 for both.

    Args:
        height, width: what is settled already; where that is larger than 64, the other may be as large.
    """
    shown = median_size(sizes)
    return _best(shown, itertools.product(_sides(height, width), _sides(width, height)))


def fit_size_of_shards(
    sizes: Sequence[tuple[int, int]], height: int | None = None, width: int | None = None
) -> tuple[int, int]:
    """The same of decoded frames, which are cropped and never scaled: a size that all of them were made for.

    Raises:
        UserError: there is none.
    """
    kinds = sorted(set(sizes))
    sides = [[side] if side else SIDES for side in (height, width)]
    made_for = [size for size in itertools.product(*sides) if all(cover(kind, *size) == kind for kind in kinds)]
    if not made_for:
        some = ", ".join(f"{kind[1]}x{kind[0]}" for kind in kinds[:3]) + (", …" if len(kinds) > 3 else "")
        named = " ".join(f"--{name} {side}" for name, side in (("height", height), ("width", width)) if side)
        raise UserError(
            f"the shards hold frames of {some}, made for no size {f'of {named}' if named else 'that models have'}; "
            f"prepare the data again with --height and --width of 16, 32, 64 or 128"
            + (f", or leave {named} out" if named else "")
        )
    return _best(median_size(sizes), made_for)


def fit_frames(lengths: Sequence[int], stride: int = 1) -> int:
    """How many frames to train on, 4, 8 or 16: as many as half of the clips have, where every `stride`th is taken."""
    length = median_low((frames - 1) // stride + 1 for frames in lengths)
    return max((frames for frames in _FRAMES if frames <= length), default=_FRAMES[0])


def fit_condition(clips: Sequence[Described]) -> FittedCondition:
    """What a model of these clips is to follow: captions or else classes that at least half of them have, or nothing.

    Clips without what is followed take no part in training, so that few captions do not make a small set of a large
    one. Captions without a letter or digit, and a single class, tell clips apart in nothing.
    """
    captioned = sum(any(map(_WORD.search, clip.captions)) for clip in clips)
    labels = [clip.label for clip in clips if clip.label is not None]
    classes = len(set(labels))
    few = f"{captioned} of {len(clips)} clips have captions, fewer than half, which --condition text trains on alone; "
    before = few if captioned else "clips have no captions; "
    if 2 * captioned >= len(clips):
        count = "clips" if captioned == len(clips) else f"{captioned} of {len(clips)} clips"
        return FittedCondition("text", f"{count} have captions: the model follows them (--condition text)")
    if classes > 1 and 2 * len(labels) >= len(clips):
        return FittedCondition("class", f"{before}the model follows their {classes} classes (--condition class)")
    return FittedCondition("none", f"{before}the model follows nothing, for lack of classes (--condition none)")


def _sides(settled: int | None, other: int | None) -> Sequence[int]:
    if settled is not None:
        return [settled]
    return [side for side in SIDES if side <= max(_LARGEST, other or 0)]


def _best(shown: tuple[int, int], sizes) -> tuple[int, int]:
    def merit(size: tuple[int, int]):
        across = [Fraction(wanted, there) for wanted, there in zip(size, shown, strict=True)]
        return -max(1, *across), min(across) / max(across), size[0] * size[1]

    return max(sizes, key=merit)
