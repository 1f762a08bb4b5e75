"""Operations for video GANs, each one public function with one or more implementations.

Every operation takes any batch, any size, non-contiguous and channels-last tensors, has gradients of every order, in
forward mode too, and works under torch.compile, autocast and torch.func. `implementations()` tells which implementation
serves each operation, and why. The folder is `kernels/`, beside `fastvgan/`, as in other repositories of kernels; the
package is `fastvgan_kernels`, because a top-level package named "kernels" would collide with other distributions.
"""

from . import diversity, finite, flops, lists, logistic, projection  # noqa: F401  (implementations() lists them)
from .choice import implementations
from .conv import conv_down, conv_up, conv_weight_grad
from .conv_lstm import conv_lstm, conv_lstm_cell
from .fused_conv import fused_conv
from .group_norm_act import group_norm_act
from .norm_act import norm_act

__all__ = [
    "conv_down",
    "conv_lstm",
    "conv_lstm_cell",
    "conv_up",
    "conv_weight_grad",
    "fused_conv",
    "group_norm_act",
    "implementations",
    "norm_act",
]

flops.register_on_import()
