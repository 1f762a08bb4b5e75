"""A trained generator as one file, and the same file as something to call."""

import json
from pathlib import Path

import torch

from fastvgan.data.media.image_input import ImageInput, fit_image, read_image
from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.files.tensor_file import read_tensors, save_tensors
from fastvgan.machine.memory import check_memory
from fastvgan.models import Condition, ModelConfig, build_generator
from fastvgan.models.sizes import count_min_weights, map_values
from fastvgan.models.vocabulary import Vocabulary
from fastvgan.pixels import to_float, to_uint8
from fastvgan.runs.checkpoint import is_checkpoint, read_averaged_weights

EXPORTED = Path("export") / "generator.safetensors"
"""Where a run folder holds its last averaged generator."""
BEST = Path("export") / "best.safetensors"
"""Where a run folder holds the averaged generator of the checkpoint with the best score."""

_CHUNK = 64  # clips made at once
_KNOWN_WORDS = 60  # named in a message


def export(
    weights: dict[str, torch.Tensor], config: ModelConfig, path: Path, facts: dict[str, str] | None = None
) -> None:
    """Write a generator's weights with its configuration to a .safetensors file, whole or not at all.

    Args:
        weights: its state_dict. facts: more for the file's metadata, such as the step.

    Raises:
        OSError: the file cannot be written.
    """
    with replace_atomically(path) as temporary:
        save_tensors(weights, temporary, {**(facts or {}), "fastvgan": config.model_dump_json()})


def load(path: str | Path, device: str | torch.device = "cpu") -> "VideoGenerator":
    """A trained generator, always with averaged weights; its `path` says which file was taken.

    Args:
        path: a run folder, of which export/best.safetensors is taken (the checkpoint with the best score), or
            export/generator.safetensors (the last checkpoint) where there is no best; a checkpoint folder, such as
            run/checkpoints/step-200; or a .safetensors file of export/.

    Raises:
        UserError: nothing is there, or it is truncated, foreign, or no generator of this library.
    """
    path = Path(path)
    tensors, config, path = _read_checkpoint(path) if _is_checkpoint(path) else _read_export(path)
    try:
        _check_count(config, tensors)
        network = build_generator(config)
        network.load_state_dict(tensors)
    except (UserError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} does not fit this version of fastvgan ({reason}); export it again") from error
    return VideoGenerator(network.to(device).eval().requires_grad_(False), config, path)


