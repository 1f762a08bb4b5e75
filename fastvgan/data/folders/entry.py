"""The results of scanning a folder: candidate clips and rejected files."""

from dataclasses import dataclass

from fastvgan.data.media.types import BadVideo, Media


@dataclass(frozen=True)
class Entry:
    """A candidate clip: its frames, captions and class. `name` is its path below the folder."""

    media: Media
    name: str
    captions: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A file that is not used, and the reason. `lasts` is as in `BadVideo`."""

    name: str
    reason: str
    lasts: bool = True

    @classmethod
    def because(cls, name: str, error: BadVideo) -> "Rejected":
        """Reject the clip called `name` because of an error."""
        return cls(name, str(error), error.lasts)
