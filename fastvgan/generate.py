"""Make videos with a trained generator: `python -m fastvgan.generate --text "a green 3 moving left and right"`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fastvgan.command_line import parse, run_command
from fastvgan.files.atomic import check_writable
from fastvgan.files.video_formats import check_format, check_sides
from fastvgan.machine.memory import check_memory
from fastvgan.runs.names import find_run
from fastvgan.settings import Seed, Settings

if TYPE_CHECKING:
    from fastvgan.models import ModelConfig


class Arguments(Settings):
    """Make videos with a trained generator: `python -m fastvgan.generate --text "a green 3 moving left and right"`."""

    run: Path | None = None
    """Run folder (its best generator, or the last one where none has a score), checkpoint folder (such as
    runs/digits-1/checkpoints/step-200) or exported .safetensors file; by default the newest run under runs/."""
    text: str | None = None
    """Caption, for a model that follows text; of words that were in the training captions, unless the model was trained
    with --text-encoder."""
    image: Path | None = None
    """First frame, for a model that follows one: an image file (PNG, JPEG, BMP, WebP, TIFF, PPM; the first frame of an
    animation), scaled and centre-cropped to the model's size."""
    label: str | None = None
    """Class, for a model that follows classes."""
    n: int = Field(4, ge=1, le=100_000)
    """How many videos, laid side by side in the file."""
    seed: Seed = 0
    """Seed of the noise; the same seed makes the same videos."""
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
    """File to write: .mp4, .gif, or .png for the frames side by side."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.generate", arguments)

    check_format(parsed.out, parsed.fps)
    run = find_run(parsed.run)
    check_writable(parsed.out)
    image = None
    if parsed.image is not None:
        from fastvgan.data.media.image_input import read_image

        image = read_image(parsed.image)

    from fastvgan.files.video import enlarge, grid, strip_grid, write_still, write_video
    from fastvgan.generation.loading import load
    from fastvgan.machine.device import pick_device, pick_implementations

    pick_implementations()
    generator = load(run, pick_device(parsed.device), parsed.text_encoder)
    _check_size(parsed, generator.config)
    videos = generator.generate(
        text=parsed.text, image=image, label=parsed.label, n=parsed.n, seed=parsed.seed, frames=parsed.frames
    )
    if parsed.out.suffix.lower() == ".png":
        write_still(parsed.out, strip_grid(videos, scale=parsed.scale))
    elif len(videos) == 1:
        write_video(parsed.out, enlarge(videos[0], parsed.scale), parsed.fps)
    else:
        write_video(parsed.out, grid(videos, scale=parsed.scale), parsed.fps)
    print(f"{parsed.out}: {len(videos)} of {generator.path}")


def _check_size(parsed: Arguments, model: "ModelConfig") -> None:
    """Refuse pictures too large for the file or for memory, before clips are made."""
    from fastvgan.files.video import grid_size, strip_size

    frames = parsed.frames or model.frames
    shape = parsed.n, frames, model.height, model.width
    if parsed.out.suffix.lower() == ".png":
        frames, (height, width) = 1, strip_size(*shape, scale=parsed.scale)
    else:
        height, width = grid_size(*shape, scale=parsed.scale)
    check_sides(parsed.out, frames, height, width)
    # The enlarged clips and the grid of them, with three bytes per pixel.
    check_memory(
        2 * 3 * frames * height * width,
        f"{parsed.out} of {frames} frames of {height}x{width} pixels",
        "use a smaller --n, --frames or --scale",
    )


if __name__ == "__main__":
    run_command(main)
