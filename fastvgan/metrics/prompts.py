"""What an evaluation asks a generator for, and the real clips that its answers are compared with."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, caption
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.vocabulary import Vocabulary, split_words
from fastvgan.pixels import to_float

FEWEST = 16  # clips that can be evaluated
_BATCH = 32
_CELLS = 2**21  # places in the frames of the training clips that are drawn at once


class Prompts(NamedTuple):
    """Conditions of N clips, and N real clips beside them.

    condition: N rows on the CPU, or None where the model follows none.
    group: int64 (N,), equal where two rows have the same condition.
    real: uint8 (N, T, H, W, C), row by row of the same caption or class as far as the data allows that.
    real_group: int64 (N,), equal where two real clips have the same caption or class; None where no real clips share
        what generated ones of a group do, a first frame.
    strata, twins: int64 (N,) or None, how the clips were drawn: see `fastvgan.metrics.readers.Sample`. The strata are
        those of the real clips as well.
    images: uint8 (N, H, W, C), the first frames given, or None.
    words: of the digits, what a clip is to show as far as the condition says it: int64 (N,) by "digit", "colour" and
        "motion", indices into 0 to 9, `COLOURS` and `MOTIONS`.
    """

    condition: Condition | None
    group: torch.Tensor
    real: torch.Tensor
    real_group: torch.Tensor | None
    strata: torch.Tensor | None
    twins: torch.Tensor | None
    images: torch.Tensor | None
    words: dict[str, torch.Tensor]


def digit_words(captions: Sequence[str], channels: int) -> dict[str, torch.Tensor]:
    """Digit, colour and motion that captions of the digits name, int64 (M,) each, indices as in `Prompts.words`.

    Grey digits have no colour: it is left out.

    Raises:
        UserError: a caption is none of the digits.
    """
    table = itertools.product(range(10), enumerate(COLOURS), enumerate(MOTIONS))
    known = {
        caption(digit, colour, motion, with_colour=channels == 3): (digit, i, j)
        for digit, (i, colour), (j, motion) in table
    }
    try:
        rows = torch.tensor([known[text] for text in captions]).view(-1, 3)
    except KeyError as error:
        raise UserError(f"{error.args[0]!r} is no caption of the digits; name other data by --data") from error
    words = dict(zip(("digit", "colour", "motion"), rows.unbind(1), strict=True))
    return words if channels == 3 else {name: words[name] for name in ("digit", "motion")}


def digit_prompts(
    model: ModelConfig, reference: DigitsSource, captions: Sequence[str], clips: int, seed: int
) -> Prompts:
    """Prompts of the digits: every caption, or class, equally often, at least two clips of each condition.

    Args:
        model: says which conditions are followed. reference: draws the real clips. captions: to ask for; where they are
            more than half of `clips`, that many of them, chosen at random. clips: N, at least 2.

    Raises:
        UserError: a caption is none of the digits, or the model was not trained on one of the words or classes.
    """
    rng = np.random.default_rng([seed, 1])
    words = digit_words(captions, model.channels)
    rows, group = _rows(model.condition, words["digit"].numpy(), clips, rng)
    chosen = [captions[i] for i in rows]
    place = {text: i for i, text in enumerate(reference.captions)}
    chances = torch.from_numpy(rng.random((clips, 4)))
    real = reference.render(torch.tensor([place[text] for text in chosen]), chances)
    words = {name: values[rows] for name, values in words.items() if name in _words_in(model.condition)}
    text = label = images = None
    if "text" in model.condition:
        text = _encode(model, chosen)
    if "class" in model.condition:
        label = _classes(model, reference)[words["digit"]]
    if "image" in model.condition:
        images = real[torch.from_numpy(group), 0]
    given = torch.from_numpy(group)
    has_image = images is not None
    return Prompts(
        _condition(text, label, images),
        given,
        real,
        None if has_image else given,
        torch.from_numpy(rows) if has_image else given,
        given if has_image else None,
        images,
        words,
    )


def clip_prompts(model: ModelConfig, source: Source, clips: int, seed: int) -> Prompts:
    """Prompts of any data: N different clips of it are the real ones, and half of them give the conditions.

    Raises:
        UserError: there are fewer clips than that, or the model was not trained on one of their captions or classes.
    """
    if source.size < FEWEST:
        raise UserError(
            f"the data has {source.size} clips, and an evaluation takes {FEWEST} or more; name more by --data"
        )
    if clips > source.size:
        raise UserError(f"--clips {clips}: the data has {source.size} clips; take --clips {source.size} or fewer")
    drawn = first_clips(source, clips, seed)
    group = torch.arange(clips) % max(1, clips // 2) if model.condition else torch.zeros(clips, dtype=torch.int64)
    text = label = images = None
    if "text" in model.condition:
        text = _encode(model, [source.captions[i] for i in drawn.caption[group]])
    if "class" in model.condition:
        label = _classes(model, source)[drawn.label][group]
    if "image" in model.condition:
        images = drawn.video[group, 0]
    twins = group if model.condition else None
    real_group = None if images is not None else _groups(drawn, bool(model.condition))
    return Prompts(
        _condition(text, label, images),
        label if model.condition == ("class",) else group,
        drawn.video,
        real_group,
        None,
        twins,
        images,
        {},
    )


def _groups(drawn: Clips, has_condition: bool) -> torch.Tensor:
    """Which real clips share caption and class, int64 (N,): all, where there is no condition or where no two do."""
    keys = [part for part in (drawn.caption, drawn.label) if part is not None and has_condition]
    if keys:
        group = torch.stack(keys, 1).unique(dim=0, return_inverse=True)[1]
        if len(group.unique()) < len(group):
            return group
    return torch.zeros(len(drawn.video), dtype=torch.int64)


def first_clips(source: Source, clips: int, seed: int) -> Clips:
    """The first clips of an epoch, each of another member of the data where there are so many."""
    parts, batches = [], source.batches(min(clips, _BATCH), seed)
    for _ in range(0, clips, _BATCH):
        parts.append(next(batches))
    batches.close()
    columns = [None if part[0] is None else torch.cat(part)[:clips].cpu() for part in zip(*parts, strict=True)]
    return Clips(*columns)


class Seen(NamedTuple):
    """Which clips of endless data a generator was trained on: the first `clips` that its source draws with `seed`."""

    seed: int = 0
    clips: int = 2**17


def training_by_caption(
    source: DigitsSource, captions: Sequence[str], seen: Seen
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For clips that show `captions`, the training clips of the same: see `memorisation.nearest_distances`.

    A clip whose caption is not trained on is compared with none.
    """
    rows: dict[int, list[int]] = {}
    index = {text: i for i, text in enumerate(source.captions)}
    for row, text in enumerate(captions):
        if text in index:
            rows.setdefault(index[text], []).append(row)
    size = max(1, _CELLS // (source.shape[1] * source.shape[2]))
    batches = source.batches(size, seen.seed)
    for start in range(0, seen.clips, size):
        drawn = next(batches)
        shown = drawn.caption[: seen.clips - start]
        for caption_index in shown.unique().tolist():
            if caption_index in rows:
                video = drawn.video[: len(shown)][shown == caption_index]
                yield torch.tensor(rows[caption_index]), video


def training_in_order(source: Source, rows: int, seed: int, most: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For all of so many clips, one clip of each member of the data, at most `most`, the first of an epoch first."""
    left, batches = min(source.size, most), source.batches(min(source.size, _BATCH), seed)
    while left > 0:
        part = next(batches).video[:left].cpu()
        left -= len(part)
        yield torch.arange(rows), part
    batches.close()


def _words_in(parts: Sequence[str]) -> set[str]:
    """Which words of a caption the conditions tell; a first frame shows digit and colour, not the motion."""
    shown = {"text": {"digit", "colour", "motion"}, "class": {"digit"}, "image": {"digit", "colour"}}
    return set().union(*(shown[part] for part in parts))


def _rows(
    parts: Sequence[str], digits: np.ndarray, clips: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the captions that clips are to show, and which clips share their condition, int64 (N,) each."""
    order = rng.permutation(len(digits))
    number = np.arange(clips)
    if not parts:
        return order[number % len(order)], np.zeros(clips, np.int64)
    if tuple(parts) == ("class",):
        # Each class in turn; within it one caption after the other.
        by_digit = [order[digits[order] == digit] for digit in range(10)]
        classes = min(10, clips // 2)
        rows = [by_digit[i % classes][i // classes % len(by_digit[i % classes])] for i in number]
        return np.array(rows), number % classes
    groups = clips // 2 if "image" in parts else min(len(order), clips // 2)
    group = number % groups
    return order[group % len(order)], group


def _condition(text: torch.Tensor | None, label: torch.Tensor | None, images: torch.Tensor | None) -> Condition | None:
    if text is None and label is None and images is None:
        return None
    shown = None if images is None else to_float(images[:, None], torch.device("cpu"))[:, :, 0]
    return Condition(text, label, shown)


def _encode(model: ModelConfig, captions: Sequence[str]) -> torch.Tensor:
    """Word indices of captions, int64 (N, L).

    Raises:
        UserError: the model was not trained on one of their words.
    """
    vocabulary = Vocabulary(model.vocabulary, model.caption_length)
    for text in captions:
        # A caption without words, such as "…", is trained on too.
        if split_words(text) and (missing := vocabulary.unknown_words(text)):
            raise UserError(
                f"the run was not trained on the word {missing[0]!r} of the caption {text!r}; name data with its "
                "captions by --data"
            )
    return vocabulary.encode(captions)


def _classes(model: ModelConfig, source: Source) -> torch.Tensor:
    """For each class of the data its index in the model, int64 (classes,).

    Raises:
        UserError: the data has none, or the model was not trained on one of them.
    """
    if not source.classes:
        raise UserError("the data has no classes, and the model follows a class; name data with classes by --data")
    for name in source.classes:
        if name not in model.class_names:
            raise UserError(
                f"the run was not trained on the class {name!r}; its classes are {', '.join(model.class_names)}; name "
                "data with those by --data"
            )
    return torch.tensor([model.class_names.index(name) for name in source.classes])
