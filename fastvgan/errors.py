"""The one exception whose message is meant for the person at the terminal."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input: one sentence that names the file or value and the remedy.

    Commands print the sentence to stderr, without a traceback, and exit with status 2.
    """


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process with its status (0 when it returns None), or 2 on bad input."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
