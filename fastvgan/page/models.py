"""The models that the page offers, and the few of them that stay in memory."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch

import fastvgan
from fastvgan.errors import UserError
from fastvgan.generation.files import BEST, EXPORTED
from fastvgan.generation.shipped import SHIPPED
from fastvgan.machine.device import pick_device
from fastvgan.models.vocabulary import split_words
from fastvgan.runs.names import runs_by_age

_EXPORTS = (BEST, EXPORTED)
_MOST_LOADED = 3
_MOST_BYTES = 2 * 2**30  # of the weights of all loaded models; the newest one is kept in any case
_FAMILIES = {"recurrent": "Recurrent", "conv3d": "3D-convolutional"}
# Sentences to click, of those words that a model knows.
_EXAMPLES = (
    "a blue 5 moving left and right",
    "a red 7 moving up and down",
    "a green 3 moving diagonally",
    "a yellow 8 moving in a circle",
    "a white 0 moving up and down",
    "a purple 2 moving in a circle",
)


class Form(NamedTuple):
    """What the page asks for before a model makes clips.

    Attributes:
        follows: conditions of the model: "text", "image", "class".
        classes: names of the classes.
        frames: training length in frames.
        is_any_length: whether the model makes clips of other lengths, too.
        examples: sentences that the model understands.
        words: the words that it knows; none if it reads any word.
        facts: one line on the model.
    """

    follows: tuple[str, ...]
    classes: tuple[str, ...]
    frames: int
    is_any_length: bool
    examples: tuple[str, ...]
    words: tuple[str, ...]
    facts: str


class Models:
    """The models to choose from, by name, and the ones loaded last.

    Only the listed names are opened, so that a page's visitor reaches no other file.

    Args:
        named: model that was named when the page was started: a run folder, a .safetensors file, or a name that
            `fastvgan.from_pretrained` takes; None for the newest run, or the shipped model if no run has a generator.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, named: str | None = None, device: str = "auto"):
        is_path = named is not None and Path(named).exists()
        self._named = str(Path(named)) if is_path else named  # not runs/a-1/
        # A folder of the same name hides a shipped model only if it was named.
        self._shipped = {name: str(file) for name, file in SHIPPED.items() if not (is_path and name == self._named)}
        self._device = pick_device(device)
        self._loaded: OrderedDict[str, tuple[fastvgan.VideoGenerator, object]] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of all models, the default first: the named one, runs from the newest on, shipped ones."""
        named = [self._named] if self._named is not None else []
        runs = [str(run) for run in runs_by_age() if any((run / export).is_file() for export in _EXPORTS)]
        return list(dict.fromkeys([*named, *runs, *SHIPPED]))

    def open(self, name: str | None) -> "fastvgan.VideoGenerator":
        """Return a model, which is loaded again if its file has changed.

        Raises:
            UserError: there is no such model, or it cannot be loaded.
        """
        names = self.names()
        if name not in names:
            raise UserError(f"there is no model {name!r}; choose one of {', '.join(names)}")
        path = self._shipped.get(name, name)
        with self._lock:
            stamp = _stamp(Path(path))
            found = self._loaded.pop(name, None)
            if found is None or found[1] != stamp:
                found = fastvgan.from_pretrained(path, device=self._device), stamp
            self._loaded[name] = found
            while len(self._loaded) > 1 and (len(self._loaded) > _MOST_LOADED or self._bytes() > _MOST_BYTES):
                self._loaded.popitem(last=False)
            return found[0]

    def form(self, name: str | None) -> Form:
        """Return what the page asks for before a model makes clips.

        Raises:
            UserError: as `open`.
        """
        generator = self.open(name)
        config = generator.config
        follows = tuple(part for part in config.condition if part != "none")
        known = generator.vocabulary.words if "text" in follows and config.text_encoder is None else ()
        return Form(
            follows,
            tuple(config.class_names),
            config.frames,
            config.family == "recurrent",
            tuple(text for text in _EXAMPLES if known and _fits(generator, text)),
            tuple(known),
            f"{_FAMILIES[config.family]} model for clips of {config.frames} frames of {config.height}x{config.width} "
            f"pixels; follows {' and '.join(follows) or 'no condition'}.",
        )

    def _bytes(self) -> int:
        networks = (generator.network for generator, _ in self._loaded.values())
        return sum(_size(tensor) for network in networks for tensor in network.state_dict().values())


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _fits(generator: "fastvgan.VideoGenerator", text: str) -> bool:
    words, vocabulary = split_words(text), generator.vocabulary
    return set(words) <= set(vocabulary.words) and len(words) <= vocabulary.length


def _stamp(path: Path) -> object:
    """Return what changes when a run exports its generator again."""
    files = [path, *(path / export for export in _EXPORTS)]
    return [(file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None for file in files]
