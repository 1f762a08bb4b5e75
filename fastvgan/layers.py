"""Layers over the operations of fastvgan_kernels, usable in any network.

`ConvTranspose3d` and `Conv3d` take torch.nn's arguments and state_dict, `BatchNormAct3d` BatchNorm3d's. Every layer
has an `impl` argument that names the implementation of its operations ("auto" unless told).
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from fastvgan import deferred
from fastvgan_kernels import conv_down, conv_lstm, conv_lstm_cell, conv_up, norm_act
from fastvgan_kernels.fused_conv import Geometry, Norm
from fastvgan_kernels.norm_act.following import Following
from fastvgan_kernels.norm_act.synced import group_named, group_of, norm_act_synced

M = TypeVar("M", bound=nn.Module)


def __getattr__(name: str):
    # fuse.py is built from the layers here, so that it can only be imported after them.
    if name in ("fuse", "FuseReport", "FuseEntry", "FusedSequential"):
        from fastvgan import fuse

        return getattr(fuse, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _geometry(transposed: bool, *each: int | Sequence[int], groups: int) -> Geometry:
    """A Geometry of tuples: who sets a layer's attribute afterwards may set one integer or a list, as in torch.nn."""
    if set(map(type, each)) != {tuple}:
        each = tuple((value,) * 3 if isinstance(value, int) else tuple(value) for value in each)
    return Geometry(transposed, *each, groups)


