"""Public architectures, stock and after fuse(), both memory formats in turns; `python bench/fuse.py` prints a table.

pytest-benchmark receives the times of rounds in which all variants took turns, so that other load on the machine
affects all of them equally. Stock PyTorch runs eagerly: torch.compile is not among the variants.
"""

import functools

import pytest
from support.fuse_cells import Cell, cells, time_cell
from support.variants import FORMATS, TINY, describe, device


class Replay:
    """A clock; each call of the function that `rounds(seconds)` returns advances it by the next of these times."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def rounds(self, seconds: list[float]):
        left = iter(seconds)

        def run() -> None:
            self.now += next(left)

        return run


CLOCK = Replay()
SIDES = {"eager": "stock", "ours": "fused"}


@functools.lru_cache(maxsize=1)
def measure_cell(cell: Cell, rounds: int | None) -> dict[tuple[str, str], list[float]]:
    """Measure all variants of a cell at once, for the first of its tests."""
    return time_cell(cell, rounds)


@pytest.mark.skipif(device().type == "cuda", reason="the networks are sized for two CPU threads")
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("variant", [f"{side}-{layout}" for side in SIDES for layout in FORMATS])
@pytest.mark.parametrize("cell", list(cells()), ids=lambda cell: cell.name.replace(", ", "-").replace(" ", ""))
def test_fuse(benchmark, cell, variant):
    describe(benchmark, f"fuse: {cell.name}", variant, cell.dtype)
    side, layout = variant.split("-")
    once = TINY or not benchmark.enabled
    seconds = measure_cell(cell, 1 if once else None)[SIDES[side], layout]
    benchmark.pedantic(CLOCK.rounds(seconds), rounds=len(seconds))
