"""Object files that are kept between the builds of a checkout, each beside a digest of what it was compiled from.

`pip install .` builds in the checkout, so `pip install ".[train]"` after it finds the objects there. The times of files
say little (git changes them), and another torch, compiler or flag changes no time at all.
"""

import hashlib
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path


def make_object(
    target: Path, source: Path, compilers: list[list[str]], facts: list[str], make: Callable[[], None]
) -> None:
    """Call `make` unless the object is there and was compiled from the same things.

    Args:
        target: the object file.
        source: the file it is compiled from, in csrc/. All headers of csrc/ count, too.
        compilers: the commands of the compilers, whose versions count.
        facts: all that the result depends on beside these, such as flags, but no folder that changes in each build.
        make: writes the object.
    """
    record = target.with_suffix(".made-from")
    versions = [_compiler_version(*compiler) for compiler in compilers]
    headers = _headers_digest(next(folder for folder in source.parents if folder.name == "csrc"))
    described = json.dumps([compilers, versions, facts, headers])
    digest = hashlib.sha256(described.encode() + source.read_bytes()).hexdigest()
    if target.is_file() and record.is_file() and record.read_text() == digest:
        print(f"{source.name}: unchanged, its object is kept", flush=True)
        return
    record.unlink(missing_ok=True)  # an interrupted build leaves an object that is not whole
    make()
    record.write_text(digest)


@cache
def _compiler_version(*compiler: str) -> str:
    result = subprocess.run([*compiler, "--version"], capture_output=True, text=True, errors="replace")
    return result.stdout + result.stderr


@cache
def _headers_digest(csrc: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in (".h", ".inc", ".cuh")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
