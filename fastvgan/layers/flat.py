"""The layers for images, or for a video's frames one by one: Conv2d, ConvTranspose2d and BatchNormAct2d.

The operations take two spatial dimensions as they take three. Of ordinary 2D convolutions stock PyTorch's are faster on
the CPU, and `impl="auto"` calls them (conv/stock/on_cpu.py): one thread with AVX-512, (8, 64, 32, 32), kernel 3,
channels-last, takes 5.6 ms by stock and 6.1 by C++ in float32, 2.8 and 3.1 in bfloat16, and strided ones are alike.
C++ is twice as fast where a transposed convolution has few output channels, as the last of a generator.
"""

from torch import nn

from fastvgan.layers import deferred
from fastvgan.layers.convolutions import Convolution, TransposedConvolution
from fastvgan.layers.modules import BatchNormAct


class Conv2d(Convolution, nn.Conv2d):
    """torch.nn.Conv2d on `conv_down`: the same arguments, state_dict and results, any padding_mode.

    Shapes: (N, C_in, H, W), or without N, to the same with C_out channels.
    """


class ConvTranspose2d(TransposedConvolution, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on `conv_up`: the same arguments, state_dict and results.

    Shapes: (N, C_in, H, W), or without N, to the same with C_out channels. `output_size` chooses among the sizes that a
    stride allows.
    """


class BatchNormAct2d(BatchNormAct, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d and an activation in one operation, `norm_act`, of (N, C, H, W).

    Takes BatchNorm2d's arguments and state_dict, and `activation`, `negative_slope` and `impl` as `BatchNormAct` says.
    """


deferred.register(Conv2d, ConvTranspose2d, BatchNormAct2d)
