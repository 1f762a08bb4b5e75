"""Settings by name, as `--preset` takes them."""

from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import DataConfig, RunConfig, TrainingConfig
from fastvgan.settings import Settings

# For the digits: the discriminator of frames, which has deeper layers, learns their shapes from half of the frames and
# several wrong captions per clip; G has refinement layers; many small steps work better than fewer large ones. A digit
# that is drawn once and moved keeps its shape. Without the clock every clip of a caption starts with its
# digit at the same place; without the diversity term all digits of a caption come out alike.
_DIGITS = ModelConfig(discriminators=("clip", "frame"), frame_every=2, refine=2, warp=True, clock=True)
_DIGITS_TRAINING = TrainingConfig(
    steps=2000,
    batch_size=32,
    wrong_conditions=16,
    contrast=3.0,
    diversity=20.0,
    diversity_rise=0.3,
    redraw=30.0,
    lr_generator=4e-4,
    lr_discriminator=4e-4,
    lr_decay=0.4,
    checkpoint_every=250,
    sample_every=250,
    evaluate_every=500,
)
_HELD_OUT = DataConfig(hold_out=0.1)
# Nothing about a digit is new in a frame, so all of the noise is content.
_RECURRENT = _DIGITS.model_copy(update={"family": "recurrent", "base_width": 32, "motion_latent": 0, "warm_up": 2})
_RECURRENT_DIGITS = RunConfig(model=_RECURRENT, data=_HELD_OUT, training=_DIGITS_TRAINING)


def _change(base: RunConfig, model: dict | None = None, training: dict | None = None, **parts: Settings) -> RunConfig:
    """Return a configuration with changed values in its model and training parts, or with other parts."""
    parts |= {"model": base.model.model_copy(update=model or {})}
    parts |= {"training": base.training.model_copy(update=training or {})}
    return base.model_copy(update=parts)


PRESETS: dict[str, RunConfig] = {
    "digits": _RECURRENT_DIGITS,
    "digits-recurrent": _RECURRENT_DIGITS,
    "digits-conv3d": RunConfig(model=_DIGITS, data=_HELD_OUT, training=_DIGITS_TRAINING),
    # The first frame determines everything but the motion, so clips with one first frame differ in that only.
    "digits-image": _change(
        _RECURRENT_DIGITS,
        model={"condition": ("image",), "clock": False},
        training={"steps": 1000, "diversity": 5.0, "first_frame": 20.0},
        data=DataConfig(),
    ),
    # A class leaves colour and motion open. Without this term each digit gets a single one of each.
    "digits-class": _change(
        _RECURRENT_DIGITS,
        model={"condition": ("class",)},
        training={"feature_diversity": 10.0, "diversity_rise": 0.0},
        data=DataConfig(),
    ),
    "digits-64": _change(_RECURRENT_DIGITS, model={"height": 64, "width": 64}, training={"steps": 10000}),
    # Twice the usual learning rates, settling at the end, and an average of a shorter memory. The first and last frame
    # get as much context as the others, no checkerboard is left, and D sees contrast: docs/explanation/real-video.md.
    "clips": RunConfig(
        model=ModelConfig(upsampling="resize", time_margin=True, d_bias=True),
        training=TrainingConfig(
            steps=1500, lr_generator=4e-4, lr_discriminator=4e-4, lr_decay=0.4, ema=0.98, diversity=10.0
        ),
    ),
    "clips-128": RunConfig(
        model=ModelConfig(
            condition=(), height=128, width=128, base_width=32, upsampling="resize", time_margin=True, d_bias=True
        ),
        training=TrainingConfig(batch_size=16, ema=0.999, sample_every=500, checkpoint_every=500),
    ),
    "stacked-digits": RunConfig(
        model=ModelConfig(condition=(), frames=4),
        data=DataConfig(data="stacked-digits"),
        training=TrainingConfig(matching_aware=False, steps=2000),
    ),
    "reference": RunConfig(
        model=ModelConfig(condition=(), base_width=128), training=TrainingConfig(matching_aware=False, epochs=100)
    ),
    "clips-64": RunConfig(
        model=ModelConfig(condition=(), height=64, width=64, upsampling="resize", time_margin=True, d_bias=True),
        training=TrainingConfig(batch_size=32, ema=0.999, sample_every=500, checkpoint_every=500),
    ),
}

FITTED = ("clips", "clips-64", "clips-128")
"""Presets for own clips, which decide the condition, and the number of steps if they are few."""


def preset(name: str) -> RunConfig:
    """Return a preset by name.

    Raises:
        UserError: no preset has that name.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


_CHOSEN = ("family", "condition", "height", "width")  # what the presets for the digits were tuned for


def suggest_preset(run: RunConfig) -> tuple[str, ...]:
    """Name the preset that was tuned for a run on the digits, in one sentence or none.

    Args:
        run: settings that the user chose without a preset, so that the others are those of the preset digits.
    """
    default = PRESETS["digits"].model
    for name in ("digits-conv3d", "digits-image", "digits-class", "digits-64"):
        model = PRESETS[name].model
        chosen = [key for key in _CHOSEN if getattr(run.model, key) != getattr(default, key)]
        is_same = all(getattr(run.model, key) == getattr(model, key) for key in _CHOSEN)
        if run.data.data == "digits" and chosen and is_same:
            values = {key: getattr(model, key) for key in chosen}
            flags = " ".join(f"--{key} {value[0] if key == 'condition' else value}" for key, value in values.items())
            return (f"--preset {name} was tuned for {flags}; without it other settings are those of --preset digits",)
    return ()
