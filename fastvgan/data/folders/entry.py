"""What a look through a folder gives: clips to be, and what takes no part."""

from dataclasses import dataclass

from fastvgan.data.media.types import BadVideo, Media


@dataclass(frozen=True)
class Entry:
    """A clip to be: its frames, its captions, its class. `name`, the path below the folder, is what messages say."""

    media: Media
    name: str
    captions: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A clip that takes no part, and why; `lasts`: as of `BadVideo`."""

    name: str
    reason: str
    lasts: bool = True

    @classmethod
    def because(cls, name: str, error: BadVideo) -> "Rejected":
        """The clip of that name, rejected for an error."""
        return cls(name, str(error), error.lasts)
