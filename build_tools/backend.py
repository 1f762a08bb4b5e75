"""The build backend: that of setuptools, with torch as a build requirement only if none is installed.

With a static requirement, every isolated build would download gigabytes of a second torch and build against it instead
of the user's.
"""

import os

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the other hooks
from toolchain import TORCH_FLOOR, usable_torch


def _torch_if_missing() -> list[str]:
    if os.environ.get("FASTVGAN_BUILD_EXTENSION") == "0" or usable_torch() is not None:
        return []
    return [f"torch>={'.'.join(map(str, TORCH_FLOOR))}"]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """Return the requirements of an isolated build of a wheel, beside the static ones."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_if_missing()]


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    """Return the requirements of an isolated editable install, beside the static ones."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_if_missing()]
