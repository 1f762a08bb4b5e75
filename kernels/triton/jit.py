"""Triton's `jit` and `constexpr`, with types that a checker accepts in device code and at launches.

Triton's own types give a compiled function the signature of its source, by which a launch could take neither
`num_warps` nor a plain value for a `constexpr`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, overload

if TYPE_CHECKING:

    class Kernel:
        """Device code: called by other device code, launched as `kernel[grid](*arguments)`."""

        def __call__(self, *args: Any, **options: Any) -> Any: ...  # noqa: D102
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]: ...

    constexpr: TypeAlias = Any  # attributes and items of a compile-time value are values

    @overload
    def jit(function: Callable[..., object]) -> Kernel: ...
    @overload
    def jit(*, do_not_specialize: list[str]) -> Callable[[Callable[..., object]], Kernel]: ...
    def jit(*args: Any, **options: Any) -> Any:
        """Compile a function for the GPU at its first launch."""
else:
    from triton import jit
    from triton.language import constexpr

__all__ = ["constexpr", "jit"]
