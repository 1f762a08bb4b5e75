"""The flag --deterministic: deterministic operations of PyTorch, and a report of the tensors that still differ."""

import logging
import os
import re
import warnings
from collections.abc import Callable

import torch

from fastvgan.runs.config import TrainingConfig
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.tensors import tensors_of

logger = logging.getLogger("fastvgan")

_FIRST = 2  # the step to compare: both optimisers have their moments by then
_ALERT = re.compile(r"^(\S+) does not have a deterministic implementation")  # torch's warning


def ask_for_determinism() -> None:
    """Use deterministic operations in this process where PyTorch has them, and warn elsewhere."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  a property of the module
    torch.backends.cudnn.benchmark = False


def is_compared(number: int, training: TrainingConfig) -> bool:
    """Whether step `number` runs twice: true for one early step, and for the next one with R1 or R2."""
    every = training.r1_every
    return number == _FIRST or (training.r1 + training.r2 > 0 and number == every * -(-(_FIRST + 1) // every))


def compare_two_runs(step: AdversarialStep, run: Callable[[], None]) -> tuple[list[str], list[str]]:
    """Run a step twice from the same state, and leave the state as after one run.

    Args:
        step: the step whose state is compared.
        run: runs the step, on the same batch and from the same seed each time.

    Returns:
        Names of the tensors that differ (see `tensors_of`), and of the operations that PyTorch warns about.
    """
    tensors = {**tensors_of(step), "totals": step.totals}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
        first = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(before[name])
        run()
    differing = [name for name, tensor in tensors.items() if not _is_same(tensor, first[name])]
    alerts = (_ALERT.match(str(warning.message)) for warning in caught)
    return differing, sorted({alert[1] for alert in alerts if alert})


def log_comparison(number: int, device: torch.device, differing: list[str], operations: list[str]) -> None:
    """Log the result of `compare_two_runs` for step `number`."""
    for operation in operations:
        logger.warning("--deterministic: PyTorch has no deterministic %s on %s", operation, device)
    where = f"step {number + 1}, run twice from the same state on {device},"
    if differing:
        names = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
        logger.warning(
            "--deterministic: %s differs in %d tensors (%s); runs will differ in their last bits",
            *(where, len(differing), names),
        )
    else:
        logger.info("--deterministic: %s is bitwise reproducible", where)


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
