"""Make videos with a trained generator: `fastvgan generate --text "a green 3 moving left and right"`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fastvgan.command_line import parse, run_command
from fastvgan.errors import UserError
from fastvgan.files.atomic import check_writable
from fastvgan.files.video_formats import check_format
from fastvgan.generation.shipped import find_generator, find_shipped_name
from fastvgan.settings import MOST_CLIPS, Settings, expand_seeds

if TYPE_CHECKING:
    from fastvgan.data.media.image_input import ImageInput
    from fastvgan.generation.generator import VideoGenerator
    from fastvgan.generation.videos import Videos
    from fastvgan.models import ModelConfig

_COUNT = 4  # clips of one sentence and seed


class Arguments(Settings):
    """Make videos with a trained generator.

    Without a run under runs/, the generator `digits`, which ships with fastvgan, makes them:
    --text "a green 3 moving left and right".
    """

    run: Path | None = None
    """Run folder (its best generator, or the last one where none has a score), checkpoint folder (such as
    runs/digits-1/checkpoints/step-200), exported .safetensors file, `digits`, which ships with fastvgan, or USER/MODEL
    of the Hugging Face Hub; by default the newest run under runs/, or `digits` without one."""
    text: tuple[str, ...] | None = None
    """One or more captions, each in quotes, for a model that follows text; of words that were in the training captions,
    unless the model was trained with --text-encoder. Several captions take one row each; --text may be repeated."""
    image: Path | None = None
    """First frame, for a model that follows one: an image file (PNG, JPEG, BMP, WebP, TIFF, PPM; the first frame of an
    animation), scaled and centre-cropped to the model's size."""
    label: str | None = None
    """Class, for a model that follows classes."""
    n: int | None = Field(None, ge=1, le=MOST_CLIPS)
    """How many videos of each caption and seed, laid side by side in the file; by default 4, or 1 for
    several seeds."""
    seed: tuple[str, ...] = ("0",)
    """Seeds of the noise, as numbers or ranges such as 0-7; the same seed makes the same videos."""
    frames: int | None = Field(None, ge=1, le=10_000)
    """Length in frames (recurrent family; by default the training length)."""
    fps: float = Field(8, ge=0.01, le=1000)
    """Frames per second of .mp4 and .gif; at most 50 for .gif, since viewers slow down faster ones."""
    scale: int = Field(0, ge=0, le=64)
    """Factor by which pixels are enlarged; 0 enlarges small videos so that they are easy to see."""
    text_encoder: Path | None = None
    """Folder of the text model that the run was trained with, if it has moved since."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to make them."""
    out: Path = Path("generated.gif")
    """File to write: .mp4, .gif, or .png for up to 16 of the frames, evenly spaced, side by side."""

    @field_validator("seed")
    @classmethod
    def _check_seeds(cls, seed: tuple[str, ...]) -> tuple[str, ...]:
        expand_seeds(seed)
        return seed

    @property
    def seeds(self) -> list[int]:
        """The seeds that --seed names."""
        return expand_seeds(self.seed)

    @property
    def per_caption(self) -> int:
        """The number of videos of each caption."""
        count = self.n or (_COUNT if len(self.seeds) == 1 else 1)
        return count * len(self.seeds)

    @property
    def count(self) -> int:
        """The number of videos."""
        return self.per_caption * len(self.text or [None])


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.generate", arguments)

    check_format(parsed.out, parsed.fps)
    _check_count(parsed)
    run = find_generator(parsed.run)
    check_writable(parsed.out)
    image = None
    if parsed.image is not None:
        from fastvgan.data.media.image_input import read_image

        image = read_image(parsed.image)

    from fastvgan.generation.loading import load
    from fastvgan.machine.device import check_preference, pick_device

    check_preference()
    shipped = find_shipped_name(run)
    if parsed.run is None and shipped is not None:
        print(f"runs/ holds no run; using `{shipped}`, which ships with fastvgan", file=sys.stderr)
    generator = load(run, pick_device(parsed.device), parsed.text_encoder)
    _check_text(parsed, generator.config)
    _check_size(parsed, generator.config)
    videos = _generate(parsed, generator, image)
    videos.save(parsed.out, parsed.fps, parsed.scale, _columns(parsed))
    print(f"{parsed.out}: {len(videos)} of {shipped or generator.path}")


def _check_count(parsed: Arguments) -> None:
    if parsed.count > MOST_CLIPS:
        raise UserError(
            f"{parsed.count:,} videos: at most {MOST_CLIPS:,} can be made at once; pass fewer captions or seeds"
        )


def _check_text(parsed: Arguments, model: "ModelConfig") -> None:
    """Refuse captions that the model does not know before clips are made; say how they look if they are missing."""
    if "text" not in model.condition:
        return  # `generate` refuses a caption
    if parsed.text is None:
        from fastvgan.data.digits.words import describe_captions

        words = describe_captions(model.vocabulary)
        raise UserError(f"this model follows text: pass --text{f'; {words}' if words else ''}")
    from fastvgan.models.text.inputs import check_caption

    try:
        for caption in parsed.text:
            check_caption(model, caption)
    except UserError as error:
        if len(parsed.text) > 1 and not any(" " in caption for caption in parsed.text):
            raise UserError(f'{error}; put quotes around a caption of several words: --text "…"') from error
        raise


def _generate(parsed: Arguments, generator: "VideoGenerator", image: "ImageInput | None") -> "Videos":
    """Return the clips: of the first caption and seed, of its next seed, and so on."""
    import torch

    from fastvgan.generation.videos import Videos

    seeds = parsed.seeds
    made = [
        generator.generate(
            text=caption,
            image=image,
            label=parsed.label,
            n=parsed.per_caption // len(seeds),
            seed=seed,
            frames=parsed.frames,
        )
        for caption in parsed.text or [None]
        for seed in seeds
    ]
    return Videos(torch.cat(made))


def _columns(parsed: Arguments) -> int | None:
    """Return the number of clips per row; None for about as many as rows."""
    return parsed.per_caption if parsed.text is not None and len(parsed.text) > 1 else None


def _check_size(parsed: Arguments, model: "ModelConfig") -> None:
    """Refuse pictures too large for the file or for memory, before clips are made."""
    from fastvgan.files.video import check_written_size

    shape = (parsed.count, parsed.frames or model.frames, model.height, model.width)
    check_written_size(parsed.out, shape, _columns(parsed), parsed.scale)


if __name__ == "__main__":
    run_command(main)
