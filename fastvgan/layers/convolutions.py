"""Conv3d and ConvTranspose3d, and the bases they share with 2D: torch.nn's forward by `conv_down` and `conv_up`."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvgan.layers import deferred
from fastvgan.layers.tracing import TraceableLayer, wants_stock
from fastvgan_kernels import choice, conv_down, conv_up
from fastvgan_kernels.arguments import per_dimension
from fastvgan_kernels.conv.stock.direct import recall
from fastvgan_kernels.fused_conv import Geometry

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Sizes = int | tuple[int, ...]  # one integer, or one per spatial dimension

_PLAIN = nn.Parameter, type(None), Tensor


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
    _sample_dim: int  # dimensions of an input without a batch dimension; set by the layer's class
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
        if wants_stock(input, self, self._may_gain) or input.is_complex():
            return super().forward(input)
        if input.dim() == self._sample_dim:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        return self.convolve(input, self.weight)

    def convolve(self, input: Tensor, weight: Tensor) -> Tensor:
        """Run forward with the layer's weight, which the caller has read.

        A parametrised weight is computed each time that it is read, and may differ: a call of torch.nn's layer reads it
        once.

        Args:
            input: (N, C_in, *space) or (C_in, *space).
            weight: (C_out, C_in / groups, *kernel).
        """
        if input.dim() == self._sample_dim:
            return self.convolve(input.unsqueeze(0), weight).squeeze(0)
        x, padding = self._pad(input)
        return conv_down(x, weight, self.bias, self.stride, padding, self.dilation, self.groups, self.impl)

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
        dims = self._sample_dim - 1
        return _geometry(False, (self.stride, self.padding, (0,) * dims, self.dilation), self.groups, dims)

    def _may_gain(self, _x: Tensor) -> bool:
        """As `wants_stock` takes it: whether on_cpu.py of kernels/conv/stock chooses C++ for any input or gradient."""
        return self._sample_dim == 4 and self.out_channels // self.groups >= 32

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
    _sample_dim: int  # as Convolution's
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
        return _geometry(True, sizes, self.groups, self._sample_dim - 1)

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
        if wants_stock(input, self, self._may_gain) or input.is_complex():
            return super().forward(input, output_size)
        if output_size is None:
            output_padding = self.output_padding
        else:
            sizes = self.stride, self.padding, self.kernel_size
            output_padding = self._output_padding(input, output_size, *sizes, self._sample_dim - 1, self.dilation)
        return self._convolve(input, self.weight, output_padding)

    def convolve(self, input: Tensor, weight: Tensor) -> Tensor:
        """Run forward with the layer's weight, which the caller has read. See `Convolution.convolve`.

        Args:
            input: (N, C_in, *space) or (C_in, *space).
            weight: (C_in, C_out / groups, *kernel).
        """
        return self._convolve(input, weight, self.output_padding)

    def _may_gain(self, x: Tensor) -> bool:
        """See `Convolution._may_gain`."""
        few, volumes = self.out_channels // self.groups <= 8, self._sample_dim == 4
        if x.is_contiguous() and x.shape[2:].numel() > 1:
            return few and volumes
        return few or volumes

    def _convolve(self, x: Tensor, weight: Tensor, output_padding: tuple[int, ...]) -> Tensor:
        if x.dim() == self._sample_dim:
            return self._convolve(x.unsqueeze(0), weight, output_padding).squeeze(0)
        sizes = self.stride, self.padding, output_padding, self.dilation
        return conv_up(x, weight, self.bias, *sizes, self.groups, self.impl)


def _are_plain(input: Tensor, parameters: dict[str, nn.Parameter | None]) -> bool:
    """Whether input and bias are of no tensor subclass, and weight and bias are parameters, not computed attributes."""
    return type(input) is Tensor and parameters.get("weight") is not None and type(parameters.get("bias", 0)) in _PLAIN


def _geometry(transposed: bool, sizes: tuple[Any, Any, Any, Any], groups: int, dims: int) -> Geometry:
    """A Geometry of tuples. As in torch.nn, a user may have given a layer integers, lists or one for all dimensions."""
    if any(type(value) is not tuple or len(value) != dims for value in sizes):
        stride, padding, output_padding, dilation = (tuple(per_dimension(value, dims)) for value in sizes)
        sizes = stride, padding, output_padding, dilation
    return Geometry(transposed, *sizes, groups)


class Conv3d(Convolution, nn.Conv3d):
    """torch.nn.Conv3d on `conv_down`: the same arguments, state_dict and results, with any padding_mode.

    Input (N, C_in, T, H, W) or (C_in, T, H, W); output with C_out channels.
    """

    _sample_dim = 4


class ConvTranspose3d(TransposedConvolution, nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on `conv_up`: the same arguments, state_dict and results.

    Input (N, C_in, T, H, W) or (C_in, T, H, W); output with C_out channels. `output_size` selects one of the output
    sizes that the stride allows.
    """

    _sample_dim = 4


deferred.register(Conv3d, ConvTranspose3d)
