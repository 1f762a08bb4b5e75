"""Trained generators, and how to make clips with them."""

from pathlib import Path

import torch

from fastvgan.data.media.image_input import ImageInput, fit_image, read_image
from fastvgan.errors import UserError
from fastvgan.files.pixels import to_float, to_uint8
from fastvgan.machine.memory import check_memory
from fastvgan.models import Condition, ModelConfig
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import map_values
from fastvgan.models.text.inputs import to_text_input, vocabulary_of

_CHUNK = 64  # clips per forward pass


class VideoGenerator:
    """A trained generator that makes clips; see `fastvgan.load`.

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
