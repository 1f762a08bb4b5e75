"""Batches come to the device in order and unchanged, ahead of need, and everything ends when nobody wants more."""

import itertools
import threading

import pytest
import torch

from fastvgan.data.source import Clips
from fastvgan.training.feed import feed

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def batches(closed, count=None, error=None):
    try:
        for i in range(count) if count is not None else itertools.count():
            yield Clips(torch.full((2, 3, 4, 4, 3), i % 256, dtype=torch.uint8), torch.tensor([i, i + 1]))
        if error:
            raise error
    finally:
        closed.append(threading.current_thread().name)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_in_order_and_unchanged(device):
    closed = []
    got = list(feed(batches(closed, 300), torch.device(device)))
    assert [clips.caption[0].item() for clips in got] == list(range(300))
    for i, clips in enumerate(got):  # buffers that were filled again too early would show here
        assert clips.video.device.type == device and (clips.video == i % 256).all()
    assert len(closed) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_closing_ends_the_source(device):
    closed = []
    fed = feed(batches(closed), torch.device(device))
    next(fed)
    fed.close()
    assert len(closed) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]


@pytest.mark.parametrize("device", DEVICES)
def test_errors_arrive_where_the_batch_is_asked_for(device):
    fed = feed(batches([], 2, ValueError("broken")), torch.device(device))
    assert len(list(itertools.islice(fed, 2))) == 2
    with pytest.raises(ValueError, match="broken"):
        next(fed)


@pytest.mark.gpu
def test_the_host_does_not_wait_for_the_copy():
    fed = feed(batches([]), torch.device("cuda"))
    next(fed)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            next(fed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        fed.close()
