"""Warnings that are given once, however often what they are about happens."""

import logging


class WarnOnce:
    """Logs each warning once, for as long as this lives.

    Args:
        logger: what warns.
    """

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._given: set[str] = set()

    def __call__(self, sentence: str, kind: str | None = None) -> None:
        """Log a warning, unless one of its kind was logged before.

        Args:
            sentence: the warning. kind: of the warning; by default the sentence itself.
        """
        kind = sentence if kind is None else kind
        if kind not in self._given:
            self._given.add(kind)
            self._logger.warning("%s", sentence)


warn_once = WarnOnce(logging.getLogger("fastvgan_kernels"))
"""What the operations warn by: once per process."""
