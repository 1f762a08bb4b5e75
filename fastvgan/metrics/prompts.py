"""The conditions of an evaluation, the real clips to compare with, and the training clips to search for copies."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, caption
from fastvgan.data.digits.phrases import phrasings
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.files.pixels import to_float
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.text.inputs import to_text_inputs, vocabulary_of
from fastvgan.models.vocabulary import split_words

if TYPE_CHECKING:
    import numpy as np

FEWEST = 16  # clips of an evaluation, at least
_BATCH = 32
_CELLS = 2**21  # pixels per frame times training clips that are drawn at once


class Prompts(NamedTuple):
    """Conditions of N clips, and N real clips to compare with.

    condition: N conditions on the CPU, or None for a model without one.
    group: int64 (N,), equal for equal conditions.
    real: uint8 (N, T, H, W, C), each with the caption or class of the condition if the data has such a clip.
    real_group: int64 (N,), equal for real clips of the same condition; None if no two share one, as no two share a
        first frame.
    strata: int64 (N,) or None, of generated and real clips; see `fastvgan.metrics.readers.Sample`.
    twins: int64 (N,) or None, of generated clips; see `fastvgan.metrics.readers.Sample`.
    images: the given first frames, uint8 (N, H, W, C), or None.
    words: the words of the digits that the condition names: int64 (N,) by "digit", "colour" and "motion", indices into
        0 to 9, `COLOURS` and `MOTIONS`. Empty for other data.
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
    """Parse captions of the digits.

    Returns:
        Digit, colour (with 3 channels) and motion of each caption, int64 (M,) each, indices as in `Prompts.words`.

    Raises:
        UserError: a caption is not one of the digits.
    """
    table = itertools.product(range(10), enumerate(COLOURS), enumerate(MOTIONS))
    known = {
        caption(digit, colour, motion, with_colour=channels == 3): (digit, i, j)
        for digit, (i, colour), (j, motion) in table
    }
    try:
        rows = torch.tensor([known[text] for text in captions]).view(-1, 3)
    except KeyError as error:
        raise UserError(f"{error.args[0]!r} is not a caption of the digits; pass the data with --data") from error
    words = dict(zip(("digit", "colour", "motion"), rows.unbind(1), strict=True))
    return words if channels == 3 else {name: words[name] for name in ("digit", "motion")}


