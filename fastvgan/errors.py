"""The one exception whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Bad input: one sentence that names the file or value and the remedy.

    Commands print the sentence to stderr, without a traceback, and exit with status 2.
    """
