"""The configurations of Triton kernels that tuning and the rule choose from, largest tiles first.

tests/kernels/test_triton_compiles.py compiles each of them for each architecture here, and checks that no registers
spill and that shared memory suffices. Numbers are rows, columns, depth in bytes, warps, stages.
"""

import torch

from .tuning import Config, architecture


def _tile(*sizes: int, tma: bool = False, cell: int = 1) -> Config:
    """A tile that may use all registers: without a limit given, ptxas spills a few so that more programs fit."""
    return Config(*sizes, registers=255, tma=tma, cell=cell)


_SMALL = (_tile(64, 64, 128, 4, 3), _tile(64, 16, 128, 4, 3), _tile(16, 16, 128, 4, 3))
_PRODUCT = (_tile(128, 128, 128, 8, 3), _tile(128, 64, 128, 4, 4), *_SMALL)
_LARGE = (_tile(128, 256, 128, 8, 3), *_PRODUCT)  # for wgmma and tcgen05, which leave registers free
# The copy engine loads the dense operand, weights or the small side, which spares the loop most of its instructions.
_LARGE_TMA = (_tile(128, 256, 128, 8, 3, tma=True), _tile(128, 128, 128, 8, 3, tma=True), *_LARGE)
# A norm on load, statistics, gates and running positions need additional registers.
_FUSED = (_tile(128, 128, 128, 8, 3), _tile(128, 64, 128, 8, 3), *_SMALL)
_FUSED_80 = (_tile(128, 128, 64, 8, 4), *_FUSED[1:])
# With all phases in one tile, each column needs a separate address and mask; with few input channels, each element.
_MERGED = (_tile(128, 64, 128, 8, 3), _tile(64, 64, 128, 8, 3), _tile(64, 32, 128, 4, 3), _tile(16, 16, 128, 4, 3))
_FLAT = (_tile(128, 64, 64, 8, 2), _tile(64, 64, 64, 8, 2), _tile(64, 16, 64, 4, 2), _tile(16, 16, 64, 4, 2))
# For few channels: tiles that read each value fewer times come first (kernels/conv/triton_few_kernels.py).
_UP_FEW = (
    _tile(64, 64, 128, 8, 3, cell=2),
    _tile(128, 32, 128, 8, 3),
    _tile(64, 32, 128, 4, 3),
    _tile(64, 16, 128, 4, 3),
    _tile(16, 16, 128, 4, 3),
)
_DOWN_FEW = (
    _tile(128, 256, 64, 8, 3, cell=4),
    _tile(64, 256, 64, 8, 3, cell=4),
    _tile(128, 128, 64, 8, 3, cell=2),
    _tile(128, 64, 64, 4, 3),
    _tile(64, 64, 64, 4, 3),
    _tile(16, 16, 64, 4, 3),
)
_GRAD_FEW = (
    _tile(256, 128, 64, 8, 3, cell=4),
    _tile(64, 256, 64, 8, 3),
    _tile(128, 128, 64, 8, 3, cell=2),
    _tile(64, 64, 64, 4, 3),
    _tile(16, 16, 64, 4, 3),
)
# Float32 without tensor cores.
_STRICT = (_tile(64, 64, 64, 8, 2), _tile(32, 32, 64, 4, 2), _tile(16, 16, 64, 4, 2))
_ARCHITECTURES = 80, 90, 100
SHIPPED = {
    "gather": {80: _PRODUCT, 90: _LARGE_TMA, 100: _LARGE_TMA},
    "gather_fused": {80: _FUSED_80, 90: _FUSED, 100: _FUSED},
    "gather_merged": dict.fromkeys(_ARCHITECTURES, _MERGED),
    "gather_flat": dict.fromkeys(_ARCHITECTURES, _FLAT),
    "weight_grad": {80: _FUSED, 90: (*_LARGE_TMA[:3], *_FUSED), 100: (*_LARGE_TMA[:3], *_FUSED)},
    "weight_grad_flat": dict.fromkeys(_ARCHITECTURES, _FLAT),
    "up_few": dict.fromkeys(_ARCHITECTURES, _UP_FEW),
    "down_few": dict.fromkeys(_ARCHITECTURES, _DOWN_FEW),
    "grad_few": {
        80: (_GRAD_FEW[0], *_GRAD_FEW[2:]),
        90: _GRAD_FEW,
        100: _GRAD_FEW,
    },  # sm_86 would spill with the second
    "conv_lstm_forward": {80: _FUSED_80, 90: _FUSED, 100: _FUSED},
    "conv_lstm_backward": dict.fromkeys(_ARCHITECTURES, _FUSED[1:]),
    "strict": dict.fromkeys(_ARCHITECTURES, _STRICT),
}
_FLOAT32_TILE = 128 * 128  # elements of the largest tile whose sums fit into registers with float32 operands


# For kernels without products: channels side by side, and positions side by side.
ROWS_LAST = (Config(128, 64, 0, 8, 2), Config(64, 64, 0, 4, 2), Config(64, 16, 0, 4, 2), Config(16, 16, 0, 2, 2))
ROWS_FIRST = (Config(4096, 1, 0, 8, 2), Config(1024, 1, 0, 4, 2), Config(256, 1, 0, 4, 2))


def of(kernel: str, precision: str, x: torch.Tensor) -> tuple[Config, ...]:
    """The configurations of a kernel with products, for the device and dtype of x, of any shape."""
    return table(kernel, precision, x.dtype, architecture(x.device))


def table(kernel: str, precision: str, dtype: torch.dtype, sm: int) -> tuple[Config, ...]:
    """The configurations of a kernel with products.

    Args:
        kernel: a name in SHIPPED.
        precision: "ieee" for strict float32, or "tf32".
        dtype: of the operands.
        sm: the architecture, a key of the tables.
    """
    if dtype != torch.float32:
        return SHIPPED[kernel][sm]
    shipped = SHIPPED["strict" if precision == "ieee" else kernel][sm]
    return tuple(config for config in shipped if config.rows * config.columns <= _FLOAT32_TILE)


def for_rows(last: bool) -> tuple[Config, ...]:
    """The configurations of a kernel over rows of channels, which lie side by side if `last`."""
    return ROWS_LAST if last else ROWS_FIRST
