"""The bases of the 2D and 3D convolution layers: torch.nn's forward, computed by `conv_down` and `conv_up`."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvgan.layers.tracing import TraceableLayer, wants_stock
from fastvgan_kernels import choice, conv_down, conv_up
from fastvgan_kernels.arguments import per_dimension
from fastvgan_kernels.conv.stock.direct import recall
from fastvgan_kernels.fused_conv import Geometry

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Sizes = int | tuple[int, ...]  # one integer, or one per spatial dimension


class Convolution(TraceableLayer):
    """The forward of torch.nn's Conv2d or Conv3d by `conv_down`. It precedes that class among a layer's bases."""

    # Set by torch.nn's class, with one integer per spatial dimension unless a user assigns another value afterwards.
    out_channels: int
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: PaddingMode
    _reversed_padding_repeated_twice: list[int]
    impl: str = "auto"  # the default is for a subclass whose __init__ calls torch.nn's

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        impl: str = "auto",
    ):
        choice.check_name(impl)
        sizes = kernel_size, stride, padding, dilation
        super().__init__(in_channels, out_channels, *sizes, groups, bias, padding_mode, device, dtype)
        self.impl = impl

    def forward(self, input: Tensor) -> Tensor:
        """Convolve input (N, C_in, *space) or (C_in, *space)."""
        y = self.try_stock(input)
        if y is not None:
            return y
        if wants_stock(input) or self.weight.is_complex():
            return super().forward(input)
        if input.dim() == self.weight.dim() - 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        x, padding = self._pad(input)
        return conv_down(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.impl)

    def try_stock(self, input: Tensor) -> Tensor | None:
        """Run forward by stock PyTorch if that was chosen before for such an input; a cheap look-up.

        Args:
            input: (N, C_in, *space) or (C_in, *space).

        Returns:
            forward's result, or None if forward must choose.
        """
        own = self.__dict__  # nn.Module's __getattr__ would take as long as the whole look-up
        parameters = own.get("_parameters", {})
        if self.impl != "auto" or own["padding_mode"] != "zeros" or not _are_plain(input, parameters):
            return None
        geometry = False, own["stride"], own["padding"], 0, own["dilation"], own["groups"]
        return recall(input, parameters["weight"], parameters["bias"], geometry)

    def geometry(self) -> Geometry | None:
        """Return the geometry for fused_conv, or None if fused_conv does not support the padding."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        dims = self.weight.dim() - 2
        return _geometry(False, (self.stride, self.padding, (0,) * dims, self.dilation), self.groups, dims)

    def _pad(self, x: Tensor) -> tuple[Tensor, int | tuple[int, ...]]:
        """Pad x where conv_down cannot: by values other than zeros, and "same" for an even kernel."""
        if self.padding_mode == "zeros":
            if not isinstance(self.padding, str):
                return x, self.padding
            before = self._reversed_padding_repeated_twice[::-1]  # (right, left) of the first dimension, …
            if before[0::2] == before[1::2]:
                return x, tuple(before[0::2])
            return functional.pad(x, self._reversed_padding_repeated_twice), 0
        return functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0


class TransposedConvolution(TraceableLayer):
    """The forward of torch.nn's ConvTranspose2d or 3d by `conv_up`. It precedes that class among a layer's bases."""

    # Set by torch.nn's class.
    out_channels: int
    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any  # tuple[int, ...], but torch.nn declares it as int, str or tuple
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    _output_padding: Callable[..., Any]
    impl: str = "auto"  # the default is for a subclass whose __init__ calls torch.nn's

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        impl: str = "auto",
    ):
        choice.check_name(impl)
        sizes = kernel_size, stride, padding, output_padding
        super().__init__(in_channels, out_channels, *sizes, groups, bias, dilation, padding_mode, device, dtype)
        self.impl = impl

    def geometry(self) -> Geometry:
        """Return the geometry for fused_conv."""
        sizes = self.stride, self.padding, self.output_padding, self.dilation
        return _geometry(True, sizes, self.groups, self.weight.dim() - 2)

    def try_stock(self, input: Tensor) -> Tensor | None:
        """Run forward by stock PyTorch if that was chosen before for such an input. See `Convolution.try_stock`.

        Args:
            input: (N, C_in, *space) or (C_in, *space).
        """
        own = self.__dict__
        parameters = own.get("_parameters", {})
        if self.impl != "auto" or not _are_plain(input, parameters):
            return None
        geometry = True, own["stride"], own["padding"], own["output_padding"], own["dilation"], own["groups"]
        return recall(input, parameters["weight"], parameters["bias"], geometry)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the transposed convolution to input (N, C_in, *space) or (C_in, *space).

        Args:
            input: floating-point.
            output_size: the output's spatial sizes, among those that the stride allows; None for torch.nn's default.
        """
        y = self.try_stock(input) if output_size is None else None
        if y is not None:
            return y
        if wants_stock(input) or self.weight.is_complex():
            return super().forward(input, output_size)
        output_padding = self.output_padding
        dims = self.weight.dim() - 2
        if output_size is not None:
            output_padding = self._output_padding(
                input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
            )
        batch = input.unsqueeze(0) if input.dim() == dims + 1 else input
        y = conv_up(
            batch,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.dilation,
            self.groups,
            self.impl,
        )
        return y.squeeze(0) if input.dim() == dims + 1 else y


def _are_plain(input: Tensor, parameters: dict[str, nn.Parameter | None]) -> bool:
    """Whether the input is not of a tensor subclass, and weight and bias are parameters, not computed attributes."""
    return type(input) is Tensor and parameters.get("weight") is not None and "bias" in parameters


def _geometry(transposed: bool, sizes: tuple[Any, Any, Any, Any], groups: int, dims: int) -> Geometry:
    """A Geometry of tuples. As in torch.nn, a user may have given a layer integers, lists or one for all dimensions."""
    if any(type(value) is not tuple or len(value) != dims for value in sizes):
        stride, padding, output_padding, dilation = (tuple(per_dimension(value, dims)) for value in sizes)
        sizes = stride, padding, output_padding, dilation
    return Geometry(transposed, *sizes, groups)
