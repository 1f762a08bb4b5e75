"""Fixtures of the tests of checkpoints."""

import pytest
import torch
from saved import train
from tiny import Unscored

from fastvgan.training.run import output, samples


@pytest.fixture(scope="module")
def bare():
    """Use few samples, no scores and no report, which are slow and tested elsewhere; and one thread.

    Two threads wait for each other longer than they compute if another process is busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "Scoring", Unscored)
        patch.setattr(samples, "_POOL", 16)
        patch.setattr(samples, "_ROUNDS", 1)
        patch.setattr(output, "write_report", lambda folder: None)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory, bare):
    folder = tmp_path_factory.mktemp("run") / "r"
    train(folder, checkpoint_every=2, keep=9)
    return folder
