"""Right and wrong conditions of a batch, from a source's tables of captions and classes."""

from collections.abc import Container
from pathlib import Path

import torch

from fastvgan.data.directions import refuse_directions
from fastvgan.data.source import Clips, HasCaptionSets, Source
from fastvgan.errors import UserError
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.text.folder import fingerprint
from fastvgan.models.text.pretrained import open_text_encoder
from fastvgan.models.vocabulary import Vocabulary, WrongCaptions
from fastvgan.runs.config import RunConfig
from fastvgan.training.caption_table import CaptionTable, phrasings_of


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
        UserError: the model needs captions or classes, and the data has none; or its text encoder cannot be used.
    """
    learned: dict[str, object] = {}
    if "text" in model.condition:
        if not source.captions:
            raise UserError(
                "the data has no captions, but the model is conditioned on text: add clip.txt beside each clip or a "
                "captions.csv in the folder, or train with --condition none"
            )
        vocabulary = Vocabulary.of([*source.captions, *(text for row in phrasings_of(source) for text in row)])
        if not vocabulary.words:
            raise UserError("the captions of the data contain no word; write words, or train with --condition none")
        learned |= {"vocabulary": tuple(vocabulary.words), "caption_length": vocabulary.length}
    if model.text_encoder is not None:
        learned |= _describe_text_encoder(model, model.text_encoder)
    if "class" in model.condition:
        if not source.classes:
            raise UserError(
                "the data has no classes, but the model is conditioned on the class: put the clips of each class in "
                "a separate folder, or train with --condition none"
            )
        learned["class_names"] = tuple(source.classes)
    return model.model_copy(update=learned)


def _describe_text_encoder(model: ModelConfig, folder: str) -> dict[str, object]:
    if "text" not in model.condition:
        raise UserError("--text-encoder reads captions, but the model has none; pass --condition text, or leave it out")
    width = open_text_encoder(folder).width
    # Any sentence has an embedding, so no word is unknown.
    return {
        "text_encoder": str(Path(folder).resolve()),
        "text_width": width,
        "text_fingerprint": fingerprint(Path(folder)),
        "vocabulary": (),
        "caption_length": 0,
    }


class Conditions:
    """Texts and class indices of clips: right ones, and ones with one wrong part.

    Captions are converted to word indices or embeddings once, at construction. All tensors are on the device, and
    nothing waits for it.

    Args:
        model: the model, which has a vocabulary or a text encoder (see `add_vocabulary`).
        source: the data.
        device: device of the clips.
        run: run folder in which a text encoder's embeddings may have been written.

    Attributes:
        table: the captions in the form that the model takes; None if its condition has no text.
        phrasings: number of phrasings of each caption; 0 if captions are fixed.
        parts: what the model's condition consists of.
        can_be_wrong: the parts for which a wrong one can be drawn: "text" with captions of different clips, "class"
            with two classes or more, "image" always.
        draws: number of random words that a wrong condition takes.
        needs_start: whether `wrong` needs a start; see `WrongCaptions.draw`.
    """

    def __init__(
        self,
        model: ModelConfig,
        source: Source,
        device: "torch.device | str" = "cpu",
        run: Path | None = None,
    ):
        self.parts = model.condition
        self._classes = len(source.classes)
        self._wrong_captions: WrongCaptions | None = None
        self.table: CaptionTable | None = None
        if "text" in self.parts:
            self.table = CaptionTable(model, source, device, run)
            if len(source.captions) > 1:
                vocabulary = Vocabulary.of(source.captions)  # a model with a text encoder has none
                words = vocabulary.encode(source.captions)
                sets = source.caption_sets if isinstance(source, HasCaptionSets) else ()
                wrong = WrongCaptions(words, len(vocabulary), device, sets)
                self._wrong_captions = wrong if wrong.exist else None
        self.phrasings = self.table.phrasings if self.table is not None else 0
        self.can_be_wrong = tuple(
            part
            for part in self.parts
            if part == "image"
            or (part == "text" and self._wrong_captions is not None)
            or (part == "class" and self._classes > 1)
        )
        self.draws = 2 * ("text" in self.can_be_wrong) + ("class" in self.can_be_wrong)
        self.needs_start = self._wrong_captions is not None and self._wrong_captions.searches_some

    def right(
        self, clips: Clips, phrasing: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return texts and class indices of clips; None if not in the condition.

        Args:
            clips: N clips.
            phrasing: which of the `phrasings` of each clip's caption, int64 (N,); None for the caption itself.

        Returns:
            Word indices, int64 (N, L), or embeddings, float32 (N, E); and class indices, int64 (N,).
        """
        return (
            self.table(clips.caption, phrasing) if self.table is not None and clips.caption is not None else None,
            clips.label if "class" in self.parts else None,
        )

    def wrong(
        self,
        clips: Clips,
        chances: torch.Tensor,
        start: torch.Tensor | None,
        part: torch.Tensor,
        phrasing: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return K conditions per clip with one part replaced by a wrong one.

        If the wrong part is the first frames, these conditions are those for G, with wrong captions, or wrong classes
        if no caption can be wrong; `fastvgan.training.batches.with_wrong_images` makes those for D. A wrong caption has
        the phrasing of the right one, so that only its meaning is wrong.

        Args:
            clips: N clips.
            chances: random numbers in [0, 1), float64 (N, K, `draws`).
            start: see `WrongCaptions.draw`.
            part: index in `can_be_wrong` of the wrong part, int64 ().
            phrasing: see `right`.

        Returns:
            Word indices (N, K, L) or embeddings (N, K, E), and class indices (N, K).
        """
        text, label = self.right(clips, phrasing)
        if (
            self.table is not None
            and self._wrong_captions is not None
            and clips.caption is not None
            and text is not None
        ):
            drawn = self.table(self._wrong_captions.draw(clips.caption, chances[..., :2], start), phrasing)
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
        if not {"text", "class"}.issubset(self.can_be_wrong):
            return wrong
        is_class = part == self.can_be_wrong.index("class")
        return torch.where(is_class, wrong, right) if name == "class" else torch.where(is_class, right, wrong)


def condition_from(
    text: torch.Tensor | None, label: torch.Tensor | None, video: torch.Tensor, parts: Container[str]
) -> Condition | None:
    """Make a `Condition`.

    Args:
        text: word indices, int64 (N, L), or embeddings, float (N, E), or None.
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
