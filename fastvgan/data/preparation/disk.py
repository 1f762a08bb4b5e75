"""Room on the disk, looked at before it is needed."""

import shutil
from pathlib import Path

from fastvgan.errors import UserError

GIB = 2**30


def check_room(folder: Path, needed: int, keep_free: float, what: str) -> None:
    """Refuse to write `needed` bytes where that would leave less than `keep_free` GiB on the folder's disk.

    Raises:
        UserError: there is too little room.
    """
    free = shutil.disk_usage(folder).free
    if needed + keep_free * GIB > free:
        raise UserError(
            f"{what}: {_size(needed)} are needed in {folder}, where {_size(free)} are free and {keep_free:g} GiB are "
            "to stay so (--keep-free): make room, name a folder on another disk, or make clips smaller by --height, "
            "--width or --fps; what is done is kept, and the same command goes on from there"
        )


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
