"""Check of the free disk space."""

import shutil
from pathlib import Path

from fastvgan.errors import UserError
from fastvgan.machine.memory import in_words

GIB = 2**30


def check_room(folder: Path, needed: int, keep_free: float, what: str) -> None:
    """Refuse to write if it would leave too little space on the disk.

    Args:
        folder: A folder on the disk.
        needed: Bytes to write.
        keep_free: GiB that must stay free.
        what: Description of the files, for the message.

    Raises:
        UserError: The disk has too little space.
    """
    free = shutil.disk_usage(folder).free
    if needed + keep_free * GIB > free:
        raise UserError(
            f"{what} would take {in_words(max(0, needed))} in {folder}, which has {in_words(free)} free, of which "
            f"{keep_free:g} GiB must stay free (--keep-free); free some space, choose a folder on another disk, or "
            "make clips smaller with --height, --width or --fps; finished files are kept, and the same command "
            "continues from there"
        )