class Conv3d(nn.Conv3d):
    """torch.nn.Conv3d on `conv_down`: the same arguments, state_dict and results, any padding_mode.

    Shapes: (N, C_in, T, H, W), or without N, to the same with C_out channels.
    """

    def __init__(self, *args, impl: str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.impl = impl

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 4:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        x, padding = self._pad(input)
        return conv_down(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.impl)

    def geometry(self) -> Geometry | None:
        """What fused_conv wants to know, or None where the padding is not of that kind."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        return _geometry(False, self.stride, self.padding, (0, 0, 0), self.dilation, groups=self.groups)

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """What conv_down cannot pad itself: other values than zeros, and "same" for an even kernel."""
        if self.padding_mode == "zeros":
            if not isinstance(self.padding, str):
                return x, self.padding
            before = self._reversed_padding_repeated_twice[::-1]  # (right, left) a dimension, first dimension first
            if before[0::2] == before[1::2]:
                return x, tuple(before[0::2])
            return functional.pad(x, self._reversed_padding_repeated_twice), (0, 0, 0)
        return functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0, 0)


class ConvTranspose3d(nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on `conv_up`: the same arguments, state_dict and results.

    Shapes: (N, C_in, T, H, W), or without N, to the same with C_out channels. `output_size` chooses among the sizes
    that a stride allows.
    """

    def __init__(self, *args, impl: str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.impl = impl

    def geometry(self) -> Geometry:
        """What fused_conv wants to know."""
        return _geometry(True, self.stride, self.padding, self.output_padding, self.dilation, groups=self.groups)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        output_padding = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(
                input, output_size, self.stride, self.padding, self.kernel_size, 3, self.dilation
            )
        batch = input.unsqueeze(0) if input.dim() == 4 else input
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
        return y.squeeze(0) if input.dim() == 4 else y


class BatchNormAct3d(nn.BatchNorm3d):
    """torch.nn.BatchNorm3d and an activation in one operation, `norm_act`.

    Takes BatchNorm3d's arguments and state_dict, and:

    Args:
        activation: "none", "relu", "leaky_relu" or "tanh".
        negative_slope: of leaky_relu.
        impl: the implementation of norm_act.

    Attributes:
        process_group: the ranks whose batches are normalised as one in training, or None, which it is at first; see
            `sync_batch_norm`. In no state_dict; a copy has the same group.
    """

    # By its name, which unlike the group can be copied and pickled. Of the class, for norms that `fuse` made.
    _group_name: str | None = None

    def __init__(self, *args, activation: str = "none", negative_slope: float = 0.01, impl: str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = activation
        self.negative_slope = negative_slope
        self.impl = impl

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        return None if self._group_name is None else group_named(self._group_name)

    @process_group.setter
    def process_group(self, group: dist.ProcessGroup | None) -> None:
        self._group_name = None if group is None else group_of(group).group_name

    @property
    def is_synced(self) -> bool:
        """Whether forward, as the module is now, takes the statistics of all ranks."""
        return self.training and self._group_name is not None

    def forward(self, input: Tensor) -> Tensor:
        return self.normalise(input, self.activation, self.negative_slope)

    def normalise(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        """Forward with another activation than the module's own, as a container that fuses one behind it asks for.

        Args:
            input: (N, C, T, H, W), floating-point.
            activation, negative_slope: as norm_act's.

        Returns:
            The same shape and dtype.
        """
        self._check_input_dim(input)
        if self.is_synced:
            return self._synced(input, activation, negative_slope)
        tracks = self.running_mean is not None
        # Without running statistics the batch's own serve in evaluation too, as in torch.nn.
        training = self.training or not tracks
        update = self.training and self.track_running_stats
        return norm_act(
            input,
            self.weight,
            self.bias,
            self.running_mean if update or not training else None,
            self.running_var if update or not training else None,
            training,
            self._count_batch() if update else 0.0,
            self.eps,
            activation,
            negative_slope,
            self.impl,
        )

    def _synced(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        update = self.track_running_stats and self.running_mean is not None
        return norm_act_synced(
            input,
            self.weight,
            self.bias,
            self.running_mean if update else None,
            self.running_var if update else None,
            self._count_batch() if self.track_running_stats else 0.0,
            self.eps,
            activation,
            negative_slope,
            self.impl,
            self.process_group,
        )

    def following(self) -> Following:
        """What is known of the norm before its input is, for `conv_before_norm`: forward in training, so far."""
        f = Following(self.weight, self.bias, self.eps)
        if not (self.training and self.track_running_stats and self.running_mean is not None):
            return f
        # The share of this batch is the host's to know where it depends on the count.
        momentum = self._share_of_next_batch()
        return f._replace(
            running_mean=self.running_mean,
            running_var=self.running_var,
            batches=self.num_batches_tracked,
            momentum=momentum,
        )

    def pending(self, *statistics: Tensor | None) -> Norm:
        """What forward would do to an input beside updating the running statistics, without doing it.

        Args:
            statistics: mean, var, scale and shift as `conv_before_norm` gave them; none for the running ones.
        """
        training = bool(statistics)
        mean, var, *known = statistics if training else (self.running_mean, self.running_var)
        how = training, self.eps, self.activation, self.negative_slope
        return Norm(mean, var, self.weight, self.bias, *how, *known)

    def _share_of_next_batch(self) -> float:
        if self.momentum is None and self.num_batches_tracked is not None:
            return 1.0 / (float(self.num_batches_tracked) + 1.0)
        return 0.0 if self.momentum is None else self.momentum

    def _count_batch(self) -> float:
        """Count this batch; its share in the running statistics, which for momentum=None is one over the count."""
        share = self._share_of_next_batch()
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return share

    def extra_repr(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}"


def sync_batch_norm(module: M, group: dist.ProcessGroup | None = None) -> M:
    """Have every BatchNormAct3d in a module normalise, in training, the batches of all ranks as one; in place.

    The counterpart of torch.nn.SyncBatchNorm.convert_sync_batchnorm; results are those of one process with the
    concatenated batch (N of all ranks, C, T, H, W), also where ranks have different N. Every layer stays the same
    object with the same parameters, buffers, dtype, state_dict and hooks, and computes as ever in evaluation. Every
    rank has to run the same layers in the same order; gradients of parameters are each rank's share, for
    DistributedDataParallel to reduce. nn.BatchNorm3d is left as it is: call `fuse` before, which makes BatchNormAct3d
    of it.

    Args:
        module: any module, itself a BatchNormAct3d or not.
        group: the ranks, by Gloo or NCCL; None for the default group. The attribute `process_group` of a layer is set
            to it, and may be set to None to undo this.

    Returns:
        The module given.

    Raises:
        ValueError: there is no default group, or this rank is not in the group.

    Source: Zhang et al., "Context Encoding for Semantic Segmentation", 2018 (synchronised batch normalisation).
    """
    group = group_of(group)
    for layer in module.modules():
        if isinstance(layer, BatchNormAct3d):
            layer.process_group = group
    return module


class _NormAct(nn.Module):
    """A convolution without bias, `conv`, and BatchNormAct3d, `norm`."""

    conv: nn.Module
    norm: BatchNormAct3d

    def forward(self, x: Tensor) -> Tensor:
        return deferred.value(deferred.conv_norm(self.conv, self.norm, x))


class ConvNormAct3d(_NormAct):
    """Conv3d without bias, batch normalisation and an activation; submodules `conv` and `norm`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as Conv3d.
        activation, negative_slope, eps, momentum: as BatchNormAct3d.
        impl: the implementation of both operations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        padding_mode: str = "zeros",
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        impl: str = "auto",
        device=None,
        dtype=None,
    ):
        super().__init__()
        place = {"impl": impl, "device": device, "dtype": dtype}
        self.conv = Conv3d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode, **place
        )
        self.norm = BatchNormAct3d(
            out_channels, eps, momentum, activation=activation, negative_slope=negative_slope, **place
        )


class ConvTransposeNormAct3d(_NormAct):
    """ConvTranspose3d without bias, batch normalisation and an activation; submodules `conv` and `norm`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation: as ConvTranspose3d.
        activation, negative_slope, eps, momentum: as BatchNormAct3d.
        impl: the implementation of both operations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        output_padding=0,
        groups: int = 1,
        dilation=1,
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        impl: str = "auto",
        device=None,
        dtype=None,
    ):
        super().__init__()
        place = {"impl": impl, "device": device, "dtype": dtype}
        self.conv = ConvTranspose3d(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, False, dilation, **place
        )
        self.norm = BatchNormAct3d(
            out_channels, eps, momentum, activation=activation, negative_slope=negative_slope, **place
        )


class _ConvLSTMBase(nn.Module):
    """The parameters of a convolutional LSTM: weight_ih (4C, C_in, k, k), weight_hh (4C, C, k, k), bias (4C,)."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = True,
        *,
        impl: str = "auto",
        device=None,
        dtype=None,
    ):
        super().__init__()
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(size) != 2 or any(k < 1 or k % 2 == 0 for k in size):
            raise ValueError(f"kernel_size must be an odd integer or two, not {kernel_size!r}")
        self.in_channels, self.hidden_channels, self.kernel_size, self.impl = in_channels, hidden_channels, size, impl
        gates, place = 4 * hidden_channels, {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(gates, in_channels, *size, **place))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_channels, *size, **place))
        self.register_parameter("bias", nn.Parameter(torch.empty(gates, **place)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within ± one over the root of a gate's recurrent fan-in: torch.nn.LSTM's rule for kernel size 1."""
        bound = 1 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}{bias}"


class ConvLSTMCell(_ConvLSTMBase):
    """One step of a convolutional LSTM (Shi et al. 2015, without peepholes), on `conv_lstm_cell`.

    Args:
        in_channels, hidden_channels: C_in and C.
        kernel_size: odd, one or two integers.
        bias: whether the gates have one.
        impl: the implementation of the operation.
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """x (N, C_in, H, W) and the state (h, c), each (N, C, H, W) or zeros when None, to the next (h, c)."""
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[2:])
            state = zeros, zeros.to(torch.promote_types(x.dtype, torch.float32))
        return conv_lstm_cell(x, *state, self.weight_ih, self.weight_hh, self.bias, self.impl)


class ConvLSTM(_ConvLSTMBase):
    """A convolutional LSTM over a sequence (Shi et al. 2015, without peepholes), on `conv_lstm`.

    Args:
        in_channels, hidden_channels: C_in and C.
        kernel_size: odd, one or two integers.
        bias: whether the gates have one.
        impl: the implementation of the operation.
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N, C_in, T, H, W) and a state (h, c) or None, to the output (N, C, T, H, W) and the last (h, c)."""
        h0, c0 = (None, None) if state is None else state
        output, h, c = conv_lstm(x, h0, c0, self.weight_ih, self.weight_hh, self.bias, self.impl)
        return output, (h, c)


deferred.register(Conv3d, ConvTranspose3d, BatchNormAct3d, ConvNormAct3d, ConvTransposeNormAct3d)
