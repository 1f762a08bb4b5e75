"""Object files are kept between builds, unless anything that they depend on changed."""

import sys

import pytest
from plain import ROOT

sys.path.insert(0, str(ROOT / "build_tools"))

import objects  # noqa: E402


class Build:
    """A checkout with one source, one header and a compiler whose version a file holds."""

    def __init__(self, folder):
        self.version, self.header = folder / "version", folder / "csrc" / "cpu" / "loops.inc"
        self.source, self.target = folder / "csrc" / "cpu" / "loops.cpp", folder / "cpu-loops.o"
        self.header.parent.mkdir(parents=True)
        for path in (self.version, self.header, self.source):
            path.write_text("1")
        compiler = folder / "compiler"
        compiler.write_text(f"#!/bin/sh\ncat '{self.version}'\n")
        compiler.chmod(0o755)
        self.compiler, self.flags = [str(compiler)], ["-O3"]

    def is_made(self):
        """Build as another process would, which remembers nothing; return whether it compiled."""
        objects._compiler_version.cache_clear()
        objects._headers_digest.cache_clear()
        made = []
        objects.make_object(self.target, self.source, [self.compiler], self.flags, lambda: made.append(self.write()))
        return bool(made)

    def write(self):
        self.target.write_text("object")


@pytest.fixture
def build(tmp_path):
    build = Build(tmp_path)
    assert build.is_made()
    assert not build.is_made()
    return build


@pytest.mark.parametrize("name", ["version", "header", "source"])
def test_changed_files_and_compilers_compile_again(build, name):
    getattr(build, name).write_text("2")
    assert build.is_made()
    assert not build.is_made()


def test_a_new_header_and_other_flags_compile_again(build):
    (build.header.parent / "tiles.h").write_text("1")
    assert build.is_made()
    build.flags.append("-g")
    assert build.is_made()
    assert not build.is_made()


def test_a_missing_object_is_made_again(build):
    build.target.unlink()
    assert build.is_made()


def test_an_interrupted_build_leaves_no_object_to_keep(build):
    build.flags.append("-g")

    def stop():
        build.target.write_text("half an object")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objects.make_object(build.target, build.source, [build.compiler], build.flags, stop)
    build.flags.pop()  # as in the build before, whose object is gone
    assert build.is_made()
