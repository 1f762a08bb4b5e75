"""Stock PyTorch's modules for the activations of our layers, with a negative slope of 0.2."""

from torch import nn

STOCK_ACTIVATIONS = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
}
