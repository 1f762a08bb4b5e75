"""Conditions of a batch, right ones and wrong ones, from a source's tables."""

import torch

from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.vocabulary import Vocabulary, WrongCaptions


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

    Captions are turned into word indices once, here. All is on the device, and nothing waits for it.

    Args:
        model, source: whose conditions. device: where clips are.
    """

    def __init__(self, model: ModelConfig, source: Source, device: "torch.device | str" = "cpu"):
        self.parts = model.condition
        self._classes = len(source.classes)
        self._wrong_captions = self._table = None
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
        """The parts that a wrong one can be drawn for: two captions, two classes, or first frames."""
        self.draws = 2 * ("text" in self.can_be_wrong) + ("class" in self.can_be_wrong)
        """How many random words a wrong condition takes."""
        self.searches_some = self._wrong_captions is not None and self._wrong_captions.searches_some
        """Whether `wrong` takes a start: see `WrongCaptions.draw`."""

    def right(self, clips: Clips) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Word indices, int64 (N, L), and class indices, int64 (N,), of these clips; None for what is not followed."""
        return (
            self._table[clips.caption] if "text" in self.parts else None,
            clips.label if "class" in self.parts else None,
        )

    def wrong(
        self, clips: Clips, chances: torch.Tensor, start: torch.Tensor | None, part: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The same, K times per clip, with one part exchanged for a wrong one.

        Args:
            chances: float64 (N, K, `draws`) in [0, 1). start: see `WrongCaptions.draw`.
            part: int64 (), which of `can_be_wrong` is wrong. Of first frames see `swapped`: a clip has one, so its K
                conditions are then the same.

        Returns:
            Word indices (N, K, L) and class indices (N, K).
        """
        text, label = self.right(clips)
        if "text" in self.can_be_wrong:
            drawn = self._table[self._wrong_captions.draw(clips.caption, chances[..., :2], start)]
            text = self._where(part, "text", drawn, text[:, None])
        elif text is not None:
            text = torch.stack([text] * chances.shape[1], 1)
        if "class" in self.can_be_wrong:
            other = 1 + (chances[..., -1] * (self._classes - 1)).long()
            label = self._where(part, "class", (label[:, None] + other) % self._classes, label[:, None])
        elif label is not None:
            label = torch.stack([label] * chances.shape[1], 1)
        return text, label

    def _where(self, part: torch.Tensor, name: str, wrong: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if self.can_be_wrong == (name,):
            return wrong
        return torch.where(part == self.can_be_wrong.index(name), wrong, right)


def told(text: torch.Tensor | None, label: torch.Tensor | None, video: torch.Tensor, parts) -> Condition | None:
    """A `Condition` of these indices and, where `parts` has "image", the first frames of video (N, C, T, H, W)."""
    return Condition(text, label, video[:, :, 0] if "image" in parts else None) if parts else None


def swapped(images: torch.Tensor) -> torch.Tensor:
    """First frames (N, ...) that fit no clip: each takes its neighbour's, 1, 0, 3, 2 and so on."""
    even = len(images) // 2 * 2
    pairs = images[:even].unflatten(0, (even // 2, 2)).flip(1).flatten(0, 1)
    return pairs if even == len(images) else torch.cat([pairs, images[:1]])
