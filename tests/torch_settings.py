"""What a training sets up for its process, and later tests in this one would compute otherwise by."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_BACKENDS = (
    *((torch.backends.cudnn.conv, "fp32_precision"), (torch.backends.cudnn.rnn, "fp32_precision")),
    *((torch.backends.cuda.matmul, "fp32_precision"), (torch.backends.cudnn, "benchmark")),
    *((torch.backends.mkldnn.conv, "fp32_precision"), (torch.backends.mkldnn.matmul, "fp32_precision")),
    *((torch.backends.mkldnn, "enabled"), (torch.utils.deterministic, "fill_uninitialized_memory")),
)


@contextmanager
def keep_torch_settings() -> Iterator[None]:
    """Torch's settings are afterwards what they were before."""
    before = [getattr(*place) for place in _BACKENDS]
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        for place, value in zip(_BACKENDS, before, strict=True):
            if getattr(*place) != value:
                setattr(*place, value)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warned)
