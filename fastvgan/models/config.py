"""The configuration of a network."""

from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, field_validator, model_validator

from fastvgan.errors import UserError
from fastvgan.settings import Settings

SIDES = (16, 32, 64, 128)  # heights and widths of clips
MOST_WORDS = 32  # of a caption
ConditionName = Literal["text", "class", "image", "none"]
DiscriminatorName = Literal["clip", "frame", "difference"]
# Fields that are filled in from the data have no flag.
Hidden = tyro.conf.Suppress


class ModelConfig(Settings):
    """The network's family and sizes."""

    family: Literal["conv3d", "recurrent"] = "conv3d"
    """3D convolutions, or a ConvLSTM over frames."""
    condition: tuple[ConditionName, ...] = ("text",)
    """Conditions of a clip: text, class, image (its first frame), several of these, or none. Default: those that --data
    has. This and the next four take defaults from --data only without --preset, --config and a run to resume."""
    frames: int = Field(16, ge=4, le=64)
    """Frames per clip, 4 to 64. Default: 16, or fewer if most clips of --data are shorter."""
    height: int = 16
    """Height in pixels, a power of two from 16 to 128. Default: the height of the clips of --data, up to 64."""
    width: int = 16
    """Width in pixels, a power of two from 16 to 128. Default: the width of the clips of --data, up to 64."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour. Default: the channels of --data's shards."""
    latent: int = Field(100, ge=2, le=65536)
    """Noise values per clip (recurrent family: per frame)."""
    motion_latent: int | None = Field(None, ge=0)
    """Noise values that are new in every frame (recurrent family). Default: half of --latent."""
    warm_up: int = Field(0, ge=0, le=1000)
    """Steps of G's ConvLSTM before the first frame, which is worse than the other frames without them (recurrent
    family)."""
    clock: bool = False
    """Give G a random start time for each clip, and in the recurrent family the time of each frame, so that clips start
    at any phase of a motion. Motions repeat after the duration of a clip."""
    upsampling: Literal["transposed", "resize"] = "transposed"
    """How G doubles sizes: by free transposed convolutions, or by transposed convolutions that are kept equal to
    nearest-neighbour upsampling and a convolution (`resize`), which leave no checkerboard and cost the same."""
    time_margin: bool = False
    """Feature maps have one more frame on each side, so that the first and last frame of a clip have as much context in
    G, and as much influence on D, as the others. Around a clip D sees copies of these two frames (3D family)."""
    refine: int = Field(0, ge=0, le=64)
    """3x3 convolutions before G's first layer and after each of its layers but the last; they sharpen shapes."""
    warp: bool = False
    """G draws one picture (or uses the given first frame), moves it along a smooth path, and draws only the new parts
    of each frame."""
    discriminators: tuple[DiscriminatorName, ...] = ("clip",)
    """Discriminators, each with its own loss: of the whole `clip`, of each `frame`, of each `difference` of
    neighbouring frames."""
    frame_every: int = Field(1, ge=1, le=64)
    """The discriminators of frames and differences see every n-th of them, starting at another one in the next clip,
    but at least two frames and one difference per clip. N clips of a batch together show all of them, or 2N if N does
    not divide their number."""
    d_norm: Literal["batch", "none", "group", "spectral"] = "batch"
    """Normalisation in the discriminators: of the `batch`, of each clip in channel `group`s, of the weights by their
    `spectral` norm, or `none`. With all but `batch` a clip's logits do not depend on the other clips."""
    d_blocks: int = Field(0, ge=0, le=64)
    """Residual blocks of two 3x3(x3) convolutions after each strided layer of the discriminators; a block starts as the
    identity. Needs a --d-norm other than batch."""
    d_bias: bool = False
    """A bias in the first layer of the clip discriminator, or of the others if there is no such one, which in a quarter
    of the units starts at values from -1 to 1. Without it a discriminator with batch or group norms does not see
    contrast, and G's colours can stay pale."""
    base_width: int = Field(64, ge=1, le=65536)
    """Feature maps of the layer next to the clip; they double each time the size is halved, up to 8 times this."""
    text_model: Literal["words", "sequence"] = "words"
    """How captions are read: `words` has separate weights for each position in a caption and learns captions of one
    form in few steps; `sequence` reads free word order, and captions of up to 32 words."""
    text_encoder: str | None = None
    """Folder of a CLIP or sentence model of the transformers library, which reads captions instead: frozen, so that
    words outside of the training captions have a meaning, too. Needs the extra `text`."""
    vocabulary: Annotated[tuple[str, ...], Hidden] = ()
    """Words of the training captions; filled in from the data."""
    caption_length: Annotated[int, Hidden] = Field(0, ge=0, le=1024)
    """Words in the longest training caption; filled in from the data."""
    class_names: Annotated[tuple[str, ...], Hidden] = ()
    """Classes of the training data; filled in from the data."""
    text_width: Annotated[int, Hidden] = Field(0, ge=0, le=65536)
    """Length of the text encoder's embeddings; filled in from its folder."""
    text_fingerprint: Annotated[str, Hidden] = ""
    """Checksum of the text encoder's files; filled in from its folder."""

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
    def _at_least_one_and_each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("names one or more, each once")
        return tuple(sorted(value))

    @model_validator(mode="after")
    def _motion_within_latent(self) -> Self:
        if self.motion_latent is not None and self.motion_latent > self.latent:
            raise UserError(f"--motion-latent {self.motion_latent} is more than --latent {self.latent}")
        return self

    @model_validator(mode="after")
    def _no_blocks_with_batch_norm(self) -> Self:
        if self.d_blocks and self.d_norm == "batch":
            raise UserError(f"--d-blocks {self.d_blocks} needs --d-norm none, group or spectral; or use --d-blocks 0")
        return self

    @model_validator(mode="after")
    def _one_reader_of_text(self) -> Self:
        if self.text_encoder is not None and self.text_model != "words":
            raise UserError(f"--text-encoder and --text-model {self.text_model} exclude each other; pass one of them")
        return self

    @property
    def longest_text(self) -> int:
        """The most words of a caption; of a longer one the first of them are read."""
        return MOST_WORDS if self.text_model == "sequence" else self.caption_length

    @property
    def vocabulary_size(self) -> int:
        """The number of word indices: the words, padding and unknown."""
        return len(self.vocabulary) + 2

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)
