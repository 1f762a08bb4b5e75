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
    """Makes a `Condition` for a batch, and one for it that is wrong in one part.

    Captions are turned into word indices once, here, and then looked up on the device.
    """

    def __init__(self, model: ModelConfig, source: Source, device: torch.device):
        self.device = device
        self.parts = model.condition
        self._classes = len(source.classes)
        self._wrong_captions = self._table = None
        if "text" in self.parts:
            table = Vocabulary(model.vocabulary, model.caption_length).encode(source.captions)
            self._table = table.to(device)
            if len(table) > 1:
                self._wrong_captions = WrongCaptions(table, model.vocabulary_size)
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

    def right(self, clips: Clips, video: torch.Tensor) -> Condition | None:
        """The conditions of these clips; video (N, C, T, H, W) in [-1, 1] is theirs, on the device."""
        if not self.parts:
            return None
        return Condition(
            text=self._table[clips.caption.to(self.device)] if "text" in self.parts else None,
            label=clips.label.to(self.device) if "class" in self.parts else None,
            image=video[:, :, 0] if "image" in self.parts else None,
        )

    def wrong(self, clips: Clips, right: Condition, generator: torch.Generator) -> Condition:
        """The same conditions with one part, drawn from those in use, exchanged for one that does not fit."""
        part = self._can_be_wrong[int(torch.randint(len(self._can_be_wrong), (), generator=generator))]
        if part == "text":
            drawn = self._wrong_captions.draw(clips.caption, generator)
            return right._replace(text=self._table[drawn.to(self.device)])
        if part == "class":
            shift = torch.randint(1, self._classes, clips.label.shape, generator=generator)
            return right._replace(label=((clips.label + shift) % self._classes).to(self.device))
        return right._replace(image=right.image.roll(1, 0))
