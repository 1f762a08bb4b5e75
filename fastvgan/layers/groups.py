"""torch.nn's group and instance normalisation, each with an activation, over the operations of fastvgan_kernels."""

from typing import Any

import torch
from torch import Tensor, nn

from fastvgan.layers import deferred
from fastvgan.layers.normalisation import NormActLayer
from fastvgan.layers.tracing import wants_stock
from fastvgan_kernels import group_norm_act, norm_act
from fastvgan_kernels.group_norm_act import direct


class _PerSampleNormAct(NormActLayer):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise and activate input (N, C, *space); return the same shape and dtype."""
        return self.normalise(input, self.activation, self.negative_slope)

    def _normalise_by_stock(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        return deferred.activate(super().forward(input), activation, negative_slope)

    def _normalise_by_group(self, input: Tensor, groups: int, activation: tuple[str, float], in_place: bool) -> Tensor:
        own: Any = self  # with the attributes of torch.nn's class
        inputs = input, groups, own.weight, own.bias
        if in_place and self.impl == "auto" and direct.serves(*inputs, activation[0]):
            return direct.group_norm_act(*inputs, own.eps, *activation, in_place)
        return group_norm_act(*inputs, own.eps, *activation, self.impl)


class GroupNormAct(_PerSampleNormAct, nn.GroupNorm):
    """torch.nn.GroupNorm and an activation in one operation, `group_norm_act`.

    Takes GroupNorm's arguments and state_dict. The output keeps the memory format of the input (N, C, *space).

    Args:
        num_groups: as in torch.nn.GroupNorm.
        num_channels: as in torch.nn.GroupNorm.
        eps: as in torch.nn.GroupNorm.
        affine: as in torch.nn.GroupNorm.
        device: as in torch.nn.GroupNorm.
        dtype: as in torch.nn.GroupNorm.
        activation: a name that norm_act accepts.
        negative_slope: of leaky_relu.
        impl: the implementation of group_norm_act.
        options: keyword arguments of newer versions of torch.nn.GroupNorm, such as `bias`.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
        impl: str = "auto",
        **options: Any,
    ):
        options |= {"activation": activation, "negative_slope": negative_slope, "impl": impl}
        super().__init__(num_groups, num_channels, eps, affine, device, dtype, **options)

    def normalise(self, input: Tensor, activation: str, negative_slope: float, *, in_place: bool = False) -> Tensor:
        """Run forward with another activation; input and result are (N, C, *space). See `NormActLayer.normalise`."""
        if wants_stock(input, self) or not 2 <= input.dim() <= 5:
            return self._normalise_by_stock(input, activation, negative_slope)
        if input.is_cuda and torch.is_autocast_enabled("cuda"):
            input = input.float()  # autocast does the same for torch's group_norm, on GPUs only
        return self._normalise_by_group(input, self.num_groups, (activation, negative_slope), in_place)


class _InstanceNormAct(_PerSampleNormAct):
    # Set by torch.nn's class.
    num_features: int
    eps: float
    track_running_stats: bool
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None

    _sample_dim: int  # dimensions of an input without a batch dimension

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
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

    def normalise(self, input: Tensor, activation: str, negative_slope: float, *, in_place: bool = False) -> Tensor:
        """Run forward with another activation. See `NormActLayer.normalise`."""
        tracks, is_unbatched = self.running_mean is not None, input.dim() == self._sample_dim
        by_input = self.training or not self.track_running_stats
        # Stock PyTorch also updates running statistics, and raises for bad input. With running statistics in evaluation
        # norm_act may call torch.batch_norm, whose gradients are wrong for an unbatched channels-last input.
        if (
            wants_stock(input, self)
            or not self._has_valid_sizes(input)
            or tracks is by_input
            or (tracks and is_unbatched)
        ):
            return self._normalise_by_stock(input, activation, negative_slope)
        if is_unbatched:
            return self.normalise(input.unsqueeze(0), activation, negative_slope, in_place=in_place).squeeze(0)
        if tracks:
            how = self.eps, activation, negative_slope, self.impl
            statistics = self.running_mean, self.running_var
            return norm_act(input, self.weight, self.bias, *statistics, False, 0.0, *how)
        return self._normalise_by_group(input, self.num_features, (activation, negative_slope), in_place)

    def _normalise_by_stock(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        y = super(_PerSampleNormAct, self).forward(input)
        # torch 2.13 computes one sample as a batch norm whose gradient must not be channels-last: it would be wrong.
        if y.requires_grad and self.running_mean is not None and y.numel() == y.shape[-self._sample_dim :].numel():
            y = y.flatten().view(y.shape)
        return deferred.activate(y, activation, negative_slope)

    def _has_valid_sizes(self, input: Tensor) -> bool:
        """Whether torch.nn's layer accepts these sizes without an error or a warning."""
        unbatched = self._sample_dim
        if input.dim() not in (unbatched, unbatched + 1):
            return False
        sizes = input.shape[input.dim() - unbatched :]
        return sizes[0] == self.num_features and sizes[1:].numel() != 1


class InstanceNormAct2d(_InstanceNormAct, nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d and an activation in one operation, `group_norm_act` with one group per channel.

    Takes InstanceNorm2d's arguments and state_dict. Input (N, C, H, W) or (C, H, W); the output keeps its memory
    format. Stock PyTorch computes a forward that updates running statistics; `norm_act` one that uses them.

    Args:
        num_features: as in torch.nn.InstanceNorm2d.
        eps: as in torch.nn.InstanceNorm2d.
        momentum: as in torch.nn.InstanceNorm2d.
        affine: as in torch.nn.InstanceNorm2d.
        track_running_stats: as in torch.nn.InstanceNorm2d.
        device: as in torch.nn.InstanceNorm2d.
        dtype: as in torch.nn.InstanceNorm2d.
        activation: a name that norm_act accepts.
        negative_slope: of leaky_relu.
        impl: the implementation of the operation.
        options: keyword arguments of newer versions of torch.nn.InstanceNorm2d, such as `bias`.
    """

    _sample_dim = 3


class InstanceNormAct3d(_InstanceNormAct, nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d and an activation in one operation: InstanceNormAct2d for (N, C, T, H, W)."""

    _sample_dim = 4


deferred.register(GroupNormAct, InstanceNormAct2d, InstanceNormAct3d)
