"""Settings that have no effect because of another one, such as a weight for captions without captions."""

from collections.abc import Callable, Collection

from fastvgan.errors import UserError
from fastvgan.runs.config import RunConfig

_CONDITION = "a --condition", lambda run: bool(run.model.condition)
_AUGMENT = "--augment", lambda run: bool(run.training.augment)
_RECURRENT = "--family recurrent", lambda run: run.model.family == "recurrent"
_CLIPS = "clips of your own (--data)", lambda run: run.data.data not in ("digits", "stacked-digits")
_PENALTY = "--r1 or --r2", lambda run: any(getattr(run.training, name) for name in ("r1", "r2", "r1_final", "r2_final"))

# What a setting needs, and whether a run has it.
_NEEDS: dict[str, tuple[str, Callable[[RunConfig], bool]]] = {
    "motion_latent": _RECURRENT,
    "warm_up": _RECURRENT,
    "time_margin": ("--family conv3d", lambda run: run.model.family == "conv3d"),
    "frame_every": (
        "--discriminators frame or difference",
        lambda run: not {"frame", "difference"}.isdisjoint(run.model.discriminators),
    ),
    "text_model": ("--condition text", lambda run: "text" in run.model.condition),
    "wrong_conditions": (
        "--condition text or class, and --matching-aware",
        lambda run: run.training.matching_aware and not {"text", "class"}.isdisjoint(run.model.condition),
    ),
    "contrast": _CONDITION,
    "diversity": _CONDITION,
    "feature_diversity": _CONDITION,
    "diversity_rise": (
        "--diversity or --feature-diversity",
        lambda run: bool(run.training.diversity or run.training.feature_diversity),
    ),
    "diversity_target": ("--diversity", lambda run: bool(run.training.diversity)),
    "first_frame": ("--condition image", lambda run: "image" in run.model.condition),
    "redraw": ("--warp", lambda run: run.model.warp),
    "augment_strength": _AUGMENT,
    "augment_clips": ("--augment-target", lambda run: run.training.augment_target is not None),
    "r1_every": _PENALTY,
    **dict.fromkeys(("stride", "max_stride", "crop", "max_bad", "tolerant", "root", "follow_links"), _CLIPS),
    "share_seed": ("--share", lambda run: run.data.share < 1),
    "hold_out_seed": ("--hold-out", lambda run: bool(run.data.hold_out)),
}


def check_length(run: RunConfig, named: Collection[str]) -> None:
    """Check that a user who named epochs did not name steps as well.

    Raises:
        UserError: both are named.
    """
    if "epochs" in named and run.training.steps is not None:
        raise UserError(f"--steps {run.training.steps} and --epochs {run.training.epochs} exclude each other; pass one")


def check_effects(run: RunConfig, named: Collection[str]) -> None:
    """Check that each setting that a user named has an effect; those of a preset may have none.

    Raises:
        UserError: a setting differs from its default and has no effect with the others.
    """
    check_length(run, named)
    for name in sorted(_NEEDS.keys() & set(named)):
        needed, has = _NEEDS[name]
        part = next(part for part in (run.model, run.data, run.training) if name in type(part).model_fields)
        value = getattr(part, name)
        if value != type(part).model_fields[name].default and not has(run):
            typed = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UserError(f"{typed} has no effect without {needed}; add that, or leave it out")
    free = run.data.captions == "free" and "text" in run.model.condition
    if free and run.training.feature_diversity and not {"captions", "feature_diversity"}.isdisjoint(named):
        raise UserError(
            "--feature-diversity compares clips of one caption, and --captions free words each clip's differently; use "
            "--captions fixed, or --feature-diversity 0"
        )
