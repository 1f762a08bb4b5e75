"""What the tests of data share."""

import fsspec
import pytest


class _Failing(fsspec.AbstractFileSystem):
    def _open(self, path, *arguments, **options):
        raise LookupError("status 503")  # as aiohttp's errors, no OSError


@pytest.fixture
def failing():
    """A URL below which whatever is opened fails by an error of its file system's own kind: "status 503"."""
    fsspec.register_implementation("failing", _Failing, clobber=True)
    return "failing://x"
