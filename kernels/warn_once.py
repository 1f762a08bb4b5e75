"""Warnings that are logged once, however often their cause recurs."""

import logging


class WarnOnce:
    """A function that logs each warning once in its lifetime.

    Args:
        logger: receives the warnings.
    """

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._logged: set[str] = set()

    def __call__(self, sentence: str, kind: str | None = None) -> None:
        """Log a warning, unless one of its kind was logged before.

        Args:
            sentence: the warning.
            kind: of the warning; the sentence by default.
        """
        kind = sentence if kind is None else kind
        if kind not in self._logged:
            self._logged.add(kind)
            self._logger.warning("%s", sentence)


warn_once = WarnOnce(logging.getLogger("fastvgan_kernels"))
"""Logs the warnings of the operations, once per process."""
