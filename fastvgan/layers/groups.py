"""torch.nn's group and instance normalisation, each with an activation, over the operations of fastvgan_kernels."""

from typing import Any

import torch
from torch import Tensor, nn

from fastvgan.layers import deferred
from fastvgan.layers.tracing import TraceableLayer, wants_stock
from fastvgan_kernels import choice, group_norm_act, norm_act
from fastvgan_kernels.activations import ACTIVATIONS


class _NormAct(TraceableLayer):
    """What the layers here share: the activation, and forward by `normalise`."""

    activation: str
    negative_slope: float
    impl: str

    def _set_activation(self, activation: str, negative_slope: float, impl: str) -> None:
        self.activation = activation
        self.negative_slope = negative_slope
        self.impl = impl

    def forward(self, input: Tensor) -> Tensor:
        return self.normalise(input, self.activation, self.negative_slope)

    def normalise(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        """Forward with another activation than the module's own, as a container that fuses one behind it asks for.

        Args:
            input: as the class says, floating-point.
            activation, negative_slope: as norm_act's.

        Returns:
            The same shape and dtype.
        """
        raise NotImplementedError

    def _stock(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        """normalise by torch.nn's forward, which comes after ours among the bases."""
        return deferred.activate(super().forward(input), activation, negative_slope)

    def extra_repr(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}"


def _check(activation: str, impl: str) -> None:
    choice.check_name(impl)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")


class GroupNormAct(_NormAct, nn.GroupNorm):
    """torch.nn.GroupNorm and an activation in one operation, `group_norm_act`.

    Takes GroupNorm's arguments and state_dict, and keeps the memory format of its input, which is (N, C, *space).

    Args:
        activation: as norm_act's.
        negative_slope: of leaky_relu.
        impl: the implementation of group_norm_act.
        options: what newer versions of torch.nn.GroupNorm take by keyword, as `bias`.
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
        _check(activation, impl)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype, **options)
        self._set_activation(activation, negative_slope, impl)

    def normalise(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        if wants_stock(input) or not 2 <= input.dim() <= 5:
            return self._stock(input, activation, negative_slope)
        if input.is_cuda and torch.is_autocast_enabled("cuda"):
            input = input.float()  # as autocast does it for torch's group_norm on GPUs, and only there
        how = self.eps, activation, negative_slope, self.impl
        return group_norm_act(input, self.num_groups, self.weight, self.bias, *how)


class _InstanceNormAct(_NormAct):
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
        _check(activation, impl)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self._set_activation(activation, negative_slope, impl)

    def normalise(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        tracks, is_unbatched = self.running_mean is not None, input.dim() == self._get_no_batch_dim()
        by_input = self.training or not self.track_running_stats
        # Also where running statistics are to be updated, and what torch.nn refuses. torch.batch_norm, which serves
        # small norms by running statistics, gives wrong gradients for a channels-last input without a batch.
        if wants_stock(input) or not self._is_taken(input) or tracks is by_input or (tracks and is_unbatched):
            return self._stock(input, activation, negative_slope)
        if is_unbatched:
            return self.normalise(input.unsqueeze(0), activation, negative_slope).squeeze(0)
        how = self.eps, activation, negative_slope, self.impl
        if tracks:
            statistics = self.running_mean, self.running_var
            return norm_act(input, self.weight, self.bias, *statistics, False, 0.0, *how)
        return group_norm_act(input, self.num_features, self.weight, self.bias, *how)

    def _is_taken(self, input: Tensor) -> bool:
        """Whether it has the sizes that torch.nn's layer neither refuses nor warns of."""
        unbatched = self._get_no_batch_dim()
        if input.dim() not in (unbatched, unbatched + 1):
            return False
        sizes = input.shape[input.dim() - unbatched :]
        return sizes[0] == self.num_features and sizes[1:].numel() != 1


class InstanceNormAct2d(_InstanceNormAct, nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d and an activation in one operation, `group_norm_act` with as many groups as channels.

    Takes InstanceNorm2d's arguments and state_dict. Shapes: (N, C, H, W), or without N, whose memory format it keeps.
    Where it is to update running statistics, stock PyTorch computes it; by running statistics, `norm_act` does.

    Args:
        activation: as norm_act's.
        negative_slope: of leaky_relu.
        impl: the implementation of the operation.
        options: what newer versions of torch.nn.InstanceNorm2d take by keyword, as `bias`.
    """


class InstanceNormAct3d(_InstanceNormAct, nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d and an activation in one operation: InstanceNormAct2d for (N, C, T, H, W)."""


deferred.register(GroupNormAct, InstanceNormAct2d, InstanceNormAct3d)
