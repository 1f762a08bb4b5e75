"""What defines a network."""

from typing import Annotated, Literal

import tyro
from pydantic import Field, field_validator, model_validator

from fastvgan.errors import UserError
from fastvgan.settings import Settings

SIDES = (16, 32, 64, 128)  # that a clip's height and width may have
ConditionName = Literal["text", "class", "image", "none"]
DiscriminatorName = Literal["clip", "frame", "difference"]
# What the model learns from the data is no flag.
Hidden = tyro.conf.Suppress


class ModelConfig(Settings):
    """The network's family and sizes."""

    family: Literal["conv3d", "recurrent"] = "conv3d"
    """3D convolutions, or a ConvLSTM over frames."""
    condition: tuple[ConditionName, ...] = ("text",)
    """What the clip follows: text, class, image (its first frame), several of them, or none; by default what --data
    has (without --preset, --config and a run to resume, as for the next four)."""
    frames: int = Field(16, ge=4, le=64)
    """Frames in a clip, 4 to 64; by default 16, or fewer where most clips of --data are shorter."""
    height: int = 16
    """Height in pixels, a power of two from 16 to 128; by default as the clips of --data are, up to 64."""
    width: int = 16
    """Width in pixels, likewise."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour; by default those of --data's shards."""
    latent: int = Field(100, ge=2, le=65536)
    """How many noise values drive a clip (recurrent family: each frame)."""
    motion_latent: int | None = Field(None, ge=0)
    """Of these, how many are new in every frame (recurrent family; by default half of them)."""
    warm_up: int = Field(0, ge=0, le=1000)
    """Steps of G's ConvLSTM before the first frame, which comes out worse than others without (recurrent family)."""
    clock: bool = False
    """Give G the time at which a clip starts, at random, and in the recurrent family that of each frame, so that clips
    start at any phase of a motion, which repeats itself after a clip's time."""
    refine: int = Field(0, ge=0, le=64)
    """Convolutions of 3x3 before the first and behind each layer of G but the last, which sharpen shapes."""
    warp: bool = False
    """G draws one picture (or takes the first frame that it is given), moves it along a smooth path, and draws only
    what is new in a frame."""
    discriminators: tuple[DiscriminatorName, ...] = ("clip",)
    """What judges a clip: `clip` as a whole, each `frame` on its own, each `difference` of neighbouring frames, or
    several of these, each with a loss of its own."""
    frame_every: int = Field(1, ge=1, le=64)
    """The discriminators of frames and differences look at every so many of them, at others in the next clip, but at
    two frames and one difference of each clip at least."""
    base_width: int = Field(64, ge=1, le=65536)
    """Feature maps beside the clip itself; they double with each halving of the size, up to 8 times."""
    vocabulary: Annotated[tuple[str, ...], Hidden] = ()
    """Words of the training captions; filled in from the data."""
    caption_length: Annotated[int, Hidden] = Field(0, ge=0, le=1024)
    """Words in the longest training caption; filled in from the data."""
    class_names: Annotated[tuple[str, ...], Hidden] = ()
    """Classes of the training data; filled in from the data."""

    @field_validator("height", "width")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value not in SIDES:
            raise ValueError("must be a power of two from 16 to 128")
        return value

    @field_validator("condition")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parts = tuple(sorted(part for part in value if part != "none"))
        if len(set(parts)) < len(parts) or (parts and "none" in value):
            raise ValueError("names each part once, or none alone")
        return parts

    @field_validator("discriminators")
    @classmethod
    def _some_and_each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("names one or more, each once")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _motion_is_a_part(self):
        if self.motion_latent is not None and self.motion_latent > self.latent:
            raise UserError(f"--motion-latent {self.motion_latent} is more than --latent {self.latent} has")
        return self

    @property
    def vocabulary_size(self) -> int:
        """Word indices in use: the words, padding and unknown."""
        return len(self.vocabulary) + 2

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)
