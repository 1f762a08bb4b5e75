"""What is said of a clip beside it, and how captions and classes are cleaned."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastvgan.data.paths import stays_within
from fastvgan.errors import UserError

# Files of other suffixes are looked into, and taken where they hold a video all the same.
SUFFIXES = frozenset(
    """.mp4 .m4v .mov .webm .avi .mkv .gif .mpg .mpeg .ts .ogv .wmv .flv .3gp .3g2 .asf .divx .dv .f4v .ivf .m1v .m2t
    .m2ts .m2v .mk3d .mjpeg .mjpg .mpe .mpv .mts .mxf .nut .ogm .qt .rm .rmvb .vob .wtv .y4m""".split()
)


def captions_of(text: Path, within: Path | None) -> tuple[str, ...]:
    """The captions of a file that lies beside a clip, one a line; none where there is no such file.

    Args:
        within: the real place of a folder; a link that leads out of it is passed over. None follows all.

    Raises:
        UserError: it cannot be read.
    """
    if not is_there(text, within):
        return ()
    try:
        return cleaned(text.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the caption {text}: {error}; write it as UTF-8 text") from error


def is_there(path: Path, within: Path | None) -> bool:
    """Whether a path leads to a file; `within` as of `captions_of`."""
    return path.is_file() and (within is None or stays_within(path, within))


def cleaned(captions: Iterable[str]) -> tuple[str, ...]:
    """Captions without needless blanks, and without empty ones."""
    return tuple(text for caption in captions if (text := " ".join(_writable(caption).split())))


def clean_label(value: Any) -> str | None:
    """A class as text, without blanks around it; None where nothing is said."""
    return None if value is None else _writable(str(value)).strip() or None


def _writable(text: str) -> str:
    # JSON can hold halves of characters, which no file can.
    return text.encode("utf-8", "replace").decode()
