"""Settings that follow from the clips unless the user gives them: size, frames, channels, condition, preset."""

from collections.abc import Collection, Container
from typing import TYPE_CHECKING

from fastvgan.data.fitting import fit_frames, fit_size, fit_size_of_shards, median_size
from fastvgan.runs.config import RunConfig, TrainingConfig
from fastvgan.runs.presets import PRESETS

if TYPE_CHECKING:
    from fastvgan.data.clips import Listing
    from fastvgan.data.datasets import Examined

_SMALL, _LARGE = "clips", "clips-64"
_MOST_SMALL = 32  # longer side in pixels
# With fewer clips D learns them by heart: bench/few_clips.py measured what augmentation changes with 64 to 1,280 clips
# without a condition. With captions, which D compares with a clip, augmentation slowed two small sets down.
_FEW = 2000
_AUGMENT = ("color", "translation", "cutout")
_GREY = "gray8"  # codec of grey shards in prepare's manifest


def fit_settings(
    listing: "Listing", run: RunConfig, named: Container[str], on_cpu: bool
) -> tuple[RunConfig, list[str]]:
    """Choose a preset with the size, frames, channels and condition that suit a set of clips.

    Args:
        listing: the clips and their conditions.
        run: the settings so far.
        named: names of settings that the user gave, which stay unchanged.
        on_cpu: whether training runs on a CPU.

    Returns:
        The settings, and a sentence for each choice that may surprise the user.

    Raises:
        UserError: the clips are shards of a size that no model has.
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
        remarks.append(f"{_describe_sizes(sizes)}: training at --height {height} --width {width} by the preset {name}")
        # Counted by bench/step_cost.py: 5.5 times as much for 64x64 as for 32x32, 5.2 for 32x64 as for 16x32.
        if on_cpu and name == _LARGE and min(height, width) >= _MOST_SMALL and not is_decoded:
            halves = f"--height {height // 2} --width {width // 2}"
            remarks.append(f"on a CPU this is slow; {halves} needs about a fifth of the arithmetic per clip")
    elif name == _LARGE:
        remarks.append(f"training at --height {height} --width {width} by the preset {name}; --preset selects another")
    if frames < PRESETS[name].model.frames and "frames" not in named:
        remarks.append(f"half of the clips have fewer than {2 * frames} usable frames: training with --frames {frames}")
    if channels == 1 and "channels" not in named:
        remarks.append("the shards are grey: training with --channels 1")
    size = {"height": height, "width": width, "frames": frames, "channels": channels, "condition": listing.condition}
    augments = len(found) < _FEW and not listing.condition and "augment" not in named
    if augments:
        clips = "1 clip is" if len(found) == 1 else f"{len(found)} clips are"
        remarks.append(f"{clips} few: training with --augment {' '.join(_AUGMENT)}; --augment none turns it off")
    base = PRESETS[name]
    changed = {"augment": _AUGMENT} if augments else {}
    training = base.training.model_copy(update=changed | _enough_steps(name, run.training, len(found), named))
    return RunConfig(model=base.model.model_copy(update=size), training=training), remarks


def fit_preset(
    name: str, condition: tuple[str, ...], clips: int, run: RunConfig, named: Container[str]
) -> tuple[RunConfig, list[str]]:
    """Fit one of `FITTED`, which the user named, to a set of clips in what does not depend on their size.

    Args:
        name: the preset.
        condition: the condition that the clips have.
        clips: number of clips.
        run: the settings so far, from the preset.
        named: names of settings that the user gave, which stay unchanged.

    Returns:
        The settings, and a sentence if they differ from the preset's number of steps.
    """
    changed, remarks = _enough_steps(name, run.training, clips, named), []
    if changed and "steps" not in named:
        few = f"{run.training.epochs} epochs of {clips} clips are too few steps"
        remarks.append(f"{few}: training for --steps {changed['steps']}; --epochs {run.training.epochs} keeps them")
    model = run.model if "condition" in named else run.model.model_copy(update={"condition": condition})
    return run.model_copy(update={"model": model, "training": run.training.model_copy(update=changed)}), remarks


def fit_settings_to_shape(found: "Examined", run: RunConfig, named: Collection[str]) -> tuple[RunConfig, list[str]]:
    """Like `fit_settings`, for a set of clips of one size, which stays theirs."""
    from fastvgan.data.clips import Item, Listing
    from fastvgan.data.media.types import Media, Probe

    frames, height, width, _ = found.shape
    item = Item("", Media("frames", ""), Probe(frames, height, width, ""), (), None)
    sized = run.model_copy(update={"model": run.model.model_copy(update=found.shape._asdict())})
    listing = Listing([item] * found.size, [], run.model.condition if "condition" in named else found.condition)
    return fit_settings(listing, sized, {"height", "width", "frames", "channels"} | set(named), False)


def _enough_steps(name: str, given: TrainingConfig, clips: int, named: Container[str]) -> dict[str, int]:
    """Return the number of steps, as a change to the settings, if a preset's epochs are too few of a small set."""
    if name == _SMALL:
        return {}
    batch = given.batch_size if "batch_size" in named else PRESETS[name].training.batch_size
    steps = PRESETS[name].training.model_copy(update={"batch_size": batch}).count_steps(clips)
    least = PRESETS[_SMALL].training.steps
    return {"steps": least} if least is not None and steps < least and "epochs" not in named else {}


def _describe_sizes(sizes: list[tuple[int, int]]) -> str:
    height, width = median_size(sizes)
    of_all = "" if len(set(sizes)) == 1 else f", the median of {len(sizes)}"
    return f"clips are {width}x{height} (width x height{of_all})"
