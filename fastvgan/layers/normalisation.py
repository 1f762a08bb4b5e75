"""The activation of a normalisation layer: its attributes and checks, shared by batch, group and instance norms."""

from torch import Tensor

from fastvgan.layers.tracing import TraceableLayer
from fastvgan_kernels import choice
from fastvgan_kernels.activations import ACTIVATIONS


class NormActLayer(TraceableLayer):
    """A normalisation layer with an activation. It precedes a class of torch.nn among the bases of a layer."""

    activation: str
    negative_slope: float
    impl: str

    def _set_activation(self, activation: str, negative_slope: float, impl: str) -> None:
        self.activation = activation
        self.negative_slope = negative_slope
        self.impl = impl

    def normalise(self, input: Tensor, activation: str, negative_slope: float) -> Tensor:
        """Run forward with another activation than the module's own, for a container that fuses the next module.

        Args:
            input: (N, C, *space), floating-point.
            activation: a name that norm_act accepts.
            negative_slope: of leaky_relu.

        Returns:
            The same shape and dtype.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return torch.nn's text with the activation appended."""
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}"


def check_options(activation: str, impl: str) -> None:
    """Check a layer's `activation` and `impl`.

    Raises:
        ValueError: one of them is unknown.
    """
    choice.check_name(impl)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
