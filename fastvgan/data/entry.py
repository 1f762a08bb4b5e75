"""What a look through a folder gives: clips to be, and what takes no part."""

from dataclasses import dataclass

from fastvgan.data.media import Media


@dataclass(frozen=True)
class Entry:
    """A clip to be: its frames, its captions, its class. `name`, the path below the folder, is what messages say."""

    media: Media
    name: str
    captions: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A clip that takes no part, and why."""

    name: str
    reason: str
