"""Export trained generators to single files, and load them to make clips."""

import json
from pathlib import Path

import torch

from fastvgan.data.media.image_input import ImageInput, fit_image, read_image
from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.files.tensor_file import read_tensors, save_tensors
from fastvgan.machine.memory import check_memory
from fastvgan.models import Condition, ModelConfig, build_generator
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import count_min_weights, map_values
from fastvgan.models.text.inputs import move_text_encoder, to_text_input, vocabulary_of
from fastvgan.pixels import to_float, to_uint8
from fastvgan.runs.checkpoint import is_checkpoint, read_averaged_weights

EXPORTED = Path("export") / "generator.safetensors"
"""Path, in a run folder, of the averaged generator of the last checkpoint."""
BEST = Path("export") / "best.safetensors"
"""Path, in a run folder, of the averaged generator of the checkpoint with the best score."""

_CHUNK = 64  # clips per forward pass


def export(
    weights: dict[str, torch.Tensor], config: ModelConfig, path: Path, facts: dict[str, str] | None = None
) -> None:
    """Write a generator's weights with its configuration to a .safetensors file, whole or not at all.

    Args:
        weights: state_dict of the generator; tensors of any shape.
        config: configuration of the generator.
        path: file to write.
        facts: further metadata of the file, such as the step.

    Raises:
        OSError: the file cannot be written.
    """
    with replace_atomically(path) as temporary:
        save_tensors(weights, temporary, {**(facts or {}), "fastvgan": config.model_dump_json()})


def load(
    path: str | Path, device: str | torch.device = "cpu", text_encoder: str | Path | None = None
) -> "VideoGenerator":
    """Load a trained generator, always with averaged weights; its `path` names the file that was read.

    Args:
        path: a run folder, a checkpoint folder such as run/checkpoints/step-200, or an exported .safetensors file. In a
            run folder, export/best.safetensors (the checkpoint with the best score) is read if it exists, else
            export/generator.safetensors (the last checkpoint).
        device: device of the generator.
        text_encoder: folder of the pretrained text model, for a generator that was trained with one; by default where
            it was then.

    Raises:
        UserError: the file is missing, truncated, or not a generator of this library; or `text_encoder` is not the
            text model that the generator was trained with.
    """
    path = Path(path)
    tensors, config, path = _read_checkpoint(path) if _is_checkpoint(path) else _read_export(path)
    config = move_text_encoder(config, text_encoder or _newer_text_encoder(config, path))
    try:
        _check_count(config, tensors)
        network = build_generator(config)
        network.load_state_dict(tensors)
    except (UserError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} does not fit this version of fastvgan ({reason}); export it again") from error
    return VideoGenerator(network.to(device).eval().requires_grad_(False), config, path)


def _newer_text_encoder(config: ModelConfig, path: Path) -> str | None:
    """Return the folder that a run's config.yaml names if the text model has moved since a file of it was written."""
    if config.text_encoder is None or Path(config.text_encoder).is_dir():
        return None
    settings = path.resolve().parent.parent / "config.yaml"  # the run's, of export/best.safetensors
    if not settings.is_file():
        return None
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    try:
        newer = read_config(settings).model
    except UserError:
        return None  # of something else: the file was copied out of its run
    folder = newer.text_encoder if newer.text_fingerprint == config.text_fingerprint else None
    return folder if folder is not None and Path(folder).is_dir() else None


