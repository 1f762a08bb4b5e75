"""Which data a run is trained on, in a few bytes: by this a resumed run finds out whether they have changed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Fingerprint(NamedTuple):
    """What a checkpoint notes of the data.

    checksum: SHA-256, in hexadecimal, over what the data hold, wherever they lie. clips, captions, classes: how many of
    them there are, captions and classes that are the same counted once.
    """

    checksum: str
    clips: int
    captions: int
    classes: int

    def __str__(self) -> str:
        """The counts, "120 clips with 10 captions and 3 classes"."""
        conditions = [
            _count(number, noun)
            for number, noun in ((self.captions, ("caption", "captions")), (self.classes, ("class", "classes")))
            if number
        ]
        clips = _count(self.clips, ("clip", "clips"))
        return f"{clips} with {' and '.join(conditions)}" if conditions else clips

    @property
    def short(self) -> str:
        """The first letters of the checksum, enough to tell data apart by eye."""
        return self.checksum[:8]


def fingerprint_of(facts: Iterable[Any], clips: int, captions: Sequence[str], classes: Sequence[str]) -> Fingerprint:
    """The fingerprint of data of which these are the facts.

    Args:
        facts: whatever the clips depend on, in the order in which samples are drawn; of types that JSON has.
        clips: how many there are. captions, classes: the distinct ones.
    """
    total = hashlib.sha256()
    encode = json.JSONEncoder(separators=(",", ":")).encode  # escapes all but ASCII, also what UTF-8 cannot hold
    for fact in facts:
        total.update(encode(fact).encode("ascii") + b"\n")
    return Fingerprint(total.hexdigest(), clips, len(captions), len(classes))


def _count(number: int, noun: tuple[str, str]) -> str:
    return f"{number:,} {noun[number != 1]}"
