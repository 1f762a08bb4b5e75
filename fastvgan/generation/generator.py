"""Trained generators, and how to make clips with them."""

import operator
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, SupportsIndex

import torch

import fastvgan
from fastvgan.data.media.image_input import ImageInput
from fastvgan.errors import UserError
from fastvgan.files.atomic import replace_atomically
from fastvgan.generation.card import CardFacts, model_card
from fastvgan.generation.files import CARD, StoredGenerator, write_pretrained
from fastvgan.generation.hub import import_hub, upload
from fastvgan.generation.inputs import Images, Inputs, Labels, Seeds, Texts, encode_conditions, whole_number
from fastvgan.generation.interpolation import interpolate_noise
from fastvgan.generation.passes import DTYPES, Passes
from fastvgan.generation.programs import check_onnx, export_program, write_onnx
from fastvgan.generation.provenance import find_provenance
from fastvgan.generation.videos import Videos
from fastvgan.machine.device import parse_device
from fastvgan.machine.memory import check_memory
from fastvgan.models import ModelConfig
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.sizes import map_values
from fastvgan.models.text.inputs import vocabulary_of

_CHUNK = 64  # clips per forward pass


class VideoGenerator:
    """A trained generator that makes clips; see `fastvgan.from_pretrained` and `fastvgan.load`.

    Attributes:
        network: the torch.nn.Module, called as network(z, condition).
        config: its `ModelConfig`.
        path: file or checkpoint folder that it was loaded from, if any.
        facts: what its file says about it, such as the step.
    """

    def __init__(
        self,
        network: NoiseDriven,
        config: ModelConfig,
        path: Path | None = None,
        facts: Mapping[str, str] | None = None,
    ):
        self.network = network
        self.config = config
        self.path = path
        self.facts = dict(facts or {})
        self.vocabulary = vocabulary_of(config)
        self._passes = Passes(network)

    def __repr__(self) -> str:
        follows = ", ".join(self.config.condition) or "noise"
        return f"VideoGenerator({self.config.family}, from {follows}, {self.dtype}, {self.device})"

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self._passes.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which convolutions compute: torch.float32, torch.float16 or torch.bfloat16."""
        return self._passes.dtype

    @torch.no_grad()
    def __call__(
        self,
        text: Texts | None = None,
        seed: Seeds = 0,
        frames: int | None = None,
        image: Images | None = None,
        label: Labels | None = None,
        batch_size: int = _CHUNK,
    ) -> Videos:
        """Make one clip for each sentence, seed, picture and class; single values are for all clips.

        Args:
            text: a sentence or a list, for a model that follows text; its words must occur in the training captions,
                unless the model has a pretrained text encoder.
            seed: a seed of the noise, or a list or range of them. A seed has the same noise with every sentence.
            frames: length in frames, for the recurrent family; the conv3d family makes clips of the training length.
            image: a first frame or a list, for a model that follows one; see `generate`. An array or a tensor with four
                dimensions holds several.
            label: a class name or index, or a list, for a model that follows classes.
            batch_size: clips per forward pass. A clip's values differ by rounding with the clips beside it, at most by
                1 of 255. With 1 they never differ, and equal those of `generate` with n=1.

        Returns:
            The clips, uint8 (N, T, H, W, C) on the CPU.

        Raises:
            UserError: lists differ in length, or a condition is missing, not supported by the model, or invalid.
        """
        inputs = Inputs(text, image, label, seed)
        batch_size = whole_number("batch_size", batch_size)
        frames = self._check_length(frames)
        condition = encode_conditions(self.config, inputs, self.device)
        self._check_memory(inputs.count, frames, batch_size)
        noise = self._passes.noise(inputs.seeds, frames)
        return Videos(self._passes.run(noise, condition, inputs.count, batch_size), captions=inputs.captions())

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
        """Make n clips of one condition and one seed.

        Args:
            text: caption, for a model that follows text; its words must occur in the training captions, unless the
                model has a pretrained text encoder.
            image: the first frame, for a model that follows one: a path, a PIL image, an array (H, W) or (H, W, C), or
                a tensor (H, W), (C, H, W) or (H, W, C), of uint8, uint16, bool or floats in [0, 1] (see
                `fastvgan.data.media.image_input.read_image`); of another size, it is scaled and cropped at its centre.
            label: class name or index, for a model that follows classes.
            n: number of clips.
            seed: seed of the noise; clip i depends on the seed and i only, but for rounding: with another `n`, a pixel
                may differ by one grey level. Clip 0 is that of `generator(seed=seed)`.
            frames: length in frames, for the recurrent family; the conv3d family makes clips of the training length.

        Returns:
            uint8 (n, T, H, W, C) on the CPU.

        Raises:
            UserError: a condition is missing, not supported by the model, or invalid.
        """
        n = whole_number("n", n, "the number of clips ")
        frames = self._check_length(frames)
        texts = None if text is None else [text]
        single = Inputs(texts, None if image is None else [image], None if label is None else [label], [seed])
        condition = encode_conditions(self.config, single, self.device)
        self._check_memory(n, frames, _CHUNK)
        return self._passes.run(self.network.noise(n, single.seeds[0], frames), condition, n, _CHUNK)

    @torch.no_grad()
    def interpolate(
        self,
        a: str | SupportsIndex | None = None,
        b: str | SupportsIndex | None = None,
        steps: int = 8,
        seed: int | tuple[int, int] = 0,
        text: str | None = None,
        image: ImageInput | None = None,
        label: str | int | tuple[str | int, str | int] | None = None,
        frames: int | None = None,
    ) -> Videos:
        """Make clips between two sentences, two seeds, or both: noise on a great circle, encoded conditions linearly.

        `interpolate("a red 3", "a blue 5", seed=(1, 2))` changes both, `interpolate(1, 2, text="a red 3")` the noise
        alone. The first and the last clip equal `generator(a, …)` and `generator(b, …)` bit for bit.

        Args:
            a: a sentence, or a seed. None where `seed` or `label` is a pair.
            b: a sentence or a seed, like `a`.
            steps: number of clips, with the first and the last one.
            seed: the seed of all clips, or that of the first and that of the last one.
            text: the sentence of all clips, where `a` and `b` are no sentences.
            image: the first frame of all clips, for a model that follows one.
            label: the class of all clips, or that of the first and that of the last one.
            frames: length in frames, for the recurrent family.

        Returns:
            The clips, uint8 (steps, T, H, W, C) on the CPU.

        Raises:
            UserError: fewer than two steps; `a` and `b` differ in kind; or a condition is missing, not supported by the
                model, or invalid.
        """
        if (steps := whole_number("steps", steps)) < 2:
            raise UserError(f"steps {steps}: must be at least 2, the first and the last clip")
        texts, seeds = _ends(a, b, text, seed)
        labels = list(label) if isinstance(label, tuple) else label
        inputs = Inputs(texts, None if image is None else [image], labels, seeds)
        if inputs.count != 2:
            raise UserError(f"{inputs.count} clips to interpolate between; pass two sentences, seeds or classes")
        frames = self._check_length(frames)
        condition = encode_conditions(self.config, inputs, self.device)
        self._check_memory(steps, frames, _CHUNK)
        noise = self._passes.noise(inputs.seeds, frames)
        # One by one, as a call makes a single clip: batches would round differently.
        clips = self._passes.run(noise, condition, 2, 1)
        if steps > 2:
            shares = torch.arange(1, steps - 1, dtype=torch.float64) / (steps - 1)
            between = self._passes.encode_between(condition, shares)
            middle = self._passes.run(interpolate_noise(noise[0], noise[-1], shares), between, steps - 2, _CHUNK)
            clips = torch.cat([clips[:1], middle, clips[1:]])
        first, last = inputs.captions()[0], inputs.captions()[-1]
        names = [first, *(f"{100 * i / (steps - 1):.0f}%" for i in range(1, steps - 1)), last]
        return Videos(clips, captions=names)

    def to(self, *places: "str | torch.device | torch.dtype") -> Self:
        """Move the generator to a device, change its dtype, or both, in place; return it.

        In float16 and bfloat16, convolutions and other products compute in that dtype, as in training with automatic
        mixed precision. Norms, biases and the path of a moving picture stay in float32.

        Args:
            places: a device, or torch.float32, torch.float16 or torch.bfloat16.

        Raises:
            UserError: torch does not know the device or cannot use it, or the dtype is another one.
        """
        for place in places:
            if not isinstance(place, torch.dtype):
                self.network.to(parse_device(place))
            elif place in DTYPES:
                self._passes.convert(place)
            else:
                raise UserError(f"{place}: a generator computes in {', '.join(map(str, DTYPES))}")
        return self

    def half(self) -> Self:
        """Compute in float16; see `to`."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """Compute in bfloat16; see `to`."""
        return self.to(torch.bfloat16)

    def float(self) -> Self:
        """Compute in float32. Weights that were rounded to another dtype stay rounded."""
        return self.to(torch.float32)

    def compile(self, **options: Any) -> Self:
        """Compile the network by torch.compile, in place; return the generator.

        The next call compiles, which takes from seconds to a minute, and so does the first one with another number of
        clips. Clips differ by rounding from those without it.

        Args:
            options: keyword arguments of torch.compile, such as mode="max-autotune".
        """
        self.network.compile(**options)
        return self

    def to_inputs(
        self,
        text: Texts | None = None,
        seed: Seeds = 0,
        frames: int | None = None,
        image: Images | None = None,
        label: Labels | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the inputs of an exported generator (`to_program`, `to_onnx`) for N clips, by name.

        Args:
            text: as for a call, like the others.
            seed: see there.
            frames: the length that was exported.
            image: see there.
            label: see there.

        Returns:
            noise: float32 (N, ...); and those of text, label and image that the model follows, as in
            `fastvgan.models.conditions.Condition`.

        Raises:
            UserError: as for a call.
        """
        inputs = Inputs(text, image, label, seed)
        frames = self._check_length(frames)
        condition = encode_conditions(self.config, inputs, self.device)
        parts = {} if condition is None else condition._asdict()
        given = {"noise": self._passes.noise(inputs.seeds, frames), **parts}
        return {
            name: one.expand(inputs.count, *one.shape[1:]).to(self.device)
            for name, one in given.items()
            if one is not None
        }

    def to_program(self, frames: int | None = None) -> torch.export.ExportedProgram:
        """Export the generator by torch.export, as PyTorch's own operations: the program runs without fastvgan.

        `program.module()(**generator.to_inputs("a red 3", seed=range(4)))` gives clips, uint8 (N, T, H, W, C).

        Args:
            frames: length in frames of the clips, for the recurrent family; the number of clips is free.

        Raises:
            UserError: the generator is in half precision, or does not make clips of this length.
        """
        if self.dtype != torch.float32:
            raise UserError(f"a generator in {self.dtype} cannot be exported; call float() first")
        return export_program(self.network, self.config, self._check_length(frames))

    def to_onnx(self, path: str | os.PathLike, frames: int | None = None) -> None:
        """Export the generator to an .onnx file, with its configuration as metadata.

        The inputs are those of `to_inputs`, as arrays; the output "clips" is uint8 (N, T, H, W, C).

        Args:
            path: file to write.
            frames: length in frames of the clips, for the recurrent family; the number of clips is free.

        Raises:
            UserError: the packages onnx and onnxscript are not installed, the generator is in half precision or does
                not make clips of this length, or the file cannot be written.
        """
        check_onnx()
        write_onnx(self.to_program(frames), self._public_config(), Path(path))

    def save_pretrained(self, folder: str | os.PathLike, name: str | None = None, license: str | None = None) -> None:
        """Write the generator to a folder that `fastvgan.from_pretrained` reads.

        It has the layout of huggingface_hub's PyTorchModelHubMixin: model.safetensors, config.json, and a model card,
        README.md. An existing model card is kept.

        Args:
            folder: created if it does not exist.
            name: the generator's name in its model card, such as "user/model"; by default the folder's name.
            license: identifier of the weights' licence on the Hub, such as "mit" or "cc-by-4.0".

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(folder)
        known = find_provenance(self.path, self.facts)
        provenance = known._replace(license=license or known.license)
        weights, config = self.network.state_dict(), self._public_config()
        count = sum(one.numel() for one in self.network.parameters())
        facts = CardFacts(name or folder.resolve().name, count, *provenance)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_pretrained(StoredGenerator(weights, config, folder, provenance.to_metadata()), fastvgan.__version__)
            if not (folder / CARD).exists():
                with replace_atomically(folder / CARD) as temporary:
                    temporary.write_text(model_card(config, facts), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror or error}; pass another folder") from error

    def push_to_hub(
        self,
        name: str,
        private: bool | None = None,
        license: str | None = None,
        message: str = "Upload a fastvgan generator",
        token: str | None = None,
    ) -> str:
        """Save the generator to a model repository on the Hugging Face Hub, and return its address.

        Args:
            name: "user/model"; created if it does not exist.
            private: whether a new repository is private; by default as the account's settings say.
            license: identifier of the weights' licence on the Hub, such as "mit".
            message: of the commit.
            token: by default the one that `hf auth login` stored.

        Raises:
            UserError: huggingface_hub is not installed, or the Hub refuses the upload.
        """
        import_hub("push_to_hub")  # before anything is written
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, name, license)
            return upload(Path(folder), name, private, message, token)

    def _public_config(self) -> ModelConfig:
        """Return the configuration without folders of this machine: of the text model, its folder's name alone."""
        if self.config.text_encoder is None:
            return self.config
        return self.config.model_copy(update={"text_encoder": Path(self.config.text_encoder).name})

    def _check_length(self, frames: int | None) -> int:
        frames = None if frames is None else whole_number("frames", frames, "the length of a clip ")
        if frames not in (None, self.config.frames) and self.config.family != "recurrent":
            raise UserError(
                f"a {self.config.family} model makes clips of {self.config.frames} frames only, not {frames}; "
                "train a recurrent model for other lengths"
            )
        return frames or self.config.frames

    def _check_memory(self, n: int, frames: int, batch_size: int) -> None:
        """Check that all clips and noise, and the largest features of one forward pass, fit into memory."""
        model = self.config
        largest = max(map_values(model))
        made_at_once = min(n, batch_size) * 4 * largest * frames // model.frames
        # Each noise value takes two 64-bit words while it is computed.
        of_each = frames * model.height * model.width * model.channels + 16 * self.network.noise_size(frames)
        check_memory(n * of_each + made_at_once, f"{n} clips of {frames} frames", "use fewer or shorter clips")


def _ends(
    a: str | SupportsIndex | None, b: str | SupportsIndex | None, text: str | None, seed: int | tuple[int, int]
) -> tuple[list[str] | str | None, list[int] | int]:
    """Return the sentences and the seeds of the two ends of an interpolation, or a single one for both."""
    seeds = list(seed) if isinstance(seed, tuple) else seed
    if a is None and b is None:
        return text, seeds
    if isinstance(a, str) and isinstance(b, str):
        if text is not None:
            raise UserError(f"text {text!r} was given beside two sentences; leave it out")
        return [a, b], seeds
    if isinstance(a, SupportsIndex) and isinstance(b, SupportsIndex):
        if seeds != 0:
            raise UserError(f"seed {seed!r} was given beside two seeds; leave it out")
        return text, [operator.index(a), operator.index(b)]
    raise UserError(f"cannot interpolate between {a!r} and {b!r}; pass two sentences, or two seeds")
