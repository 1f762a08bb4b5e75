"""Layers for volumes: convolutions, batch normalisation with an activation, and both in one."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastvgan.layers import deferred
from fastvgan.layers.convolutions import Convolution, PaddingMode, TransposedConvolution
from fastvgan.layers.tracing import TraceableLayer, wants_stock
from fastvgan_kernels import choice, norm_act
from fastvgan_kernels.activations import ACTIVATIONS
from fastvgan_kernels.fused_conv import Norm
from fastvgan_kernels.norm_act import direct
from fastvgan_kernels.norm_act.following import Following
from fastvgan_kernels.norm_act.synced import group_named, group_of, norm_act_synced

M = TypeVar("M", bound=nn.Module)
Sizes = int | tuple[int, int, int]  # one integer, or one for each of T, H and W


class Conv3d(Convolution, nn.Conv3d):
    """torch.nn.Conv3d on `conv_down`: the same arguments, state_dict and results, any padding_mode.

    Shapes: (N, C_in, T, H, W), or without N, to the same with C_out channels.
    """


class ConvTranspose3d(TransposedConvolution, nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on `conv_up`: the same arguments, state_dict and results.

    Shapes: (N, C_in, T, H, W), or without N, to the same with C_out channels. `output_size` chooses among the sizes
    that a stride allows.
    """


class BatchNormAct(TraceableLayer):
    """Goes before torch.nn's BatchNorm2d or BatchNorm3d among the bases, and computes it and an activation in one.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as torch.nn.BatchNorm3d.
        activation: "none", "relu", "leaky_relu", "tanh", "silu" or "gelu" (the exact one, by the error function).
        negative_slope: of leaky_relu.
        impl: the implementation of norm_act.
        options: what newer versions of torch.nn.BatchNorm3d take by keyword, as `bias`.

    Attributes:
        process_group: the ranks whose batches are normalised as one in training, or None, which it is at first; see
            `sync_batch_norm`. In no state_dict; a copy has the same group.
    """

    # torch.nn's.
    weight: Any  # a parameter (C,), as bias is, or None
    bias: Any
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    eps: float
    momentum: float | None
    track_running_stats: bool
    _check_input_dim: Any  # its method

    # By its name, which unlike the group can be copied and pickled. Of the class, for norms that `fuse` made.
    _group_name: str | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        impl: str = "auto",
        **options: Any,
    ):
        choice.check_name(impl)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
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

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(norm(input) + residual); residual of input's shape and dtype, or None for none."""
        return self.normalise(input, self.activation, self.negative_slope, residual)

    def normalise(
        self, input: Tensor, activation: str, negative_slope: float, residual: Tensor | None = None
    ) -> Tensor:
        """Forward with another activation than the module's own, as a container that fuses one behind it asks for.

        Args:
            input: (N, C, T, H, W), of BatchNormAct2d (N, C, H, W), floating-point.
            activation, negative_slope, residual: as norm_act's.

        Returns:
            The same shape and dtype.
        """
        y = None if residual is not None else self._recalled(input, activation, negative_slope)
        if y is not None:
            return y
        if wants_stock(input) and not self.is_synced:
            y = super().forward(input)
            return deferred.activate(y if residual is None else y + residual, activation, negative_slope)
        self._check_input_dim(input)
        if self.is_synced:
            return self._synced(input, activation, negative_slope, residual)
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
            residual,
        )

    def _recalled(self, input: Tensor, activation: str, negative_slope: float) -> Tensor | None:
        """normalise by what is known to serve inputs like this one; None, at little cost, where nothing is."""
        own = self.__dict__  # nn.Module's __getattr__ would take as long as all that is asked here
        parameters, buffers, training = own.get("_parameters", {}), own.get("_buffers", {}), own["training"]
        mean, var, batches = map(buffers.get, ("running_mean", "running_var", "num_batches_tracked"))
        if (
            type(input) is not Tensor
            or own["impl"] != "auto"
            or mean is None
            or not ("weight" in parameters and "bias" in parameters and activation in ACTIVATIONS)
            or (training and not (own["track_running_stats"] and own["momentum"] is not None and batches is not None))
            or (training and self._group_name is not None)
        ):
            return None
        weight, bias = parameters["weight"], parameters["bias"]
        chosen = direct.recall(input, weight, bias, mean, var, training)
        if chosen == "cpp" and not torch.is_grad_enabled():
            self._check_input_dim(input)
            if activation == "none" and input.stride(1) != 1:
                return direct.norm_act(input, weight, bias, mean, var, False, 0.0, own["eps"], "none", 0.0)
            return direct.norm_act_in_cpp(input, weight, bias, mean, var, own["eps"], activation, negative_slope)
        if chosen != "reference":
            return None
        self._check_input_dim(input)
        if training:
            batches.add_(1)
        how = training, own["momentum"] if training else 0.0, own["eps"], activation, negative_slope
        return direct.norm_act(input, weight, bias, mean, var, *how)

    def _synced(self, input: Tensor, activation: str, negative_slope: float, residual: Tensor | None) -> Tensor:
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
            residual,
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


class BatchNormAct3d(BatchNormAct, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d and an activation in one operation, `norm_act`, of (N, C, T, H, W).

    Takes BatchNorm3d's arguments and state_dict, and `activation`, `negative_slope` and `impl` as `BatchNormAct` says.
    """


def sync_batch_norm(module: M, group: dist.ProcessGroup | None = None) -> M:
    """Have every BatchNormAct2d and 3d in a module normalise, in training, the batches of all ranks as one; in place.

    The counterpart of torch.nn.SyncBatchNorm.convert_sync_batchnorm; results are those of one process with the
    concatenated batch (N of all ranks, C, T, H, W), also where ranks have different N. Every layer stays the same
    object with the same parameters, buffers, dtype, state_dict and hooks, and computes as ever in evaluation. Every
    rank has to run the same layers in the same order; gradients of parameters are each rank's share, for
    DistributedDataParallel to reduce. nn.BatchNorm2d and 3d are left as they are: call `fuse` before, which makes
    BatchNormAct2d and 3d of them.

    Args:
        module: any module, itself such a layer or not.
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
        if isinstance(layer, BatchNormAct):
            layer.process_group = group
    return module


class _NormAct(TraceableLayer):
    """A convolution without bias, `conv`, and BatchNormAct3d, `norm`.

    Attributes:
        weight, bias: the convolution's, since initialisers look for them in every class named after a convolution.
    """

    conv: Conv3d | ConvTranspose3d
    norm: BatchNormAct3d

    @property
    def weight(self) -> Tensor:
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        return self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        if wants_stock(x):
            return self.norm(self.conv(x))
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
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        impl: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
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
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        dilation: Sizes = 1,
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        impl: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        place = {"impl": impl, "device": device, "dtype": dtype}
        self.conv = ConvTranspose3d(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, False, dilation, **place
        )
        self.norm = BatchNormAct3d(
            out_channels, eps, momentum, activation=activation, negative_slope=negative_slope, **place
        )


deferred.register(Conv3d, ConvTranspose3d, BatchNormAct3d, ConvNormAct3d, ConvTransposeNormAct3d)
