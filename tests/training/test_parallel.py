"""Two processes together compute what one does alone; and a checkpoint of theirs serves any number."""

import os
import socket

import pytest
import torch
import torch.multiprocessing
from together import steps_in_float64

SETTINGS = {"batch_size": 8, "diversity": 2.0, "r1": 0.1, "r1_every": 2, "lr_generator": 1e-3}


def _worker(rank, size, port, settings, folder):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.save(steps_in_float64(rank, size, settings), f"{folder}/{rank}.pt")


@pytest.mark.parametrize(
    "settings", [SETTINGS, SETTINGS | {"model": {"family": "recurrent"}}], ids=["conv3d", "recurrent"]
)
def test_two_processes_are_one_at_the_same_batch(tmp_path, settings):
    """In float64, so that nothing but a mistake can differ: weights, averages, moments, statistics after 4 steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (2, port, settings, tmp_path), 2)
    alone = steps_in_float64(0, 1, settings)
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(
                together[name], expected, rtol=1e-5, atol=1e-5 * _size(expected), msg=lambda m, n=name: f"{n}: {m}"
            )


def _size(tensor):
    return max(tensor.abs().max().item(), 1e-12)
