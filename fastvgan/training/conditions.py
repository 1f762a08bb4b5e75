"""Right and wrong conditions of a batch, from a source's tables of captions and classes."""

from collections.abc import Container

import torch

from fastvgan.data.directions import refuse_directions
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.vocabulary import Vocabulary, WrongCaptions
from fastvgan.runs.config import RunConfig


def fit_to_source(config: RunConfig, source: Source) -> RunConfig:
    """Return a configuration with the vocabulary and the classes of the data.

    Raises:
        UserError: the model needs captions or classes that the data lacks, or they name a direction that --mirror or
            --reverse would change.
    """
    data, parts = config.data, config.model.condition
    flags = [flag for flag, is_used in (("--mirror", data.mirror), ("--reverse", data.reverse)) if is_used]
    refuse_directions(flags, source.captions if "text" in parts else (), source.classes if "class" in parts else ())
    return config.model_copy(update={"model": add_vocabulary(config.model, source)})


def add_vocabulary(model: ModelConfig, source: Source) -> ModelConfig:
    """Return a model's configuration with the vocabulary and the classes of the data.

    Raises:
        UserError: the model needs captions or classes, and the data has none.
    """
    learned: dict[str, object] = {}
    if "text" in model.condition:
        if not source.captions:
            raise UserError(
                "the data has no captions, but the model is conditioned on text: add clip.txt beside each clip or a "
                "captions.csv in the folder, or train with --condition none"
            )
        vocabulary = Vocabulary.of(source.captions)
        if not vocabulary.words:
            raise UserError("the captions of the data contain no word; write words, or train with --condition none")
        learned |= {"vocabulary": tuple(vocabulary.words), "caption_length": vocabulary.length}
    if "class" in model.condition:
        if not source.classes:
            raise UserError(
                "the data has no classes, but the model is conditioned on the class: put the clips of each class in "
                "a separate folder, or train with --condition none"
            )
        learned["class_names"] = tuple(source.classes)
    return model.model_copy(update=learned)


class Conditions:
    """Word and class indices of clips: right ones, and ones with one wrong part.

    Captions are converted to word indices once, at construction. All tensors are on the device, and nothing waits for
    it.

    Args:
        model: the model, which has a vocabulary (see `add_vocabulary`).
        source: the data.
        device: device of the clips.

    Attributes:
        parts: what the model's condition consists of.
        can_be_wrong: the parts for which a wrong one can be drawn: "text" with two captions or more, "class" with two
            classes or more, "image" always.
        draws: number of random words that a wrong condition takes.
        needs_start: whether `wrong` needs a start; see `WrongCaptions.draw`.
    """

    def __init__(self, model: ModelConfig, source: Source, device: "torch.device | str" = "cpu"):
        self.parts = model.condition
        self._classes = len(source.classes)
        self._wrong_captions: WrongCaptions | None = None
        self._table: torch.Tensor | None = None
        if "text" in self.parts:
            table = Vocabulary(model.vocabulary, model.caption_length).encode(source.captions)
            self._table = table.to(device)
            if len(table) > 1:
                self._wrong_captions = WrongCaptions(table, model.vocabulary_size, device)
        self.can_be_wrong = tuple(
            part
            for part in self.parts
            if part == "image"
            or (part == "text" and self._wrong_captions is not None)
            or (part == "class" and self._classes > 1)
        )
        self.draws = 2 * ("text" in self.can_be_wrong) + ("class" in self.can_be_wrong)
        self.needs_start = self._wrong_captions is not None and self._wrong_captions.searches_some

    def right(self, clips: Clips) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return word indices, int64 (N, L), and class indices, int64 (N,), of clips; None if not in the condition."""
        return (
            self._table[clips.caption] if self._table is not None else None,
            clips.label if "class" in self.parts else None,
        )

    def wrong(
        self, clips: Clips, chances: torch.Tensor, start: torch.Tensor | None, part: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return K conditions per clip with one part replaced by a wrong one.

        If the wrong part is the first frames, which `swap_neighbours` replaces, a clip's K conditions are the same.

        Args:
            clips: N clips.
            chances: random numbers in [0, 1), float64 (N, K, `draws`).
            start: see `WrongCaptions.draw`.
            part: index in `can_be_wrong` of the wrong part, int64 ().

        Returns:
            Word indices (N, K, L) and class indices (N, K).
        """
        text, label = self.right(clips)
        if (
            self._table is not None
            and self._wrong_captions is not None
            and clips.caption is not None
            and text is not None
        ):
            drawn = self._table[self._wrong_captions.draw(clips.caption, chances[..., :2], start)]
            text = self._where(part, "text", drawn, text[:, None])
        elif text is not None:
            text = torch.stack([text] * chances.shape[1], 1)
        if "class" in self.can_be_wrong and label is not None:
            other = 1 + (chances[..., -1] * (self._classes - 1)).long()
            label = self._where(part, "class", (label[:, None] + other) % self._classes, label[:, None])
        elif label is not None:
            label = torch.stack([label] * chances.shape[1], 1)
        return text, label

    def _where(self, part: torch.Tensor, name: str, wrong: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if self.can_be_wrong == (name,):
            return wrong
        return torch.where(part == self.can_be_wrong.index(name), wrong, right)


def condition_from(
    text: torch.Tensor | None, label: torch.Tensor | None, video: torch.Tensor, parts: Container[str]
) -> Condition | None:
    """Make a `Condition`.

    Args:
        text: word indices, int64 (N, L), or None.
        label: class indices, int64 (N,), or None.
        video: clips (N, C, T, H, W), whose first frames are used if `parts` contains "image".
        parts: parts of the condition; without any the result is None.
    """
    return Condition(text, label, video[:, :, 0] if "image" in parts else None) if parts else None


def swap_neighbours(images: torch.Tensor) -> torch.Tensor:
    """Replace each of the first frames (N, ...) by its neighbour's: 1, 0, 3, 2 and so on."""
    even = len(images) // 2 * 2
    pairs = images[:even].unflatten(0, (even // 2, 2)).flip(1).flatten(0, 1)
    return pairs if even == len(images) else torch.cat([pairs, images[:1]])
