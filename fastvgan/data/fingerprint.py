"""A short identification of a run's training data, by which a resumed run notices that the data have changed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Fingerprint(NamedTuple):
    """Identification of training data, stored in checkpoints.

    checksum: SHA-256, in hexadecimal, of the data's content, independent of its place.
    clips: Number of clips.
    captions: Number of distinct captions.
    classes: Number of distinct classes.
    """

    checksum: str
    clips: int
    captions: int
    classes: int

    def __str__(self) -> str:
        """Return the counts: "120 clips with 10 captions and 3 classes"."""
        conditions = [
            _count(number, noun)
            for number, noun in ((self.captions, ("caption", "captions")), (self.classes, ("class", "classes")))
            if number
        ]
        clips = _count(self.clips, ("clip", "clips"))
        return f"{clips} with {' and '.join(conditions)}" if conditions else clips

    @property
    def short(self) -> str:
        """The first digits of the checksum, enough to distinguish data by eye."""
        return self.checksum[:8]


def compute_fingerprint(
    facts: Iterable[Any], clips: int, captions: Sequence[str], classes: Sequence[str]
) -> Fingerprint:
    """Compute the fingerprint of training data.

    Args:
        facts: Everything that the samples depend on, as JSON values, in the order in which samples are drawn.
        clips: Number of clips.
        captions: The distinct captions.
        classes: The distinct classes.
    """
    total = hashlib.sha256()
    encode = json.JSONEncoder(separators=(",", ":")).encode  # escapes all but ASCII, even lone surrogates
    for fact in facts:
        total.update(encode(fact).encode("ascii") + b"\n")
    return Fingerprint(total.hexdigest(), clips, len(captions), len(classes))


def _count(number: int, noun: tuple[str, str]) -> str:
    return f"{number:,} {noun[number != 1]}"