def _check_count(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    """A damaged configuration may ask for more weights than memory holds; more than the file's they cannot be."""
    asked, there = count_min_weights(config)[0], sum(tensor.numel() for tensor in tensors.values())
    if asked > there:
        raise UserError(f"its settings are those of at least {asked:,} weights, and it holds {there:,}")


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and is_checkpoint(path)


def _read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    return read_averaged_weights(path), read_config(path.resolve().parents[1] / "config.yaml").model, path


def _read_export(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    if path.is_dir():
        found = [path / name for name in (BEST, EXPORTED) if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds no generator ({EXPORTED} is missing); name a run folder that has saved one")
        path = found[0]
    tensors, metadata = read_tensors(path)
    if "fastvgan" not in metadata:
        raise UserError(f"{path} is no generator of fastvgan: its header holds no configuration; name another file")
    try:
        settings = json.loads(metadata["fastvgan"])
        if not isinstance(settings, dict):
            raise ValueError("its header holds no settings")
        return tensors, ModelConfig.model_validate(settings), path
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} does not fit this version of fastvgan ({error}); export it again") from error


class VideoGenerator:
    """A trained generator, ready to make clips; `load` gives one.

    `network` is the torch.nn.Module, called as network(z, c); `config` its `ModelConfig`; `path` the file or checkpoint
    folder that it comes from, if any.
    """

    def __init__(self, network: torch.nn.Module, config: ModelConfig, path: Path | None = None):
        self.network = network
        self.config = config
        self.path = path
        self.vocabulary = Vocabulary(config.vocabulary, config.caption_length)

    @torch.no_grad()
    def generate(
        self,
        text: str | None = None,
        image: ImageInput | None = None,
        label: str | int | None = None,
        n: int = 1,
        seed: int = 0,
        frames: int | None = None,
    ) -> torch.Tensor:
        """Make n clips.

        Args:
            text: a caption, for a model that follows text, of words that were in the training captions.
            image: the first frame, for a model that follows one: a path, a PIL image, an array (H, W) or (H, W, C), or
                a tensor (H, W), (C, H, W) or (H, W, C), of uint8, uint16, bool or floats in [0, 1] (see
                `fastvgan.data.media.image_input.read_image`); of another size, it is scaled and cropped at its centre.
            label: a class by name or index, for a model that follows classes.
            n: how many clips. seed: of the noise; the same seed gives the same clips, however many.
            frames: length, for the recurrent family; the 3D-convolutional one makes clips of the training length.

        Returns:
            uint8 (n, T, H, W, C) on the CPU.

        Raises:
            UserError: a condition the model needs is missing, one it does not know is given, or a value is not usable.
        """
        if n < 1:
            raise UserError(f"n is how many clips to make, at least 1, not {n}")
        if frames is not None and frames < 1:
            raise UserError(f"frames is the length of a clip, at least 1, not {frames}")
        if frames not in (None, self.config.frames) and self.config.family != "recurrent":
            raise UserError(
                f"a {self.config.family} model makes clips of {self.config.frames} frames only, not {frames}; "
                "train one of the recurrent family for other lengths"
            )
        condition = self._condition(text, image, label)
        self._check_memory(n, frames or self.config.frames)
        noise = self.network.noise(n, seed, frames)
        clips = [self._clips(z, condition) for z in noise.split(_CHUNK)]
        return torch.cat(clips)

    def _check_memory(self, n: int, frames: int) -> None:
        """Refuse what cannot fit: clips and noise of all, and of those that are made at once the largest features."""
        model = self.config
        temporal = model.family == "conv3d"
        largest = max(map_values(model.frames, model.height, model.width, model.base_width, temporal))
        made_at_once = min(n, _CHUNK) * 4 * largest * frames // model.frames
        # A number of the noise is two words of 64 bits on its way to float32.
        of_each = frames * model.height * model.width * model.channels + 16 * self.network.noise_size(frames)
        check_memory(n * of_each + made_at_once, f"{n} clips of {frames} frames", "make fewer or shorter ones")

    def _clips(self, z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        device = next(self.network.parameters()).device
        if condition is not None:
            parts = (None if part is None else part.to(device).expand(len(z), *part.shape[1:]) for part in condition)
            condition = Condition(*parts)
        return to_uint8(self.network(z.to(device), condition))

    def _condition(self, text, image, label) -> Condition | None:
        given = {"text": text, "image": image, "class": label}
        for name, value in given.items():
            flag = {"class": "label"}.get(name, name)
            if value is None and name in self.config.condition:
                raise UserError(f"this model follows {name}: give {flag}")
            if value is not None and name not in self.config.condition:
                follows = " and ".join(self.config.condition) or "no condition"
                raise UserError(f"{flag} was given, but this model follows {follows}; leave it out")
        if not self.config.condition:
            return None
        return Condition(
            text=None if text is None else self._words(text),
            label=None if label is None else torch.tensor([self._class(label)]),
            image=None if image is None else self._image(image),
        )

    def _words(self, text: str) -> torch.Tensor:
        if missing := self.vocabulary.unknown_words(text):
            names = ", ".join(repr(word) for word in dict.fromkeys(missing))
            known = self.vocabulary.words
            more = f" and {len(known) - _KNOWN_WORDS} more" if len(known) > _KNOWN_WORDS else ""
            raise UserError(
                f"the caption {text!r} has words that were not in the training captions: {names}; known words: "
                f"{', '.join(known[:_KNOWN_WORDS])}{more}"
            )
        return self.vocabulary.encode([text])

    def _class(self, label: str | int) -> int:
        names = list(self.config.class_names)
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, int) and 0 <= label < len(names):
            return label
        raise UserError(f"there is no class {label!r}; the classes are {', '.join(names)}")

    def _image(self, image: ImageInput) -> torch.Tensor:
        """A picture as a frame (1, C, H, W) in [-1, 1] of the model's size."""
        frame = fit_image(read_image(image), self.config.height, self.config.width, self.config.channels)
        return to_float(torch.from_numpy(frame)[None, None], torch.device("cpu"))[:, :, 0]
