"""Inputs of generated clips: lists brought to one length, and the conditions that they describe."""

import contextlib
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

import torch

from fastvgan.data.media.image_input import ImageInput, fit_image, read_image
from fastvgan.errors import UserError
from fastvgan.files.pixels import to_float
from fastvgan.models import Condition, ModelConfig
from fastvgan.models.text.inputs import to_text_input

Texts: TypeAlias = str | Sequence[str]
"""One sentence, or one for each clip."""
Seeds: TypeAlias = SupportsIndex | Iterable[SupportsIndex]
"""One seed, or one for each clip, such as range(8)."""
Labels: TypeAlias = str | SupportsIndex | Sequence[str | SupportsIndex]
"""One class, by its name or number, or one for each clip."""
Images: TypeAlias = ImageInput | Sequence[ImageInput]
"""One picture, or one for each clip; an array or a tensor with four dimensions holds several."""


class Inputs:
    """Inputs of N clips; each is a list of N values, or of one that all clips share.

    Args:
        text: as `VideoGenerator.__call__` takes it, like the others.
        image: see there.
        label: see there.
        seed: see there.

    Attributes:
        count: the number of clips, N.

    Raises:
        UserError: a list is empty, or two lists differ in length.
    """

    def __init__(self, text: Texts | None, image: Images | None, label: Labels | None, seed: Seeds = 0):
        self.texts = None if text is None else _as_list("text", text, isinstance(text, str))
        self.labels = (
            None if label is None else _as_list("label", label, isinstance(label, str) or _is_one_number(label))
        )
        self.images = None if image is None else _as_list("image", image, _is_one_picture(image))
        self.seeds = [_seed(one) for one in _as_list("seed", seed, _is_one_number(seed))]
        lists = {"text": self.texts, "image": self.images, "label": self.labels, "seed": self.seeds}
        lengths = {name: len(values) for name, values in lists.items() if values is not None and len(values) != 1}
        if len(set(lengths.values())) > 1:
            (name, one), (other, two) = list(lengths.items())[:2]
            if one == two:
                other, two = next(item for item in lengths.items() if item[1] != one)
            raise UserError(f"{name} has {one} values and {other} has {two}; pass as many of each, or a single one")
        self.count = next(iter(lengths.values()), 1)

    def captions(self) -> list[str]:
        """Return a caption for each clip: its sentence or its class."""
        labels = (label.item() if hasattr(label, "item") else label for label in self.labels or [""])
        values = self.texts or [str(label) for label in labels]
        return values * self.count if len(values) == 1 else values


def encode_conditions(config: ModelConfig, inputs: Inputs, device: torch.device) -> Condition | None:
    """Return the conditions of clips, each part (N, ...) or, if all clips share it, (1, ...); None without conditions.

    Args:
        config: the model's configuration.
        inputs: the clips' inputs.
        device: where a pretrained text encoder runs.

    Raises:
        UserError: a condition is missing, not supported by the model, or invalid.
    """
    given = {"text": inputs.texts, "image": inputs.images, "class": inputs.labels}
    for name, value in given.items():
        parameter = "label" if name == "class" else name
        if value is None and name in config.condition:
            raise UserError(f"this model follows {name}: pass {parameter}")
        if value is not None and name not in config.condition:
            follows = " and ".join(config.condition) or "no condition"
            raise UserError(f"{parameter} was given, but this model follows {follows}; leave it out")
    if not config.condition:
        return None
    return Condition(
        text=None if inputs.texts is None else _encode_texts(config, inputs.texts, device),
        label=None if inputs.labels is None else torch.tensor([_class(config, label) for label in inputs.labels]),
        image=None if inputs.images is None else torch.cat([_frame(config, image) for image in inputs.images]),
    )


def _as_list(name: str, value: Any, is_one: bool) -> list:
    if is_one:
        return [value]
    if not isinstance(value, Iterable):
        raise UserError(f"{name} is a {type(value).__name__}, {value!r:.60}; pass one value or a list of them")
    values = list(value)
    if not values:
        raise UserError(f"{name} is an empty list; pass one value for each clip")
    return values


def _is_one_picture(image: Images) -> bool:
    return not isinstance(image, list | tuple) and getattr(image, "ndim", 3) != 4


def _is_one_number(value: Seeds | Labels) -> bool:
    # Arrays and tensors have __index__, whatever their number of values.
    return isinstance(value, SupportsIndex) and getattr(value, "ndim", 0) == 0


def _seed(seed: Any) -> int:
    try:
        return operator.index(seed)
    except TypeError as error:
        raise UserError(f"seed {seed!r} is no whole number; pass one, or a list or range of them") from error


def whole_number(name: str, value: Any, remark: str = "") -> int:
    """Return a parameter that must be a whole number of at least 1.

    Args:
        name: the parameter's name.
        value: what the user passed.
        remark: what it is, for the message.

    Raises:
        UserError: it is no whole number, or less than 1.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise UserError(f"{name} {value!r} is no whole number; pass one of at least 1") from error
    if number < 1:
        raise UserError(f"{name} {number}: {remark}must be at least 1")
    return number


def _encode_texts(config: ModelConfig, texts: Sequence[str], device: torch.device) -> torch.Tensor:
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"text has {text!r:.60}, a {type(text).__name__}; pass sentences")
    distinct = {text: to_text_input(config, text, device) for text in dict.fromkeys(texts)}
    return torch.cat([distinct[text] for text in texts])


def _class(config: ModelConfig, label: str | SupportsIndex) -> int:
    names = list(config.class_names)
    if isinstance(label, str):
        if label in names:
            return names.index(label)
    elif _is_one_number(label):
        with contextlib.suppress(TypeError):  # a tensor of a float has __index__, too
            if 0 <= (number := operator.index(label)) < len(names):
                return number
    raise UserError(f"unknown class {label!r}; the classes are {', '.join(names)}")


def _frame(config: ModelConfig, image: ImageInput) -> torch.Tensor:
    """Return an image as a frame (1, C, H, W) in [-1, 1] of the model's size."""
    frame = fit_image(read_image(image), config.height, config.width, config.channels)
    return to_float(frame[None, None], torch.device("cpu"))[:, :, 0]
