"""Defaults that depend on the clips: size, number of frames and condition of the model."""

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from statistics import median_low
from typing import NamedTuple, Protocol

from fastvgan.data.folders.annotations import has_word
from fastvgan.data.media.types import cover
from fastvgan.errors import UserError
from fastvgan.models.config import SIDES

_LARGEST = 64  # largest side, in pixels, that is chosen by default (shards excepted)
_FRAMES = (4, 8, 16)


class Described(Protocol):
    """A clip that may have captions and a class: a line of a manifest, or a file in a folder."""

    @property
    def captions(self) -> Sequence[str]:
        """Its captions."""
        ...

    @property
    def label(self) -> str | None:
        """Its class, or None."""
        ...


class FittedCondition(NamedTuple):
    """A model's condition, "text", "class" or "none", and a sentence with the reason."""

    part: str
    remark: str


def median_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the low median of the heights and that of the widths of clips (height, width), in pixels."""
    return median_low(height for height, _ in sizes), median_low(width for _, width in sizes)


def fit_size(sizes: Sequence[tuple[int, int]], height: int | None = None, width: int | None = None) -> tuple[int, int]:
    """Choose the height and width to train at, powers of two from 16 to 64.

    The choice enlarges a clip of the median height and width least, then crops it least, then is as large as possible.
    For 1280x720 the result is a height of 32 and a width of 64; for 640x480 it is 64 for both.

    Args:
        sizes: (height, width) of each clip, in pixels.
        height: The height, if the user chose it. The width may then be as large, even beyond 64.
        width: The width, if the user chose it. The height may then be as large, even beyond 64.
    """
    return _choose_size(median_size(sizes), itertools.product(_sides(height, width), _sides(width, height)))


def fit_size_of_shards(
    sizes: Sequence[tuple[int, int]], height: int | None = None, width: int | None = None
) -> tuple[int, int]:
    """Like `fit_size`, for decoded frames, which are cropped but not scaled: a size that all shards were made for.

    Raises:
        UserError: The shards were made for no common size.
    """
    kinds = sorted(set(sizes))
    heights, widths = ([side] if side else SIDES for side in (height, width))
    candidates = itertools.product(heights, widths)
    made_for = [size for size in candidates if all(cover(kind, *size) == kind for kind in kinds)]
    if not made_for:
        some = ", ".join(f"{kind[1]}x{kind[0]}" for kind in kinds[:3]) + (", …" if len(kinds) > 3 else "")
        named = " ".join(f"--{name} {side}" for name, side in (("height", height), ("width", width)) if side)
        raise UserError(
            f"the shards hold frames of {some}, made for no size {f'of {named}' if named else 'that models have'}; "
            "prepare the data again with --height and --width of 16, 32, 64 or 128"
            + (f", or leave {named} out" if named else "")
        )
    return _choose_size(median_size(sizes), made_for)


def fit_frames(lengths: Sequence[int], stride: int = 1) -> int:
    """Choose the number of frames to train on, 4, 8 or 16: as many as half of the clips have at this stride.

    Args:
        lengths: Number of frames of each clip.
        stride: Distance of the frames that are taken.
    """
    length = median_low((frames - 1) // stride + 1 for frames in lengths)
    return max((frames for frames in _FRAMES if frames <= length), default=_FRAMES[0])


def fit_condition(clips: Sequence[Described]) -> FittedCondition:
    """Choose a model's condition: captions, else classes, that at least half of the clips have; else none.

    Training leaves out clips without the condition, so a few captions must not shrink a large set to a small one.
    Captions without a letter or digit count as missing, and so does a single class for all clips.
    """
    captioned = sum(any(map(has_word, clip.captions)) for clip in clips)
    labels = [clip.label for clip in clips if clip.label is not None]
    classes = len(set(labels))
    few = f"{captioned} of {len(clips)} clips have captions, fewer than half (--condition text trains on these only); "
    before = few if captioned else "clips have no captions; "
    if 2 * captioned >= len(clips):
        count = "clips" if captioned == len(clips) else f"{captioned} of {len(clips)} clips"
        return FittedCondition("text", f"{count} have captions: the model is conditioned on them (--condition text)")
    if classes > 1 and 2 * len(labels) >= len(clips):
        return FittedCondition(
            "class", f"{before}the model is conditioned on their {classes} classes (--condition class)"
        )
    return FittedCondition("none", f"{before}no usable classes either: the model is unconditional (--condition none)")


def _sides(settled: int | None, other: int | None) -> Sequence[int]:
    if settled is not None:
        return [settled]
    return [side for side in SIDES if side <= max(_LARGEST, other or 0)]


def _choose_size(shown: tuple[int, int], sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    def merit(size: tuple[int, int]) -> tuple[Fraction, Fraction, int]:
        scales = [Fraction(side, shown_side) for side, shown_side in zip(size, shown, strict=True)]
        return -max(Fraction(1), *scales), min(scales) / max(scales), size[0] * size[1]

    return max(sizes, key=merit)
