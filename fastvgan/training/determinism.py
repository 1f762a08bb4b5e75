"""What --deterministic does: ask PyTorch for operations that repeat to the bit, and say which tensors do not."""

import logging
import os
import re
import warnings
from collections.abc import Callable

import torch

from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.tensors import tensors_of

logger = logging.getLogger("fastvgan")

_FIRST = 2  # the step that is compared: both optimisers have their moments by then
_ALERT = re.compile(r"^(\S+) does not have a deterministic implementation")  # torch's, of operations it knows of


def ask_for_determinism() -> None:
    """Have this process take deterministic operations where PyTorch has them, and warn where it does not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats with this alone
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


def is_compared(number: int, r1: float, r1_every: int) -> bool:
    """Whether step `number` is run twice: one early step, and the next one with the gradient penalty."""
    return number == _FIRST or (r1 > 0 and number == r1_every * -(-(_FIRST + 1) // r1_every))


def compare_two_runs(step: AdversarialStep, run: Callable[[], None]) -> tuple[list[str], list[str]]:
    """Run a step twice from the same state, which ends as after one run.

    Args:
        step: whose state is compared. run: the step, on the same batch and from the same seed each time.

    Returns:
        The names of the tensors that differ (see `tensors_of`), and of the operations that PyTorch warns of.
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


def tell(number: int, device: torch.device, differing: list[str], operations: list[str]) -> None:
    """Log what `compare_two_runs` found of step `number`."""
    for operation in operations:
        logger.warning("--deterministic: PyTorch has no deterministic %s on %s", operation, device)
    where = f"step {number + 1}, run twice from the same state on {device},"
    if differing:
        names = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
        logger.warning(
            "--deterministic: %s differs in %d tensors (%s); runs will differ from each other in their last bits",
            *(where, len(differing), names),
        )
    else:
        logger.info("--deterministic: %s repeats to the bit", where)


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
