"""Layers for images, or for the frames of a video one by one: Conv2d, ConvTranspose2d and BatchNormAct2d.

The operations accept two spatial dimensions as well as three. For ordinary 2D convolutions on the CPU stock PyTorch is
faster, so `impl="auto"` calls it (kernels/conv/stock/on_cpu.py): on one thread with AVX-512, input (8, 64, 32, 32),
kernel 3, channels-last, stock PyTorch takes 5.6 ms and C++ 6.1 ms in float32, 2.8 and 3.1 ms in bfloat16; strided
convolutions compare the same way. C++ is twice as fast for a transposed convolution with few output channels, such as a
generator's last layer.
"""

from torch import nn

from fastvgan.layers import deferred
from fastvgan.layers.convolutions import Convolution, TransposedConvolution
from fastvgan.layers.modules import BatchNormAct


class Conv2d(Convolution, nn.Conv2d):
    """torch.nn.Conv2d on `conv_down`: the same arguments, state_dict and results, with any padding_mode.

    Input (N, C_in, H, W) or (C_in, H, W); output with C_out channels.
    """

    _sample_dim = 3


class ConvTranspose2d(TransposedConvolution, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on `conv_up`: the same arguments, state_dict and results.

    Input (N, C_in, H, W) or (C_in, H, W); output with C_out channels. `output_size` selects one of the output sizes
    that the stride allows.
    """

    _sample_dim = 3


class BatchNormAct2d(BatchNormAct, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d and an activation in one operation, `norm_act`, for input (N, C, H, W).

    Takes BatchNorm2d's arguments and state_dict, and `activation`, `negative_slope` and `impl` as in `BatchNormAct`.
    """


deferred.register(Conv2d, ConvTranspose2d, BatchNormAct2d)
