"""Worker processes, by torch's DataLoader, that make whole batches."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def load_batches(batches: Dataset[Any], workers: int, numbers: Iterator[range] | None = None) -> DataLoader[Any]:
    """Return a loader whose items are whole batches, two per worker ahead of their use.

    The workers end when the loader's iterator is closed or collected, and leave signals to the trainer.

    Args:
        batches: Maps a range of sample numbers to a batch, or yields batches if it is an IterableDataset.
        workers: Number of processes; 0 makes batches in the calling process.
        numbers: The ranges of sample numbers, for a dataset that maps them.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator(),  # else it draws the workers' seed from the global generator
    )


def _leave_signals_to_the_trainer(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
