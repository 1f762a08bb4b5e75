"""Warnings that are given once."""

import logging

from fastvgan_kernels.warn_once import WarnOnce


def test_each_sentence_is_logged_once(caplog):
    warn = WarnOnce(logging.getLogger("fastvgan_kernels"))
    for sentence in ("100% of it", "another", "100% of it"):
        warn(sentence)
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("fastvgan_kernels", "WARNING", "100% of it"),
        ("fastvgan_kernels", "WARNING", "another"),
    ]
    WarnOnce(logging.getLogger("fastvgan_kernels"))("another")
    assert caplog.messages[2:] == ["another"]  # each remembers only what it has said itself


def test_of_a_kind_the_first_is_logged(caplog):
    warn = WarnOnce(logging.getLogger("fastvgan_kernels"))
    for number, kind in ((1, "a"), (2, "b"), (3, "a")):
        warn(f"step {number}", kind=kind)
    assert caplog.messages == ["step 1", "step 2"]
