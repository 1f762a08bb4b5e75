"""The build backend: setuptools', which asks for torch only where none is installed.

A static requirement would make every isolated build download a second torch, gigabytes of it, and build against that
instead of the one that the user has.
"""

import os

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that stay as they are
from toolchain import TORCH_FLOOR, usable_torch


def _torch_if_missing() -> list[str]:
    if os.environ.get("FASTVGAN_BUILD_EXTENSION") == "0" or usable_torch() is not None:
        return []
    return [f"torch>={'.'.join(map(str, TORCH_FLOOR))}"]


def get_requires_for_build_wheel(config_settings=None):
    """What an isolated build of a wheel installs beside the static requirements."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_if_missing()]


def get_requires_for_build_editable(config_settings=None):
    """The same for an editable install."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_if_missing()]
