"""The layers for images, or for a video's frames one by one: Conv2d, ConvTranspose2d and BatchNormAct2d.

The operations take two spatial dimensions as they take three. Of ordinary 2D convolutions stock PyTorch's are faster on
the CPU, and `impl="auto"` calls them (kernels/conv/measured.py): one thread with AVX-512, (8, 64, 32, 32), kernel 3,
channels-last, takes 5.6 ms by stock and 6.1 by C++ in float32, 2.8 and 3.1 in bfloat16, and strided ones are alike.
C++ is faster, by about 2, where a transposed convolution has few output channels, as the last of a generator, or where
its input is a single pixel in channels-last, as a generator's first.
"""

from typing import Any

import torch
from torch import nn

from fastvgan import deferred
from fastvgan.convolutions import Convolution, PaddingMode, TransposedConvolution
from fastvgan.layers import BatchNormAct
from fastvgan_kernels import choice

Sizes = int | tuple[int, int]  # one integer, or one for each of H and W


class Conv2d(Convolution, nn.Conv2d):
    """torch.nn.Conv2d on `conv_down`: the same arguments, state_dict and results, any padding_mode.

    Shapes: (N, C_in, H, W), or without N, to the same with C_out channels.
    """

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
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.impl = impl


class ConvTranspose2d(TransposedConvolution, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on `conv_up`: the same arguments, state_dict and results.

    Shapes: (N, C_in, H, W), or without N, to the same with C_out channels. `output_size` chooses among the sizes that a
    stride allows.
    """

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
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self.impl = impl


class BatchNormAct2d(BatchNormAct, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d and an activation in one operation, `norm_act`, of (N, C, H, W).

    Takes BatchNorm2d's arguments and state_dict, and `activation`, `negative_slope` and `impl` as `BatchNormAct` says.
    """


deferred.register(Conv2d, ConvTranspose2d, BatchNormAct2d)
