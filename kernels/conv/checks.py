"""Checks of the arguments of conv_up and conv_down."""

from torch import Tensor

from .. import choice
from ..arguments import MisfitError, check_same_kind, integers
from . import sizes
from .geometry import Geometry, Sizes


def check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[bool, Sizes, Sizes, Sizes, Sizes, int],
    impl: str,
) -> Geometry:
    """Check the arguments of conv_up and conv_down.

    Args:
        x: (N, C_in, *space).
        weight: (C_in, C_out / groups, *kernel) for conv_up, (C_out, C_in / groups, *kernel) for conv_down.
        bias: (C_out,) or None.
        geometry: the fields of Geometry, where one integer stands for all dimensions.
        impl: "auto" or an implementation's name.

    Returns:
        The geometry with one integer per spatial dimension.

    Raises:
        MisfitError: sizes that do not fit.
        ValueError: an unknown `impl`, or a number that a convolution cannot have.
        DtypeError: dtypes that are not floating-point or differ.
    """
    transposed, stride, padding, output_padding, dilation, groups = geometry
    _check_tensors(x, weight, bias, transposed, groups, impl)
    dims = x.dim() - 2
    stride, padding = integers("stride", stride, dims, 1), integers("padding", padding, dims, 0)
    dilation = integers("dilation", dilation, dims, 1)
    if not transposed:
        _check_down(x, weight, stride, padding, dilation, groups)
        return Geometry(False, stride, padding, [0] * dims, dilation, groups)
    output_padding = integers("output_padding", output_padding, dims, 0)
    _check_up(x, weight, stride, padding, output_padding, dilation)
    return Geometry(True, stride, padding, output_padding, dilation, groups)


def _check_up(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], output_padding: list[int], dilation: list[int]
) -> None:
    for extra, s, d in zip(output_padding, stride, dilation, strict=True):
        if extra >= max(s, d):
            raise MisfitError(f"output_padding {extra} must be smaller than the stride {s} or the dilation {d}")
    size = sizes.large(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    if min(size) < 1:
        raise MisfitError(f"padding {padding} leaves no output for an input of size {tuple(x.shape[2:])}")


def _check_down(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> None:
    if weight.shape[0] % groups:
        raise MisfitError(f"the {weight.shape[0]} output channels are not divisible by groups={groups}")
    if min(sizes.small(x.shape[2:], weight.shape[2:], stride, padding, dilation)) < 1:
        raise MisfitError(
            f"an input of size {tuple(x.shape[2:])} with padding {padding} is smaller than the kernel "
            f"{tuple(weight.shape[2:])} with dilation {dilation}"
        )


def _check_tensors(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, groups: int, impl: str) -> None:
    choice.check_name(impl)
    check_same_kind("x", x, weight=weight, bias=bias)
    if x.dim() not in (3, 4, 5) or weight.dim() != x.dim():
        raise MisfitError(
            f"expected x and weight to have the same 1 to 3 spatial sizes, but got x of size {list(x.shape)} and "
            f"weight of size {list(weight.shape)}"
        )
    inputs, outputs = weight.shape[0], weight.shape[1] * groups
    if not transposed:
        inputs, outputs = outputs, inputs
    if groups < 1 or inputs % groups:
        raise MisfitError(f"the {inputs} input channels are not divisible by groups={groups}")
    if x.shape[1] != inputs:
        raise MisfitError(
            f"given groups={groups} and weight of size {list(weight.shape)}, expected input {list(x.shape)} to have "
            f"{inputs} channels, but got {x.shape[1]} channels instead"
        )
    if bias is not None and bias.shape != (outputs,):
        raise MisfitError(f"bias must be of shape ({outputs},), not {tuple(bias.shape)}")
