"""Samples in tars as the webdataset package writes and splits them."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset import TarWriter
from webdataset.tariterators import base_plus_ext

from fastvgan.data.media.tars import split_name
from fastvgan.data.preparation.tar_files import add_sample, open_tar

NAMES = [
    "a.txt",
    "a/b.c.txt",
    "./a.b/c.json",
    ".txt",
    "a/.txt",
    "a",
    "a/b",
    "a.",
    "a.b/c",
    "ä/ö.ü",
    "a\nb.txt",
    "a.b\n",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_split_as_by_webdataset(name):
    assert (split_name(name) or (None, None)) == base_plus_ext(name)


@settings(max_examples=200, deadline=None)
@given(st.text("ab./\n-", max_size=9))
def test_random_names_are_split_as_by_webdataset(name):
    assert (split_name(name) or (None, None)) == base_plus_ext(name)


def test_tars_have_the_bytes_that_webdataset_writes():
    samples = {
        "00000000": {
            "webm": b"\x1aE\xdf\xa3" * 700,
            "json": {"name": "ä b", "class": None, "fps": 12.5},
            "txt": "ä\nb",
        },
        "00000001": {"webm": b"", "json": {}},
        "folder/" * 9 + "k" * 60: {"mp4": bytes(1024)},  # too long for one field
    }
    ours, theirs = io.BytesIO(), io.BytesIO()
    with open_tar(ours) as tar:
        for key, parts in samples.items():
            add_sample(tar, key, parts)
    with TarWriter(theirs, mtime=0) as writer:
        for key, parts in samples.items():
            writer.write({"__key__": key, **parts})
    assert ours.getvalue() == theirs.getvalue()
