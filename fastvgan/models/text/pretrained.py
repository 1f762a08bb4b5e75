"""Embeddings of sentences by a frozen text model of the transformers library, from a local folder."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastvgan.errors import UserError
from fastvgan.machine.optional import require
from fastvgan.models.text.folder import TextFolder, check_folder, fingerprint

_BATCH = 64
_MOST_TOKENS = 512  # of a model whose files name no limit
# Their position embeddings begin after that of the padding token.
_WITH_OFFSET = ("camembert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")
_OFFSET = 2


class PretrainedText:
    """A frozen text model with its tokenizer, in evaluation mode.

    CLIP models return their projected text embeddings. Sentence models return the mean of the states of all tokens, or
    what the folder's pooling configuration of the sentence-transformers library says.

    Args:
        folder: a checked folder.

    Attributes:
        width: length of an embedding.
        longest: most tokens of a sentence, with the tokenizer's special ones.

    Raises:
        UserError: transformers is not installed, or the files do not fit together.
    """

    def __init__(self, folder: TextFolder):
        self._folder = folder
        with _quiet():
            self._tokenizer = _load(folder, _load_tokenizer)
            self._network: nn.Module = _load(folder, _load_network).float().eval().requires_grad_(False)
        config: Any = self._network.config
        if len(self._tokenizer) > config.vocab_size:
            raise UserError(
                f"--text-encoder {folder.path}: its tokenizer has {len(self._tokenizer):,} tokens, and its model knows "
                f"{config.vocab_size:,}; save the model's own tokenizer into the folder"
            )
        if self._tokenizer.pad_token is None:
            raise UserError(f"--text-encoder {folder.path}: its tokenizer has no padding token; set one and save it")
        self.width: int = config.projection_dim if folder.is_clip else config.hidden_size * len(folder.poolings)
        self.longest = _longest(folder, config, self._tokenizer.model_max_length)
        self._inputs = set(inspect.signature(self._network.forward).parameters)

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """Return the number of tokens of each sentence, of which those after `longest` are cut."""
        with _quiet():
            return [len(ids) for ids in self._tokenizer(list(sentences), truncation=False)["input_ids"]]

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], device: torch.device | str = "cpu") -> torch.Tensor:
        """Return embeddings of sentences, float32 (N, width) on the CPU, computed on a device.

        Raises:
            UserError: an embedding is not finite.
        """
        self._network.to(device)
        try:
            with torch.autocast(torch.device(device).type, enabled=False):
                parts = [
                    self._encode_batch(list(sentences[i : i + _BATCH]), device)
                    for i in range(0, len(sentences), _BATCH)
                ]
        finally:
            self._network.to("cpu")  # leaves the device's memory to the training
        found = torch.cat([torch.empty(0, self.width), *parts])
        if not found.isfinite().all():
            raise UserError(
                f"--text-encoder {self._folder.path}: it makes NaN or infinite values; pass another text model"
            )
        return found

    def _encode_batch(self, sentences: list[str], device: torch.device | str) -> torch.Tensor:
        tokens = self._tokenizer(
            sentences, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(device)
        out = self._network(**{name: value for name, value in tokens.items() if name in self._inputs})
        if self._folder.is_clip:
            return out.text_embeds.cpu()
        pooled = pool(out.last_hidden_state, tokens["attention_mask"], self._folder.poolings)
        return (nn.functional.normalize(pooled, dim=1) if self._folder.is_normalised else pooled).cpu()


def pool(states: torch.Tensor, mask: torch.Tensor, ways: Sequence[str]) -> torch.Tensor:
    """Pool the states of a sentence's tokens, as the sentence-transformers library does.

    Args:
        states: float (N, S, E).
        mask: 1 for tokens and 0 for padding, (N, S).
        ways: some of `fastvgan.models.text.folder.POOLINGS`.

    Returns:
        The results of all ways, concatenated: float (N, E * ways).
    """
    weights = mask[..., None].to(states.dtype)
    total, count = (states * weights).sum(1), weights.sum(1).clamp(min=1e-9)
    first = states[torch.arange(len(states), device=states.device), mask.argmax(1)]  # padding may be on the left
    found = {
        "cls": lambda: first,
        "max": lambda: states.masked_fill(weights == 0, torch.finfo(states.dtype).min).amax(1),
        "mean": lambda: total / count,
        "mean_sqrt_len": lambda: total / count.sqrt(),
    }
    return torch.cat([found[way]() for way in ways], 1)


def open_text_encoder(path: str | Path, expected: str | None = None) -> PretrainedText:
    """Open a text model.

    Args:
        path: its folder.
        expected: the fingerprint that the folder must have; None for any.

    Raises:
        UserError: the folder cannot be used, or it has another fingerprint.
    """
    folder = check_folder(Path(path))
    found = fingerprint(folder.path)
    if expected is not None and expected != found:
        raise UserError(
            f"--text-encoder {path}: this is another text model than the one that the generator was trained with (its "
            f"files have the checksum {found[:8]}, not {expected[:8]}); pass the folder of that one"
        )
    return _open(folder, found)


@functools.lru_cache(maxsize=1)
def _open(folder: TextFolder, found: str) -> PretrainedText:
    # The fingerprint is part of the key, so that a changed folder is loaded again.
    return PretrainedText(folder)


def _import_transformers() -> Any:
    return require("transformers", "text", "--text-encoder", "omit the flag")


@contextlib.contextmanager
def _quiet() -> Generator[None, None, None]:
    """Silence the library's messages; this module raises those that matter."""
    log = _import_transformers().logging
    verbosity, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if has_bar:
            log.enable_progress_bar()


def _load(folder: TextFolder, load: Callable[[TextFolder], Any]) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):  # unused weights that the folder lacks are drawn
            return load(folder)
    except UserError:
        raise
    except Exception as error:  # the library's errors have no common class
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"--text-encoder {folder.path}: transformers cannot load it ({type(error).__name__}: {reason:.200}); copy "
            "the folder again, or save it by this version of transformers"
        ) from error


def _load_tokenizer(folder: TextFolder) -> Any:
    return _import_transformers().AutoTokenizer.from_pretrained(
        str(folder.path), local_files_only=True, trust_remote_code=False
    )


def _load_network(folder: TextFolder) -> Any:
    transformers = _import_transformers()
    kinds = {"t5": "T5EncoderModel"}
    name = "CLIPTextModelWithProjection" if folder.is_clip else kinds.get(folder.kind, "AutoModel")
    network, info = getattr(transformers, name).from_pretrained(
        str(folder.path), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    missing = [key for key in info["missing_keys"] if "pooler." not in key]  # a layer whose output is not used
    if missing or info["mismatched_keys"]:
        misfit = sorted(missing) or sorted(key[0] for key in info["mismatched_keys"])
        raise UserError(
            f"--text-encoder {folder.path}: its weights lack {misfit[0]}"
            + (f" and {len(misfit) - 1} more" if len(misfit) > 1 else "")
            + "; copy the folder again"
        )
    return network


def _longest(folder: TextFolder, config: Any, of_tokenizer: int) -> int:
    """Return the most tokens of a sentence that the tokenizer, the model and the folder's settings allow."""
    places = getattr(config, "max_position_embeddings", None) or _MOST_TOKENS
    if folder.kind in _WITH_OFFSET:
        places -= _OFFSET
    return max(1, min(places, of_tokenizer, folder.longest or places))
