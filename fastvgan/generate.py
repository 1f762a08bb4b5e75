"""Make videos with a trained generator: `python -m fastvgan.generate --text "a green 3 moving left and right"`."""

from pathlib import Path
from typing import Literal

import tyro
from pydantic import Field

from fastvgan.errors import UserError, run_command
from fastvgan.settings import Settings


class Arguments(Settings):
    """Make videos with a trained generator."""

    run: Path | None = None
    """Run folder (its best generator, or the last one where none has a score), checkpoint folder (such as
    runs/digits-1/checkpoints/step-200) or exported .safetensors file; by default the newest run under runs/."""
    text: str | None = None
    """Caption, for a model that follows text; of words that were in the training captions."""
    image: Path | None = None
    """First frame, for a model that follows one."""
    label: str | None = None
    """Class, for a model that follows classes."""
    n: int = Field(4, ge=1)
    """How many videos, laid side by side in the file."""
    seed: int = Field(0, ge=0)
    """Of the noise; the same seed gives the same videos."""
    frames: int | None = Field(None, ge=1)
    """Length in frames (recurrent family; by default the training length)."""
    fps: float = Field(8, gt=0)
    """Frames a second of .mp4 and .gif."""
    scale: int = Field(0, ge=0)
    """Pixels a side for each pixel made; 0 enlarges small videos enough to be seen, 1 leaves them as they are."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to make them."""
    out: Path = Path("generated.gif")
    """File to write: .mp4, .gif, or .png for the frames side by side."""


def main(arguments: list[str] | None = None) -> None:
    parsed, unknown = tyro.cli(
        Arguments, prog="python -m fastvgan.generate", description=__doc__, args=arguments, return_unknown_args=True
    )
    if unknown:
        raise UserError(f"there is no flag {unknown[0]}; --help lists them")

    from fastvgan.export import load
    from fastvgan.training.device import pick_device, pick_implementations
    from fastvgan.training.run_folder import newest_run
    from fastvgan.video import enlarge, grid, strip_grid, write_still, write_video

    pick_implementations()
    run = parsed.run or newest_run()
    if run is None:
        raise UserError("there is no run under runs/; train one by `python -m fastvgan.train`, or name one by --run")
    generator = load(run, pick_device(parsed.device))
    videos = generator.generate(
        text=parsed.text, image=parsed.image, label=parsed.label, n=parsed.n, seed=parsed.seed, frames=parsed.frames
    )
    if parsed.out.suffix.lower() == ".png":
        write_still(parsed.out, strip_grid(videos, scale=parsed.scale))
    elif len(videos) == 1:
        write_video(parsed.out, enlarge(videos[0], parsed.scale), parsed.fps)
    else:
        write_video(parsed.out, grid(videos, scale=parsed.scale), parsed.fps)
    print(f"{parsed.out}: {len(videos)} of {generator.path}")


if __name__ == "__main__":
    run_command(main)
