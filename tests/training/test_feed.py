"""Batches come to the device in order and unchanged, ahead of need, and everything ends when nobody wants more."""

import itertools
import threading

import pytest
import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Clips
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.feed import feed, read_steps
from fastvgan.training.parallel import Parallel

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


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_processes_read_their_share_of_each_part_of_a_batch(accumulate):
    """So that part i of two processes has the clips of part i of one, and batch norms the same statistics."""

    class Decoded(DigitsSource):
        draws = 0

    training, source = TrainingConfig(batch_size=12, accumulate=accumulate, seed=5), Decoded()
    whole = list(itertools.islice(source.batches(12, 5), 4))[2:]
    size = 12 // accumulate
    for step, batch in enumerate(whole):
        shares = []
        for rank in range(2):
            parallel = Parallel()
            parallel.rank, parallel.world_size = rank, 2
            mine = list(itertools.islice(read_steps(training, source, parallel, 2, torch.device("cpu")), 2))[step]
            rows = parallel.rows(12, accumulate)
            assert torch.equal(mine.video, batch.video[rows]) and torch.equal(mine.caption, batch.caption[rows])
            shares.append(torch.tensor(rows).view(accumulate, -1))
        for part, rows in enumerate(torch.cat(shares, 1)):
            assert sorted(rows.tolist()) == list(range(part * size, (part + 1) * size))
