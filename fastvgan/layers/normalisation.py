"""The activation of a normalisation layer: its attributes and checks, shared by batch, group and instance norms."""

from typing import Any

from torch import Tensor

from fastvgan.layers.tracing import TraceableLayer
from fastvgan_kernels import choice
from fastvgan_kernels.activations import check_activation


class NormActLayer(TraceableLayer):
    """A normalisation layer with an activation. It precedes a class of torch.nn among the bases of a layer.

    Args:
        arguments: of torch.nn's class.
        activation: a name that norm_act accepts.
        negative_slope: of leaky_relu.
        impl: the implementation of the operation.
        options: keyword arguments of torch.nn's class.

    Raises:
        ValueError: `activation` or `impl` is unknown.
    """

    # The defaults are for a subclass whose __init__ calls torch.nn's.
    activation: str = "none"
    negative_slope: float = 0.01
    impl: str = "auto"

    def __init__(self, *arguments: Any, activation: str, negative_slope: float, impl: str, **options: Any):
        choice.check_name(impl)
        check_activation(activation)
        super().__init__(*arguments, **options)
        self.activation = activation
        self.negative_slope = negative_slope
        self.impl = impl

    # Not an abc.abstractmethod: abc's metaclass would conflict with another one of a user's subclass.
    def normalise(self, input: Tensor, activation: str, negative_slope: float, *, in_place: bool = False) -> Tensor:
        """Run forward with another activation than the module's own, for a container that fuses the next module.

        Every subclass implements it.

        Args:
            input: (N, C, *space), floating-point.
            activation: a name that norm_act accepts.
            negative_slope: of leaky_relu.
            in_place: whether torch.nn's activation would keep its result for backward, which nobody then may change.

        Returns:
            The same shape and dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement normalise")

    def extra_repr(self) -> str:
        """Return torch.nn's text with the activation appended."""
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}"
