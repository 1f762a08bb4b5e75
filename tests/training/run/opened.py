"""Run folders that are closed whatever happens, for tests."""

import logging
from contextlib import contextmanager

from tiny import tiny

from fastvgan.training.run.folder import RunFolder


@contextmanager
def open_folder(path, step=0, **options):
    folder = RunFolder(path, tiny(), step, **options)
    try:
        yield folder
    finally:
        folder.close()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