def digit_prompts(
    model: ModelConfig,
    reference: DigitsSource,
    captions: Sequence[str],
    clips: int,
    seed: int,
    is_paraphrased: bool = False,
) -> Prompts:
    """Return prompts for the digits: every caption or class equally often, at least two clips per condition.

    Args:
        model: its `condition` determines the parts of the condition.
        reference: draws the real clips.
        captions: the captions to request; if there are more than half of `clips`, that many of them, chosen at random.
        clips: N, at least 2.
        seed: of the choice of captions and of the real clips.
        is_paraphrased: request each caption in one of the test phrasings of `fastvgan.data.digits.phrases`, chosen at
            random for each clip; `group` still is that of the captions.

    Raises:
        UserError: a caption is not one of the digits, or the model was not trained on one of the words or classes.
    """
    import numpy as np  # late: the plain install lacks it

    rng = np.random.default_rng([seed, 1])
    words = digit_words(captions, model.channels)
    rows, group = _choose_captions(model.condition, words["digit"].numpy(), clips, rng)
    chosen = [captions[i] for i in rows]
    place = {text: i for i, text in enumerate(reference.captions)}
    chances = torch.from_numpy(rng.random((clips, 4)))
    real = reference.render(torch.tensor([place[text] for text in chosen]), chances)
    shown = {name: values[rows] for name, values in words.items()}
    words = {name: values for name, values in shown.items() if name in _words_in(model.condition)}
    text = label = images = None
    if "text" in model.condition:
        text = _encode(model, _paraphrase(shown, seed) if is_paraphrased else chosen)
    if "class" in model.condition:
        label = _class_indices(model, reference.classes)[shown["digit"]]
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
    """Return prompts for any data: N different clips of it are the real clips, and half of them supply the conditions.

    Raises:
        UserError: the data has fewer clips, or the model was not trained on one of their captions or classes.
    """
    check_count(source, clips)
    drawn = first_clips(source, clips, seed)
    group = torch.arange(clips) % max(1, clips // 2) if model.condition else torch.zeros(clips, dtype=torch.int64)
    condition = conditions_of(model, source, drawn, group)
    label = None if condition is None else condition.label
    images = drawn.video[group, 0] if "image" in model.condition else None
    twins = group if model.condition else None
    real_group = _group_real(model.condition, drawn)
    return Prompts(
        condition,
        label if label is not None and model.condition == ("class",) else group,
        drawn.video,
        real_group,
        None,
        twins,
        images,
        {},
    )


def fit_count(source: Source, clips: int) -> int:
    """Return `clips`, or the number of real clips if the data has fewer; digits are drawn, as many as needed.

    Raises:
        UserError: the data has too few clips for an evaluation.
    """
    fitting = clips if source.draws and not source.shuffles else min(clips, source.size)
    check_count(source, fitting)
    return fitting


def check_count(source: Source, clips: int, is_published: bool = False) -> None:
    """Check that the data has enough real clips; digits are drawn, as many as needed.

    Args:
        source: the data.
        clips: the number that is compared.
        is_published: whether the number is that of published scores, because the user left it out.

    Raises:
        UserError: the data has fewer clips.
    """
    if source.draws and not source.shuffles:
        return
    if source.size < FEWEST:
        raise UserError(
            f"the data has {source.size} clips, but an evaluation needs at least {FEWEST}; pass more data with --data"
        )
    if clips <= source.size:
        return
    if is_published:
        raise UserError(
            f"published scores compare {clips:,} clips, but the data has {source.size}; pass --clips {source.size} or "
            "fewer for scores that are not comparable with them, or more data with --data"
        )
    raise UserError(f"--clips {clips}: the data has only {source.size} clips; use --clips {source.size} or fewer")


def conditions_of(model: ModelConfig, source: Source, drawn: Clips, rows: torch.Tensor) -> Condition | None:
    """Return the conditions that clips of the data have, on the CPU, or None for a model without a condition.

    Args:
        model: its `condition` determines the parts of the condition.
        source: the data.
        drawn: N clips of it.
        rows: int64 (M,), indices of the clips that supply the conditions.

    Raises:
        UserError: the data lacks the condition, or the model was not trained on one of its captions or classes.
    """
    text = label = images = None
    if "text" in model.condition:
        if drawn.caption is None:
            raise UserError(
                "the data has no captions, but the model is conditioned on text; pass captioned data with --data"
            )
        text = _encode(model, [source.captions[i] for i in drawn.caption[rows].tolist()])
    if "class" in model.condition:
        indices = _class_indices(model, source.classes)
        assert drawn.label is not None  # the source has classes
        label = indices[drawn.label[rows]]
    if "image" in model.condition:
        images = drawn.video[rows, 0]
    return _condition(text, label, images)


def _group_real(parts: Sequence[str], drawn: Clips) -> torch.Tensor | None:
    """Group real clips by their condition, int64 (N,): one group without a condition, None if no two share one."""
    if not parts:
        return torch.zeros(len(drawn.video), dtype=torch.int64)
    keys = [key for part, key in (("text", drawn.caption), ("class", drawn.label)) if part in parts and key is not None]
    if "image" in parts or not keys:
        return None
    group = torch.stack(keys, 1).unique(dim=0, return_inverse=True)[1]
    return group if len(group.unique()) < len(group) else None


def first_clips(source: Source, clips: int, seed: int) -> Clips:
    """Return the first clips of an epoch, each from another member of the data if it has enough members."""
    parts, batches = [], source.batches(min(clips, _BATCH), seed)
    for _ in range(0, clips, _BATCH):
        parts.append(next(batches))
    batches.close()

    def join(part: tuple[Any, ...]) -> Any:
        return None if part[0] is None else torch.cat(part)[:clips].cpu()

    return Clips(*map(join, zip(*parts, strict=True)))


class TrainingDraws(NamedTuple):
    """The clips of endless data that were used in training: the first `clips` that the source draws with `seed`."""

    seed: int = 0
    clips: int = 2**17


def training_by_caption(
    source: DigitsSource, captions: Sequence[str], seen: TrainingDraws
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield training clips of the same captions, for `memorisation.nearest_distances`.

    A clip whose caption is not in the training data is compared with none.

    Args:
        source: the training data.
        captions: of the N clips.
        seen: the training clips to search.

    Yields:
        Indices, shape (n,), of clips, and training clips of their caption, uint8 of shape (M, T, H, W, C).
    """
    rows: dict[int, list[int]] = {}
    index = {text: i for i, text in enumerate(source.captions)}
    for row, text in enumerate(captions):
        if text in index:
            rows.setdefault(index[text], []).append(row)
    size = max(1, _CELLS // (source.shape[1] * source.shape[2]))
    for start in range(0, seen.clips, size):
        drawn = source.draw_of(list(rows), seen.seed, range(start, min(start + size, seen.clips)))
        assert drawn.caption is not None  # DigitsSource has captions
        for caption_index in drawn.caption.unique().tolist():
            yield torch.tensor(rows[caption_index]), drawn.video[drawn.caption == caption_index]


def training_in_order(source: Source, rows: int, seed: int, most: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield training clips for all of `rows` clips: the first of an epoch, one per member of the data, at most `most`.

    Yields:
        Indices, shape (rows,), and training clips, uint8 of shape (M, T, H, W, C).
    """
    left, batches = min(source.size, most), source.batches(min(source.size, _BATCH), seed)
    while left > 0:
        part = next(batches).video[:left].cpu()
        left -= len(part)
        yield torch.arange(rows), part
    batches.close()


def _words_in(parts: Sequence[str]) -> set[str]:
    """Return the words that conditions determine; a first frame shows digit and colour, but not the motion."""
    shown = {"text": {"digit", "colour", "motion"}, "class": {"digit"}, "image": {"digit", "colour"}}
    return set().union(*(shown[part] for part in parts))


def _choose_captions(
    parts: Sequence[str], digits: "np.ndarray", clips: int, rng: "np.random.Generator"
) -> "tuple[np.ndarray, np.ndarray]":
    """Return the caption index and the condition group of each clip, int64 (N,) each."""
    import numpy as np  # late: the plain install lacks it

    order = rng.permutation(len(digits))
    number = np.arange(clips)
    if not parts:
        return order[number % len(order)], np.zeros(clips, np.int64)
    if tuple(parts) == ("class",):
        # Classes in turn, and the captions within each class in turn.
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


def _paraphrase(shown: dict[str, torch.Tensor], seed: int) -> list[str]:
    """Return a random test phrasing for each clip, from the indices of its words, int64 (N,) each."""
    import numpy as np  # late: the plain install lacks it

    rng = np.random.default_rng([seed, 4])
    colours = shown.get("colour")
    names = [None] * len(shown["digit"]) if colours is None else [list(COLOURS)[i] for i in colours.tolist()]
    found = []
    for digit, colour, motion in zip(shown["digit"].tolist(), names, shown["motion"].tolist(), strict=True):
        choices = phrasings(digit, colour, MOTIONS[motion], "test")
        found.append(choices[rng.integers(len(choices))])
    return found


def knows_paraphrases(model: ModelConfig) -> bool:
    """Return whether a model can read the digits' test phrasings: it knows their words, or reads any sentence."""
    if "text" not in model.condition or model.text_encoder is not None:
        return "text" in model.condition
    colours = tuple(COLOURS) if model.channels == 3 else (None,)
    rows = itertools.product(range(10), colours, MOTIONS)
    words = {word for row in rows for text in phrasings(*row, "test") for word in split_words(text)}
    return words <= set(model.vocabulary)


def _encode(model: ModelConfig, captions: Sequence[str]) -> torch.Tensor:
    """Return captions in the form that the model takes: word indices, int64 (N, L), or embeddings, float32 (N, E).

    Raises:
        UserError: the model was not trained on one of their words.
    """
    vocabulary = vocabulary_of(model)
    for text in captions if model.text_encoder is None else ():
        # A caption without words, such as "…", is valid in training too.
        if split_words(text) and (missing := vocabulary.unknown_words(text)):
            raise UserError(
                f"the run was not trained on the word {missing[0]!r} of the caption {text!r}; pass data that has "
                "its captions with --data"
            )
    return to_text_inputs(model, captions)


def _class_indices(model: ModelConfig, classes: Sequence[str]) -> torch.Tensor:
    """Return the model's index of each class of the data, int64 (classes,).

    Raises:
        UserError: the data has no classes, or the model was not trained on one of them.
    """
    if not classes:
        raise UserError(
            "the data has no classes, but the model is conditioned on the class; pass data that has classes with --data"
        )
    for name in classes:
        if name not in model.class_names:
            raise UserError(
                f"the run was not trained on the class {name!r}; its classes are {', '.join(model.class_names)}; pass "
                "data of these with --data"
            )
    return torch.tensor([model.class_names.index(name) for name in classes])
