"""The ways stock PyTorch can be made to run a module, to measure ours against the best of them."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
STOCK = [f"{mode}-{layout}" for mode in ("eager", "compile") for layout in FORMATS]


def stock(module: torch.nn.Module, variant: str, x: torch.Tensor):
    """A stock module and its input as the variant asks, "eager-contiguous" and so on."""
    mode, layout = variant.split("-")
    module = module.to(memory_format=FORMATS[layout])
    return (torch.compile(module) if mode == "compile" else module), x.contiguous(memory_format=FORMATS[layout])


def device() -> torch.device:
    """Where benchmarks run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronised(function):
    """The function, not over before the GPU is."""
    if device().type == "cpu":
        return function

    def run():
        function()
        torch.cuda.synchronize()

    return run


def assert_as_accurate(ours, stock, exact, factor):
    """Our error against float64 is at most `factor` times the stock one's, or a few units in the last place.

    A benchmark calls this before it times: a fast wrong answer is no result.
    """
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        scale = right.abs().max()
        mine_off, theirs_off = ((value.double() - right).abs().max() / scale for value in (mine, theirs))
        assert mine_off <= factor * theirs_off + 4 * torch.finfo(mine.dtype).eps, (mine_off, theirs_off)
