"""Odd values, and values changed at odd places, for fuzzing tests."""

import copy
import os

from hypothesis import settings
from hypothesis import strategies as st

# How many inputs all fuzzing tests of files try together; `FASTVGAN_FUZZ=100000` is the thorough run.
INPUTS = int(os.environ.get("FASTVGAN_FUZZ", "600"))

NUMBERS = (0, 1, -1, 2, 3, 0.5, -0.0, 1e308, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**40, 10**400)
NAMES = ("", ".", "..", "../out.mp4", "/etc/passwd", "a/../../b", "a/..", "C:\\x", "\\\\host\\x", "~/x", "~", "a\0b")
NAMES += (
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "link/x",
    "link",
    "a\nb",
    "\ud800",
    "ü/ñ.mp4",
    "x" * 300,
    "-x",
    "*",
)
ODD = (None, True, False, float("nan"), float("inf"), [], {}, [[]], "nan", "none", *NUMBERS, *NAMES)

odd_values = st.one_of(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.sampled_from(ODD), max_size=4),
    st.dictionaries(st.text(max_size=5), st.sampled_from(ODD), max_size=3),
).map(copy.deepcopy)  # lists and dicts among them are changed in their turn


def limit_examples(share: int):
    """Settings of hypothesis for a test that tries one `share`-th of all inputs."""
    return settings(max_examples=max(20, INPUTS // share), deadline=None)


@st.composite
def mutate(draw, value):
    """A plain value (dicts, lists, texts, numbers) with one to three of its parts exchanged, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        where, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(("odd", "odd", "odd", "gone", "new")))
        if what == "gone":
            del where[key]
        elif what == "new" and isinstance(where, dict):
            where[draw(st.text(max_size=8))] = draw(odd_values)
        else:
            where[key] = draw(odd_values)
        if not value:
            break
    return value


def _places(value):
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list) and value[key]:
            yield from _places(value[key])


@st.composite
def mutate_bytes(draw, data):
    """Bytes with some of them exchanged, cut off, or added."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(("cut", "other", "more")))
        if what == "cut":
            del data[place:]
        elif what == "more":
            data[place:place] = draw(st.binary(max_size=8))
        elif data:
            data[place] = draw(st.integers(0, 255))
    return bytes(data)