def _check_count(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Check that the file has as many weights as its configuration, before memory for them is allocated."""
    expected, found = count_min_weights(config)[0], sum(tensor.numel() for tensor in tensors.values())
    if expected > found:
        raise UserError(f"its configuration needs at least {expected:,} weights, it has {found:,}")


def _is_checkpoint(path: Path) -> bool:
    return path.is_dir() and is_checkpoint(path)


def _read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    return read_averaged_weights(path), read_config(path.resolve().parents[1] / "config.yaml").model, path


def _read_export(path: Path) -> tuple[dict[str, torch.Tensor], ModelConfig, Path]:
    if path.is_dir():
        found = [path / name for name in (BEST, EXPORTED) if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds no generator ({EXPORTED} is missing); pass a run folder with an export")
        path = found[0]
    tensors, metadata = read_tensors(path)
    if "fastvgan" not in metadata:
        raise UserError(f"{path} is not a fastvgan generator: its header has no configuration; pass another file")
    try:
        settings = json.loads(metadata["fastvgan"])
        if not isinstance(settings, dict):
            raise ValueError("the configuration in its header is not a JSON object")
        return tensors, ModelConfig.model_validate(settings), path
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} does not fit this version of fastvgan ({error}); export it again") from error


class VideoGenerator:
    """A trained generator that makes clips; see `load`.

    Attributes:
        network: the torch.nn.Module, called as network(z, condition).
        config: its `ModelConfig`.
        path: file or checkpoint folder that it was loaded from, if any.
    """

    def __init__(self, network: NoiseDriven, config: ModelConfig, path: Path | None = None):
        self.network = network
        self.config = config
        self.path = path
        self.vocabulary = vocabulary_of(config)

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
            text: caption, for a model that follows text; its words must occur in the training captions, unless the
                model has a pretrained text encoder.
            image: the first frame, for a model that follows one: a path, a PIL image, an array (H, W) or (H, W, C), or
                a tensor (H, W), (C, H, W) or (H, W, C), of uint8, uint16, bool or floats in [0, 1] (see
                `fastvgan.data.media.image_input.read_image`); of another size, it is scaled and cropped at its centre.
            label: class name or index, for a model that follows classes.
            n: number of clips.
            seed: seed of the noise; clip i depends on the seed and i only.
            frames: length in frames, for the recurrent family; the conv3d family makes clips of the training length.

        Returns:
            uint8 (n, T, H, W, C) on the CPU.

        Raises:
            UserError: a condition is missing, not supported by the model, or invalid.
        """
        if n < 1:
            raise UserError(f"n {n}: the number of clips must be at least 1")
        if frames is not None and frames < 1:
            raise UserError(f"frames {frames}: the length of a clip must be at least 1")
        if frames not in (None, self.config.frames) and self.config.family != "recurrent":
            raise UserError(
                f"a {self.config.family} model makes clips of {self.config.frames} frames only, not {frames}; "
                "train a recurrent model for other lengths"
            )
        condition = self._condition(text, image, label)
        self._check_memory(n, frames or self.config.frames)
        noise = self.network.noise(n, seed, frames)
        clips = [self._clips(z, condition) for z in noise.split(_CHUNK)]
        return torch.cat(clips)

    def _check_memory(self, n: int, frames: int) -> None:
        """Check that all clips and noise, and the largest features of one forward pass, fit into memory."""
        model = self.config
        largest = max(map_values(model))
        made_at_once = min(n, _CHUNK) * 4 * largest * frames // model.frames
        # Each noise value takes two 64-bit words while it is computed.
        of_each = frames * model.height * model.width * model.channels + 16 * self.network.noise_size(frames)
        check_memory(n * of_each + made_at_once, f"{n} clips of {frames} frames", "use fewer or shorter clips")

    def _clips(self, z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        device = self._device()
        if condition is not None:
            parts = (None if part is None else part.to(device).expand(len(z), *part.shape[1:]) for part in condition)
            condition = Condition(*parts)
        return to_uint8(self.network(z.to(device), condition))

    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _condition(self, text: str | None, image: ImageInput | None, label: str | int | None) -> Condition | None:
        given = {"text": text, "image": image, "class": label}
        for name, value in given.items():
            flag = {"class": "label"}.get(name, name)
            if value is None and name in self.config.condition:
                raise UserError(f"this model follows {name}: pass {flag}")
            if value is not None and name not in self.config.condition:
                follows = " and ".join(self.config.condition) or "no condition"
                raise UserError(f"{flag} was given, but this model follows {follows}; leave it out")
        if not self.config.condition:
            return None
        return Condition(
            text=None if text is None else to_text_input(self.config, text, self._device()),
            label=None if label is None else torch.tensor([self._class(label)]),
            image=None if image is None else self._image(image),
        )

    def _class(self, label: str | int) -> int:
        names = list(self.config.class_names)
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, int) and 0 <= label < len(names):
            return label
        raise UserError(f"unknown class {label!r}; the classes are {', '.join(names)}")

    def _image(self, image: ImageInput) -> torch.Tensor:
        """Return an image as a frame (1, C, H, W) in [-1, 1] of the model's size."""
        frame = fit_image(read_image(image), self.config.height, self.config.width, self.config.channels)
        return to_float(frame[None, None], torch.device("cpu"))[:, :, 0]
