"""What a network's text encoder takes: word indices, or embeddings by a pretrained model."""

from collections.abc import Sequence
from pathlib import Path

import torch

from fastvgan.data.digits.words import explain_unsuitable
from fastvgan.errors import UserError
from fastvgan.models.config import MOST_WORDS, ModelConfig
from fastvgan.models.text.pretrained import PretrainedText, open_text_encoder
from fastvgan.models.vocabulary import Vocabulary, split_words

_KNOWN_WORDS = 60  # words listed in a message


def vocabulary_of(model: ModelConfig) -> Vocabulary:
    """Return the vocabulary of a model that reads words, with the number of words that it takes."""
    return Vocabulary(model.vocabulary, model.longest_text)


def to_text_inputs(model: ModelConfig, captions: Sequence[str], device: torch.device | str = "cpu") -> torch.Tensor:
    """Return captions as `Condition.text`, on the CPU. Captions that are too long are cut.

    Args:
        model: the model, with its vocabulary or its text encoder.
        captions: N captions.
        device: where a pretrained text encoder runs.

    Returns:
        Word indices, int64 (N, L), or embeddings, float32 (N, E).

    Raises:
        UserError: the model has a pretrained text encoder that cannot be used.
    """
    if model.text_encoder is None:
        return vocabulary_of(model).encode(captions)
    distinct = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    found = _open(model).encode(list(distinct), device)
    return found[[distinct[text] for text in captions]]


def to_text_input(model: ModelConfig, caption: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return a caption to generate from, in the form of `to_text_inputs`, (1, L) or (1, E).

    Raises:
        UserError: as `check_caption`.
    """
    check_caption(model, caption)
    return to_text_inputs(model, [caption], device)


def check_caption(model: ModelConfig, caption: str) -> None:
    """Check that a model can generate from a caption.

    Raises:
        UserError: the caption has unknown words, is too long or describes no clip of the model's captioned digits, or
            the text encoder cannot be used.
    """
    if model.text_encoder is not None:
        encoder = _open(model)
        if (count := encoder.count_tokens([caption])[0]) > encoder.longest:
            raise UserError(
                f"the caption {_shorten(caption)} has {count} tokens, and the text model takes {encoder.longest}; "
                "shorten it"
            )
        return
    if reason := explain_unsuitable(caption, model.vocabulary):
        raise UserError(reason)
    vocabulary, words = vocabulary_of(model), split_words(caption)
    if missing := vocabulary.unknown_words(caption):
        names = ", ".join(repr(word) for word in dict.fromkeys(missing))
        known = vocabulary.words
        more = f" and {len(known) - _KNOWN_WORDS} more" if len(known) > _KNOWN_WORDS else ""
        raise UserError(
            f"the caption {caption!r} has words that were not in the training captions: {names}; known words: "
            f"{', '.join(known[:_KNOWN_WORDS])}{more}"
        )
    if len(words) > vocabulary.length:
        raise UserError(
            f"the caption {_shorten(caption)} has {len(words)} words, and this model takes {vocabulary.length}; leave "
            f"out the words from {words[vocabulary.length]!r} on"
        )


def describe_cut_captions(model: ModelConfig, captions: Sequence[str]) -> str | None:
    """Return a sentence on captions of which the model reads the beginning only; None if it reads all in full."""
    if model.text_encoder is None:
        most, what = MOST_WORDS, "words"
        counts = [len(split_words(text)) for text in captions]
    else:
        encoder = _open(model)
        most, what = encoder.longest, "tokens"
        counts = encoder.count_tokens(captions)
    cut = [text for text, count in zip(captions, counts, strict=True) if count > most]
    if not cut:
        return None
    return (
        f"{len(cut):,} of {len(captions):,} captions have more than {most} {what}, and are cut after these, such as "
        f"{_shorten(cut[0])}"
    )


def move_text_encoder(model: ModelConfig, folder: str | Path | None) -> ModelConfig:
    """Return a trained model's configuration with another folder of the same text model; None leaves it unchanged.

    Raises:
        UserError: the model has no pretrained text encoder, or the folder has another one.
    """
    if folder is None:
        return model
    if model.text_encoder is None:
        raise UserError(f"--text-encoder {folder}: this model reads text by itself; leave --text-encoder out")
    open_text_encoder(folder, model.text_fingerprint)
    return model.model_copy(update={"text_encoder": str(Path(folder).resolve())})


def _open(model: ModelConfig) -> PretrainedText:
    assert model.text_encoder is not None  # the callers checked
    if not Path(model.text_encoder).is_dir():
        raise UserError(
            f"this model reads text by the text model in {model.text_encoder}, which does not exist; pass its new "
            "folder with --text-encoder"
        )
    return open_text_encoder(model.text_encoder, model.text_fingerprint)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:59]}…")
