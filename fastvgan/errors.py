"""The exception for bad input."""


class UserError(Exception):
    """Bad input; the message is one sentence that names the file or value and the remedy.

    Commands print the message to stderr, without a traceback, and exit with status 2.
    """
