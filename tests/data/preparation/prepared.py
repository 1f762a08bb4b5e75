"""What the tests of preparing share."""


def contents(folder):
    """Bytes of every file of the result by name, journals left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".prepare" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
