"""The lines of a run's log.txt that tell whether the run has ended."""

import re
from pathlib import Path

TRAINED = "trained to the last step, %d"
"""The last line of a run that trained all its steps."""
STOPPED = "stopped by %s after step %d; resume with --resume auto"
"""The last line of a run that a signal or a callback ended."""
BEGUN = "%s model, %d frames of"
"""How a line begins that each start of a run writes, resumed or not: family of the model, and its training length."""
_TAIL = 2**16  # bytes that are read
_LEVEL = r"^(?:\S+ ){2}[A-Z]+ "  # date and time come first


def has_ended(log: Path) -> bool:
    """Return whether a run has ended by itself, by a signal or by a callback, and was not resumed since.

    Args:
        log: the run's log.txt, which may be missing, damaged, or written at this moment.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in reversed(lines):
        if _ENDS.match(line):
            return True
        if _BEGINS.match(line):
            return False
    return False


def _pattern(*messages: str) -> re.Pattern[str]:
    """Return the pattern of lines with one of these messages."""
    parts = (re.escape(message).replace("%d", r"\d+").replace("%s", r"[\w ]+?") for message in messages)
    return re.compile(f"{_LEVEL}(?:{'|'.join(parts)})")


_ENDS, _BEGINS = _pattern(TRAINED, STOPPED), _pattern(BEGUN)
