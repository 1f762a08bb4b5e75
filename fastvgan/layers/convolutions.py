"""What the convolution layers of two and of three dimensions share: torch.nn's forward on `conv_down` and `conv_up`."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvgan.layers.tracing import TraceableLayer, wants_stock
from fastvgan_kernels import choice, conv_down, conv_up
from fastvgan_kernels.conv.stock.direct import recall
from fastvgan_kernels.fused_conv import Geometry

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Sizes = int | tuple[int, ...]  # one integer, or one for each spatial dimension


class Convolution(TraceableLayer):
    """Goes before torch.nn's Conv2d or Conv3d among the bases of a layer, and computes its forward on `conv_down`."""

    # torch.nn's; one integer for each spatial dimension, unless somebody sets another afterwards.
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: PaddingMode
    _reversed_padding_repeated_twice: list[int]
    impl: str

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
        y = self.recalled(input)
        if y is not None:
            return y
        if wants_stock(input):
            return super().forward(input)
        if input.dim() == self.weight.dim() - 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        x, padding = self._pad(input)
        return conv_down(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.impl)

    def recalled(self, input: Tensor) -> Tensor | None:
        """What forward gives, where stock PyTorch is known to serve inputs like this one; else None, at little cost."""
        own = self.__dict__  # nn.Module's __getattr__ would take as long as all that is asked here
        parameters = own.get("_parameters", {})
        if own["impl"] != "auto" or own["padding_mode"] != "zeros" or not _are_plain(input, parameters):
            return None
        geometry = False, own["stride"], own["padding"], 0, own["dilation"], own["groups"]
        return recall(input, parameters["weight"], parameters["bias"], geometry)

    def geometry(self) -> Geometry | None:
        """What fused_conv wants to know, or None where the padding is not of that kind."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        dims = self.weight.dim() - 2
        return _geometry(False, self.stride, self.padding, (0,) * dims, self.dilation, groups=self.groups, dims=dims)

    def _pad(self, x: Tensor) -> tuple[Tensor, int | tuple[int, ...]]:
        """What conv_down cannot pad itself: other values than zeros, and "same" for an even kernel."""
        if self.padding_mode == "zeros":
            if not isinstance(self.padding, str):
                return x, self.padding
            before = self._reversed_padding_repeated_twice[::-1]  # (right, left) a dimension, first dimension first
            if before[0::2] == before[1::2]:
                return x, tuple(before[0::2])
            return functional.pad(x, self._reversed_padding_repeated_twice), 0
        return functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0


class TransposedConvolution(TraceableLayer):
    """Goes before torch.nn's ConvTranspose2d or ConvTranspose3d among the bases, and computes forward on `conv_up`."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any  # as stride
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    _output_padding: Any  # its method
    impl: str

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
        """What fused_conv wants to know."""
        each = self.stride, self.padding, self.output_padding, self.dilation
        return _geometry(True, *each, groups=self.groups, dims=self.weight.dim() - 2)

    def recalled(self, input: Tensor) -> Tensor | None:
        """What forward gives, where stock PyTorch is known to serve inputs like this one; else None, at little cost."""
        own = self.__dict__
        parameters = own.get("_parameters", {})
        if own["impl"] != "auto" or not _are_plain(input, parameters):
            return None
        geometry = True, own["stride"], own["padding"], own["output_padding"], own["dilation"], own["groups"]
        return recall(input, parameters["weight"], parameters["bias"], geometry)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        y = self.recalled(input) if output_size is None else None
        if y is not None:
            return y
        if wants_stock(input):
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
    """Whether input is a tensor of no subclass, and weight and bias are parameters of the module, and not computed."""
    return type(input) is Tensor and parameters.get("weight") is not None and "bias" in parameters


def _geometry(transposed: bool, *each: int | Sequence[int], groups: int, dims: int) -> Geometry:
    """A Geometry of tuples: who sets a layer's attribute afterwards may set one integer or a list, as in torch.nn."""
    if set(map(type, each)) != {tuple}:
        each = tuple((value,) * dims if isinstance(value, int) else tuple(value) for value in each)
    return Geometry(transposed, *each, groups)
