"""Settings that the clips decide where the user names none: size, frames, channels, condition, and the preset."""

from collections.abc import Container
from typing import TYPE_CHECKING

from fastvgan.data.fitting import fit_frames, fit_size, fit_size_of_shards, median_size
from fastvgan.runs.config import PRESETS, RunConfig, TrainingConfig

if TYPE_CHECKING:
    from fastvgan.data.clips import Listing

_SMALL, _LARGE = "clips", "clips-64"
_MOST_SMALL = 32  # pixels of the longer side
_GREY = "gray8"  # what prepare calls the codec of grey shards


def fit_settings(
    listing: "Listing", run: RunConfig, named: Container[str], on_cpu: bool
) -> tuple[RunConfig, list[str]]:
    """A preset with the size, frames, channels and condition that suit a set of clips.

    Args:
        listing: the clips, with what a model of them follows. run: the settings so far. named: the names of those that
            the user gave, which stay as they are. on_cpu: whether it is to be trained on a CPU.

    Returns:
        The settings, and a sentence for each thing that the user might not expect.

    Raises:
        UserError: the clips are shards that were made for no size that a model has.
    """
    found, model = [item.found for item in listing.items], run.model
    is_decoded = listing.items[0].media.kind == "shard"
    sizes = [(clip.height, clip.width) for clip in found]
    settled = [getattr(model, side) if side in named else None for side in ("height", "width")]
    height, width = (fit_size_of_shards if is_decoded else fit_size)(sizes, *settled)
    name = _SMALL if max(height, width) <= _MOST_SMALL else _LARGE
    frames = model.frames if "frames" in named else fit_frames([clip.frames for clip in found], run.data.stride)
    channels = 1 if is_decoded and found[0].codec == _GREY else 3
    remarks = []
    if None in settled:
        remarks.append(f"{_shown(sizes)}: training at --height {height} --width {width} by the preset {name}")
        # Counted by bench/step_cost.py: 5.6 times as much for 64x64 as for 32x32, 5.3 for 32x64 as for 16x32.
        if on_cpu and name == _LARGE and min(height, width) >= _MOST_SMALL and not is_decoded:
            halves = f"--height {height // 2} --width {width // 2}"
            remarks.append(f"on a CPU that takes long; {halves} takes about a fifth of the arithmetic for each clip")
    elif name == _LARGE:
        remarks.append(f"training at --height {height} --width {width} by the preset {name}; --preset names another")
    if frames < PRESETS[name].model.frames and "frames" not in named:
        remarks.append(f"half of the clips have fewer than {2 * frames} frames to take: training on --frames {frames}")
    if channels == 1 and "channels" not in named:
        remarks.append("the shards are grey: training with --channels 1")
    size = {"height": height, "width": width, "frames": frames, "channels": channels, "condition": listing.condition}
    base = PRESETS[name]
    training = base.training.model_copy(update=_more_training(name, run.training, len(found), named))
    return RunConfig(model=base.model.model_copy(update=size), training=training), remarks


def _more_training(name: str, given: TrainingConfig, clips: int, named: Container[str]) -> dict:
    """What the preset's training lacks where it was chosen for the user."""
    if name == _SMALL:
        return {}
    changed = {"matching_aware": True}  # it was made without a condition, and these clips may have one
    batch = given.batch_size if "batch_size" in named else PRESETS[name].training.batch_size
    steps = PRESETS[name].training.model_copy(update={"batch_size": batch}).count_steps(clips)
    least = PRESETS[_SMALL].training.steps
    if steps < least and "epochs" not in named:  # its epochs are too few for a small set
        changed["steps"] = least
    return changed


def _shown(sizes: list[tuple[int, int]]) -> str:
    height, width = median_size(sizes)
    of_all = "" if len(set(sizes)) == 1 else f", the median of {len(sizes)}"
    return f"clips are {width}x{height} (width x height{of_all})"
