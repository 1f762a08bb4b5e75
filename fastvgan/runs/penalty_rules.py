"""Which objectives, penalties and schedules go together."""

from typing import TYPE_CHECKING

from fastvgan.errors import UserError

if TYPE_CHECKING:
    from fastvgan.runs.config import TrainingConfig


def check_penalties(training: "TrainingConfig") -> None:
    """Refuse combinations of flags that no step can serve.

    Raises:
        UserError: the first such combination, with the flags to change.
    """
    _check_objective(training)
    _check_differences(training)
    _check_burn_in(training)


def _check_objective(training: "TrainingConfig") -> None:
    if training.objective == "wgan-gp" and not training.gp:
        raise UserError("--objective wgan-gp needs a gradient penalty, else D's loss has no bound; pass --gp 10")
    if training.objective == "relativistic" and (training.r1 or training.r2) and training.r1_every > 1:
        raise UserError(
            f"--objective relativistic has its penalties in every step, not every {training.r1_every} steps; pass "
            "--r1-every 1"
        )


def _check_differences(training: "TrainingConfig") -> None:
    if training.penalty == "exact":
        if training.penalty_scale is not None:
            raise UserError(
                f"--penalty-scale {training.penalty_scale:g} needs --penalty finite-difference; pass both or neither"
            )
        return
    if training.gp:
        raise UserError(
            "--penalty finite-difference estimates the squared norms of --r1 and --r2, not the norm of --gp; use "
            "--penalty exact, or --gp 0"
        )
    if training.precision == "tf32":
        raise UserError(
            "--penalty finite-difference needs the digits of float32, of which --precision tf32 drops some; use "
            "--precision bf16 or fp32, or --penalty exact"
        )
    if not (training.r1 or training.r2):
        raise UserError("--penalty finite-difference has no penalty to compute; pass --r1 or --r2, or --penalty exact")


def _check_burn_in(training: "TrainingConfig") -> None:
    named = {"--r1-final": training.r1_final, "--r2-final": training.r2_final, "--beta2-final": training.beta2_final}
    given = [f"{flag} {value:g}" for flag, value in named.items() if value is not None]
    if given and not training.burn_in:
        raise UserError(f"{given[0]} needs the share of the steps after which it is reached; pass --burn-in 0.5, say")
    if training.burn_in and not given:
        raise UserError(
            f"--burn-in {training.burn_in:g} changes nothing without --r1-final, --r2-final or --beta2-final; pass one "
            "of these, or --burn-in 0"
        )
    for name, weight, final in (("r1", training.r1, training.r1_final), ("r2", training.r2, training.r2_final)):
        if final is not None and not weight:
            raise UserError(f"--{name}-final {final:g} needs the weight to start from; pass --{name}, too")
