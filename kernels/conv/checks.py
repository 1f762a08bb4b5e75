"""The arguments of conv_up and conv_down: what is wrong with them, in one sentence, or their geometry as lists."""

from .. import choice
from ..arguments import integers, same_kind
from . import sizes


def check_up(x, weight, bias, stride, padding, output_padding, dilation, groups, impl) -> tuple[list[int], ...]:
    """conv_up's arguments, or its errors: stride, padding, output_padding and dilation, one integer a dimension."""
    dims = _check(x, weight, bias, groups, impl, inputs=weight.shape[0], outputs=weight.shape[1] * groups)
    stride, padding = integers("stride", stride, dims, 1), integers("padding", padding, dims, 0)
    dilation = integers("dilation", dilation, dims, 1)
    output_padding = integers("output_padding", output_padding, dims, 0)
    for extra, s, d in zip(output_padding, stride, dilation, strict=True):
        if extra >= max(s, d):
            raise ValueError(f"output_padding {extra} must be smaller than the stride {s} or the dilation {d}")
    size = sizes.large(x.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    if min(size) < 1:
        raise ValueError(f"padding {padding} leaves nothing of an input of size {tuple(x.shape[2:])}")
    return stride, padding, output_padding, dilation


def check_down(x, weight, bias, stride, padding, dilation, groups, impl) -> tuple[list[int], ...]:
    """conv_down's arguments, or its errors: stride, padding and dilation, one integer a dimension."""
    dims = _check(x, weight, bias, groups, impl, inputs=weight.shape[1] * groups, outputs=weight.shape[0])
    stride, padding = integers("stride", stride, dims, 1), integers("padding", padding, dims, 0)
    dilation = integers("dilation", dilation, dims, 1)
    if weight.shape[0] % groups:
        raise ValueError(f"the {weight.shape[0]} output channels do not divide into {groups} groups")
    if min(sizes.small(x.shape[2:], weight.shape[2:], stride, padding, dilation)) < 1:
        raise ValueError(
            f"an input of size {tuple(x.shape[2:])} with padding {padding} is smaller than the kernel "
            f"{tuple(weight.shape[2:])} with dilation {dilation}"
        )
    return stride, padding, dilation


def _check(x, weight, bias, groups, impl, inputs, outputs) -> int:
    choice.check_name(impl)
    same_kind("x", x, weight=weight, bias=bias)
    if x.dim() not in (3, 4, 5) or weight.dim() != x.dim():
        raise ValueError(
            f"expected x and weight to have the same 1 to 3 spatial sizes, but got x of size {list(x.shape)} and "
            f"weight of size {list(weight.shape)}"
        )
    if groups < 1 or inputs % groups:
        raise ValueError(f"the {inputs} input channels do not divide into {groups} groups")
    if x.shape[1] != inputs:
        raise ValueError(
            f"given groups={groups} and weight of size {list(weight.shape)}, expected input {list(x.shape)} to have "
            f"{inputs} channels, but got {x.shape[1]} channels instead"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias must be of shape ({outputs},), not {tuple(bias.shape)}")
    return x.dim() - 2
