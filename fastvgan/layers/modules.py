"""Batch normalisation with an activation, and blocks of a convolution and such a norm for volumes."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastvgan.layers import deferred
from fastvgan.layers.convolutions import Conv3d, Convolution, ConvTranspose3d, PaddingMode, TransposedConvolution
from fastvgan.layers.normalisation import NormActLayer
from fastvgan.layers.tracing import TraceableLayer, wants_stock
from fastvgan_kernels import norm_act
from fastvgan_kernels._torch import name_of_group
from fastvgan_kernels.activations import ACTIVATIONS
from fastvgan_kernels.fused_conv import Norm
from fastvgan_kernels.norm_act import direct
from fastvgan_kernels.norm_act.following import Following
from fastvgan_kernels.norm_act.synced import group_named, group_of, norm_act_synced

M = TypeVar("M", bound=nn.Module)
Sizes = int | tuple[int, int, int]  # one integer, or one each for T, H and W


class BatchNormAct(NormActLayer):
    """torch.nn's BatchNorm2d or 3d and an activation in one operation. It precedes that class among a layer's bases.

    Args:
        num_features: as in torch.nn.BatchNorm3d.
        eps: as in torch.nn.BatchNorm3d.
        momentum: as in torch.nn.BatchNorm3d.
        affine: as in torch.nn.BatchNorm3d.
        track_running_stats: as in torch.nn.BatchNorm3d.
        device: as in torch.nn.BatchNorm3d.
        dtype: as in torch.nn.BatchNorm3d.
        activation: "none", "relu", "leaky_relu", "tanh", "silu" or "gelu" (exact, by the error function). What
            replaces batch norms, such as SyncBatchNorm.convert_sync_batchnorm or fuse_conv_bn_eval, drops it: call
            `sync_batch_norm` instead, or use "none" and a module after the norm.
        negative_slope: of leaky_relu.
        impl: the implementation of norm_act.
        options: keyword arguments of newer versions of torch.nn.BatchNorm3d, such as `bias`.

    Attributes:
        process_group: the ranks whose batches are normalised as one in training; None, the default, for this rank
            alone. See `sync_batch_norm`. A state_dict does not contain it; a copy keeps it.
    """

    # Set by torch.nn's class.
    num_features: int
    weight: Any  # a parameter (C,) or None; torch.nn declares it as a tensor
    bias: Any  # the same
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    eps: float
    momentum: float | None
    track_running_stats: bool
    _check_input_dim: Callable[[Tensor], None]

    # The name, unlike the group, can be copied and pickled. The class has a default because `fuse` calls no __init__.
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
        options |= {"activation": activation, "negative_slope": negative_slope, "impl": impl}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The ranks whose batches are normalised as one in training, or None for this rank alone."""
        return None if self._group_name is None else group_named(self._group_name)

    @process_group.setter
    def process_group(self, group: dist.ProcessGroup | None) -> None:
        self._group_name = None if group is None else name_of_group(group_of(group))

    @property
    def is_synced(self) -> bool:
        """Whether forward, in the present mode, uses the statistics of all ranks."""
        return self.training and self._group_name is not None

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute activation(norm(input) + residual).

        Args:
            input: (N, C, T, H, W), or (N, C, H, W) in BatchNormAct2d.
            residual: of input's shape and dtype, or None.
        """
        return self.normalise(input, self.activation, self.negative_slope, residual)

    def normalise(
        self,
        input: Tensor,
        activation: str,
        negative_slope: float,
        residual: Tensor | None = None,
        in_place: bool = False,
    ) -> Tensor:
        """Run forward with another activation. See `NormActLayer.normalise`, and `forward` for the tensors' shapes."""
        y = None if residual is not None else self._try_direct(input, activation, negative_slope, in_place)
        if y is not None:
            return y
        if wants_stock(input, self) and not self.is_synced:
            y = super().forward(input)
            return deferred.activate(y if residual is None else y + residual, activation, negative_slope)
        self._check_input_dim(input)
        if self.is_synced:
            return self._normalise_synced(input, activation, negative_slope, residual)
        tracks = self.running_mean is not None
        # Without running statistics, evaluation uses the batch's own, as in torch.nn.
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

    def _try_direct(self, input: Tensor, activation: str, negative_slope: float, in_place: bool) -> Tensor | None:
        """normalise past the dispatcher by the implementation chosen before for such an input; None if none was.

        A cheap look-up, since most calls of small layers end here.
        """
        own = self.__dict__  # nn.Module's __getattr__ would take as long as the whole look-up
        parameters, buffers, training = own.get("_parameters", {}), own.get("_buffers", {}), own["training"]
        mean, var, batches = map(buffers.get, ("running_mean", "running_var", "num_batches_tracked"))
        if (
            type(input) is not Tensor
            or self.impl != "auto"
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
        return direct.norm_act(input, weight, bias, mean, var, *how, in_place=in_place)

    def _normalise_synced(
        self, input: Tensor, activation: str, negative_slope: float, residual: Tensor | None
    ) -> Tensor:
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

    def as_following(self) -> Following:
        """Describe this norm in training for `conv_before_norm`, which computes its input and the statistics of it."""
        f = Following(self.weight, self.bias, self.eps)
        if not (self.training and self.track_running_stats and self.running_mean is not None):
            return f
        # With momentum=None this reads the count of batches, which waits for the device.
        momentum = self._share_of_next_batch()
        return f._replace(
            running_mean=self.running_mean,
            running_var=self.running_var,
            batches=self.num_batches_tracked,
            momentum=momentum,
        )

    def as_norm(self, *statistics: Any) -> Norm:
        """Describe forward, without the update of running statistics, for an operation that computes it on load.

        Args:
            statistics: mean, var, scale and shift, each (C,), as `conv_before_norm` returned them; without them the
                running statistics are used.
        """
        training = bool(statistics)
        values: tuple[Any, ...] = statistics or (self.running_mean, self.running_var)
        mean, var, *known = values
        how = training, self.eps, self.activation, self.negative_slope
        return Norm(mean, var, self.weight, self.bias, *how, *known)

    def _share_of_next_batch(self) -> float:
        if self.momentum is None and self.num_batches_tracked is not None:
            return 1.0 / (float(self.num_batches_tracked) + 1.0)
        return 0.0 if self.momentum is None else self.momentum

    def _count_batch(self) -> float:
        """Count this batch and return its share in the running statistics; momentum=None means one over the count."""
        share = self._share_of_next_batch()
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return share


class BatchNormAct3d(BatchNormAct, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d and an activation in one operation, `norm_act`, for input (N, C, T, H, W).

    Takes BatchNorm3d's arguments and state_dict, and `activation`, `negative_slope` and `impl` as in `BatchNormAct`.
    """


def sync_batch_norm(module: M, group: dist.ProcessGroup | None = None) -> M:
    """Make every BatchNormAct2d and 3d in a module use the statistics of all ranks in training. Works in place.

    The counterpart of torch.nn.SyncBatchNorm.convert_sync_batchnorm. Results equal those of one process with the
    concatenated batch (N of all ranks, C, T, H, W); N may differ between ranks. Layers keep their identity, parameters,
    buffers, dtype, state_dict and hooks, and evaluation does not change. Every rank must run the same layers in the
    same order. Gradients of parameters are each rank's share, for DistributedDataParallel to reduce. nn.BatchNorm2d and
    3d are not changed: call `fuse` first, which converts them to BatchNormAct2d and 3d.

    Args:
        module: any module, including a single layer.
        group: the ranks, a Gloo or NCCL group; None for the default group. It becomes each layer's `process_group`;
            set that to None to undo the conversion.

    Returns:
        The same module.

    Raises:
        ValueError: no default group exists, or this rank is not in the group.

    Source: Zhang et al., "Context Encoding for Semantic Segmentation", 2018 (synchronised batch normalisation).
    """
    group = group_of(group)
    for layer in module.modules():
        if isinstance(layer, BatchNormAct):
            layer.process_group = group
    return module


class _ConvNormAct(TraceableLayer):
    """A convolution without bias, `conv`, and a BatchNormAct3d, `norm`; after another norm the activation follows."""

    conv: Conv3d | ConvTranspose3d
    norm: BatchNormAct3d
    activation: str = "none"  # the defaults are of layers that were pickled without it
    negative_slope: float = 0.01

    def __init__(self, conv: Conv3d | ConvTranspose3d, eps: float, momentum: float | None, **options: Any):
        super().__init__()
        self.conv = conv
        self.norm = BatchNormAct3d(conv.out_channels, eps, momentum, **options)
        self.activation, self.negative_slope = self.norm.activation, self.norm.negative_slope

    @property
    def is_fusable(self) -> bool:
        """Whether conv and norm are still of the kinds that `deferred.conv_norm` takes."""
        return isinstance(self.norm, BatchNormAct) and isinstance(self.conv, (Convolution, TransposedConvolution))

    # Initialisers look for weight and bias in every class that is named after a convolution.
    @property
    def weight(self) -> Tensor:
        """The convolution's weight, of its shape."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """The convolution's bias (C_out,): None, unless a user assigned one."""
        return self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise and activate x (N, C_in, T, H, W); return (N, C_out, T, H, W)."""
        if self.is_fusable and not deferred.is_observed():
            return deferred.resolve(deferred.conv_norm(self.conv, self.norm, x))
        norm: Any = self.norm
        y = norm(self.conv(x))
        if isinstance(norm, BatchNormAct) or (isinstance(norm, NormActLayer) and norm.activation != "none"):
            return y
        return deferred.activate(y, self.activation, self.negative_slope)


class ConvNormAct3d(_ConvNormAct):
    """Conv3d without bias, batch normalisation and an activation; submodules `conv` and `norm`.

    Args:
        in_channels: as in Conv3d.
        out_channels: as in Conv3d.
        kernel_size: as in Conv3d.
        stride: as in Conv3d.
        padding: as in Conv3d.
        dilation: as in Conv3d.
        groups: as in Conv3d.
        padding_mode: as in Conv3d.
        activation: as in BatchNormAct3d.
        negative_slope: as in BatchNormAct3d.
        eps: as in BatchNormAct3d.
        momentum: as in BatchNormAct3d.
        impl: the implementation of both operations.
        device: as in torch.nn's layers.
        dtype: as in torch.nn's layers.
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
        place = {"impl": impl, "device": device, "dtype": dtype}
        conv = Conv3d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode, **place
        )
        super().__init__(conv, eps, momentum, activation=activation, negative_slope=negative_slope, **place)


class ConvTransposeNormAct3d(_ConvNormAct):
    """ConvTranspose3d without bias, batch normalisation and an activation; submodules `conv` and `norm`.

    Args:
        in_channels: as in ConvTranspose3d.
        out_channels: as in ConvTranspose3d.
        kernel_size: as in ConvTranspose3d.
        stride: as in ConvTranspose3d.
        padding: as in ConvTranspose3d.
        output_padding: as in ConvTranspose3d.
        groups: as in ConvTranspose3d.
        dilation: as in ConvTranspose3d.
        activation: as in BatchNormAct3d.
        negative_slope: as in BatchNormAct3d.
        eps: as in BatchNormAct3d.
        momentum: as in BatchNormAct3d.
        impl: the implementation of both operations.
        device: as in torch.nn's layers.
        dtype: as in torch.nn's layers.
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
        place = {"impl": impl, "device": device, "dtype": dtype}
        conv = ConvTranspose3d(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, False, dilation, **place
        )
        super().__init__(conv, eps, momentum, activation=activation, negative_slope=negative_slope, **place)


deferred.register(BatchNormAct3d, ConvNormAct3d, ConvTransposeNormAct3d)
