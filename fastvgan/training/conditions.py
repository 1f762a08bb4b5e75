"""Conditions of a batch, right ones and wrong ones, from a source's tables."""

import torch

from fastvgan.data.captions import Vocabulary, WrongCaptions
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig


def with_data(model: ModelConfig, source: Source) -> ModelConfig:
    """The model's configuration with what it learns from the data: vocabulary and classes.

    Raises:
        UserError: the model asks for captions or classes and the data has none.
    """
    learned = {}
    if "text" in model.condition:
        if not source.captions:
            raise UserError(
                "the data has no captions, and the model follows text: put clip.txt beside each clip or a captions.csv "
                "in the folder, or train without text by --condition none"
            )
        vocabulary = Vocabulary.of(source.captions)
        if not vocabulary.words:
            raise UserError("the captions of the data hold not one word; write words, or train with --condition none")
        learned |= {"vocabulary": tuple(vocabulary.words), "caption_length": vocabulary.length}
    if "class" in model.condition:
        if not source.classes:
            raise UserError(
                "the data has no classes, and the model follows a class: put the clips of each class into a folder of "
                "its own, or train without classes by --condition none"
            )
        learned["class_names"] = tuple(source.classes)
    return model.model_copy(update=learned)


class Conditions:
    """What clips are told by, as word and class indices: the right ones, and ones that are wrong in one part.

    Captions are turned into word indices once, here. All is on the CPU.
    """

    def __init__(self, model: ModelConfig, source: Source):
        self.parts = model.condition
        self._classes = len(source.classes)
        self._wrong_captions = self._table = None
        if "text" in self.parts:
            self._table = Vocabulary(model.vocabulary, model.caption_length).encode(source.captions)
            if len(self._table) > 1:
                self._wrong_captions = WrongCaptions(self._table, model.vocabulary_size)
        self._can_be_wrong = [
            part
            for part in self.parts
            if part == "image"
            or (part == "text" and self._wrong_captions is not None)
            or (part == "class" and self._classes > 1)
        ]

    @property
    def can_be_wrong(self) -> bool:
        """Whether there is anything to draw a wrong condition from: two captions, two classes, or first frames."""
        return bool(self._can_be_wrong)

    def right(self, clips: Clips) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Word indices, int64 (N, L), and class indices, int64 (N,), of these clips; None for what is not followed."""
        return (
            self._table[clips.caption.cpu()] if "text" in self.parts else None,
            clips.label.cpu() if "class" in self.parts else None,
        )

    def wrong(
        self,
        clips: Clips,
        generator: torch.Generator,
        count: int = 1,
        rows: slice = slice(None),
        total: int | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, bool]:
        """The same, `count` times per clip, with one of the parts in use, drawn at random, exchanged for a wrong one.

        Args:
            rows, total: where these clips are those rows of a batch of `total`, what is drawn for them is what would be
                for the whole batch.

        Returns:
            Word indices (N, count, L), class indices (N, count), and whether it is the first frames that are wrong: see
            `swapped`. A clip has one wrong first frame, so its `count` conditions are then the same.
        """
        part = self._can_be_wrong[int(torch.randint(len(self._can_be_wrong), (), generator=generator))]
        text, label = (x if x is None else torch.stack([x] * count, 1) for x in self.right(clips))
        if part == "text":
            drawn = self._wrong_captions.draw(clips.caption.cpu(), generator, count, rows, total)
            text = self._table[drawn]
        elif part == "class":
            size = (len(label) if total is None else total, count)
            label = (label + torch.randint(1, self._classes, size, generator=generator)[rows]) % self._classes
        return text, label, part == "image"


def told(text: torch.Tensor | None, label: torch.Tensor | None, video: torch.Tensor, parts) -> Condition | None:
    """A `Condition` of these indices and, where `parts` has "image", the first frames of video (N, C, T, H, W)."""
    return Condition(text, label, video[:, :, 0] if "image" in parts else None) if parts else None


def swapped(images: torch.Tensor) -> torch.Tensor:
    """First frames (N, ...) that fit no clip: each takes its neighbour's, 1, 0, 3, 2 and so on."""
    even = len(images) // 2 * 2
    pairs = images[:even].unflatten(0, (even // 2, 2)).flip(1).flatten(0, 1)
    return pairs if even == len(images) else torch.cat([pairs, images[:1]])
