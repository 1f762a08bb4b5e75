"""Checks of a folder with a pretrained text model, before any of it is loaded."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from fastvgan.errors import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MODULES, POOLING, SENTENCES = "modules.json", Path("1_Pooling") / CONFIG, "sentence_bert_config.json"
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len")  # sentence-transformers concatenates several in this order
_CLIP = ("clip", "clip_text_model")
# Encoders of text whose last hidden states are pooled.
_ENCODERS = frozenset(
    "albert bert camembert convbert deberta deberta-v2 distilbert electra ernie megatron-bert modernbert mpnet "
    "nystromformer roberta roberta-prelayernorm t5 xlm-roberta xlm-roberta-xl".split()
)
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}
_CHUNK = 2**20


class TextFolder(NamedTuple):
    """A folder with a text model of the transformers library.

    Attributes:
        path: the folder.
        kind: the model type in its config.json.
        poolings: how the states of a sentence's tokens become one vector, of `POOLINGS`; several are concatenated.
            Empty for CLIP, which has its own way.
        is_normalised: whether vectors have length 1.
        longest: most tokens of a sentence by the sentence-transformers library's settings; None without them.
    """

    path: Path
    kind: str
    poolings: tuple[str, ...]
    is_normalised: bool = False
    longest: int | None = None

    @property
    def is_clip(self) -> bool:
        """Whether this is a CLIP model, whose text embeddings are used."""
        return self.kind in _CLIP


def check_folder(path: Path) -> TextFolder:
    """Check that a folder has a text model that can be used, without loading it.

    Raises:
        UserError: it is not a folder, lacks a file, or has a model of another kind.
    """
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(
            f"--text-encoder {path}: this {what}; pass the folder of a text model that the transformers library saved"
        )
    config = _read_json(path, CONFIG)
    if config is None:
        raise UserError(
            f"--text-encoder {path}: {CONFIG} is missing; pass the folder of a text model that the transformers "
            "library saved"
        )
    kind = str(config.get("model_type"))
    if kind not in _CLIP and (kind not in _ENCODERS or config.get("is_decoder")):
        what = f"a decoder of the type {kind!r}" if config.get("is_decoder") else f"a model of the type {kind!r}"
        raise UserError(
            f"--text-encoder {path}: this is {what}, not an encoder of text; pass a CLIP or sentence model, "
            f"{', '.join(sorted({*_CLIP, *_ENCODERS}))}"
        )
    if not any((path / name).is_file() for name in (WEIGHTS, INDEX)):
        unsafe = sorted(file.name for file in path.glob("*.bin"))
        found = f"{unsafe[0]} is not loaded, since such files can run code" if unsafe else "it has no weights"
        raise UserError(
            f"--text-encoder {path}: {found}; {WEIGHTS} is needed, which save_pretrained() of the transformers library "
            "writes"
        )
    if not any((path / name).is_file() for name in _TOKENIZER):
        raise UserError(f"--text-encoder {path}: it has no tokenizer; save the model's own one into the same folder")
    if kind in _CLIP:
        return TextFolder(path, kind, ())
    longest = (_read_json(path, SENTENCES) or {}).get("max_seq_length")
    return TextFolder(
        path, kind, _read_poolings(path), _is_normalised(path), longest if isinstance(longest, int) else None
    )


def fingerprint(path: Path) -> str:
    """Return the SHA-256, in hexadecimal, of a checked folder's files that determine the embeddings.

    Raises:
        UserError: a file cannot be read.
    """
    names = sorted({CONFIG, POOLING.as_posix(), MODULES, SENTENCES, INDEX, *_TOKENIZER})
    names = [name for name in names if (path / name).is_file()] + _weights(path)
    try:
        found = [(path / name).stat() for name in names]
        return _checksum(path, tuple((name, s.st_size, s.st_mtime_ns) for name, s in zip(names, found, strict=True)))
    except OSError as error:
        raise UserError(f"--text-encoder {path}: cannot read {error.filename} ({error.strerror})") from error


@functools.lru_cache(maxsize=4)
def _checksum(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    # The times of the files are part of the key only, so that weights of gigabytes are read once per process.
    total = hashlib.sha256()
    for name, size, _ in files:
        total.update(f"{name} {size}\n".encode())
        with (path / name).open("rb") as content:
            while chunk := content.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


def _weights(path: Path) -> list[str]:
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    weight_map = (_read_json(path, INDEX) or {}).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"--text-encoder {path}: {INDEX} lists no files of weights; copy the folder again")
    return sorted(set(map(str, weight_map.values())))


def _read_poolings(path: Path) -> tuple[str, ...]:
    config = _read_json(path, str(POOLING))
    if config is None:
        return ("mean",)
    # Newer versions of sentence-transformers write "pooling_mode", older ones a flag for each way.
    named = config.get("pooling_mode")
    if isinstance(named, (str, list)):
        modes = [named] if isinstance(named, str) else list(map(str, named))
    else:
        modes = [_POOLING_FLAGS.get(name, name) for name, value in config.items() if _is_pooling_flag(name, value)]
    if not modes or not set(modes) <= set(POOLINGS):
        wanted = ", ".join(modes) or "none"
        raise UserError(
            f"--text-encoder {path}: {POOLING} asks for the pooling {wanted}; supported are {', '.join(POOLINGS)}"
        )
    return tuple(name for name in POOLINGS if name in modes)


def _is_pooling_flag(name: str, value: object) -> bool:
    return name.startswith("pooling_mode_") and value is True


def _is_normalised(path: Path) -> bool:
    modules = _read_json(path, MODULES, list) or []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    if other := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise UserError(
            f"--text-encoder {path}: {MODULES} has the module {other[0]}, which is not supported; pass a model of "
            "Transformer, Pooling and Normalize only"
        )
    return "Normalize" in kinds


def _read_json(path: Path, name: str, kind: type = dict) -> Any:
    """Read a JSON file of a folder; None if it does not exist.

    Raises:
        UserError: it cannot be read, or holds something other than an object (`dict`) or an array (`list`).
    """
    try:
        value = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--text-encoder {path}: {name} cannot be read ({error}); copy the folder again") from error
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "array"
        raise UserError(f"--text-encoder {path}: {name} is not a JSON {wanted}; copy the folder again")
    return value
