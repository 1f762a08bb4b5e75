"""The textbook's two networks of the preset `reference` in stock PyTorch, and what they cost."""

import math

import torch
from torch import nn

BATCH = 64


def generator() -> nn.Sequential:
    """(N, 100, 1, 1, 1) to (N, 3, 16, 16, 16)."""
    return nn.Sequential(
        nn.ConvTranspose3d(100, 256, 4, 1, 0, bias=False), nn.BatchNorm3d(256), nn.ReLU(),
        nn.ConvTranspose3d(256, 128, 4, 2, 1, bias=False), nn.BatchNorm3d(128), nn.ReLU(),
        nn.ConvTranspose3d(128, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Sequential:
    """(N, 3, 16, 16, 16) to (N, 1, 1, 1, 1)."""
    return nn.Sequential(
        nn.Conv3d(3, 128, 4, 2, 1, bias=False), nn.LeakyReLU(0.2),
        nn.Conv3d(128, 256, 4, 2, 1, bias=False), nn.BatchNorm3d(256), nn.LeakyReLU(0.2),
        nn.Conv3d(256, 1, 4, 1, 0, bias=False),
    )  # fmt: skip


def conv_flops(batch: int, small: tuple[int, ...], weight: torch.Size) -> int:
    """Of one pass of a convolution, forward or either gradient, whose small side has these sizes."""
    return 2 * batch * math.prod(small) * math.prod(weight)


def share_inside(large: int, small: int, kernel: int, stride: int, padding: int) -> float:
    """Of a dimension's products of position and tap, those that fall on a value and not on padding.

    The usual count takes all: a kernel that leaves these out seems to exceed the machine's peak by up to a half.
    """
    inside = sum(0 <= i * stride - padding + j < large for i in range(small) for j in range(kernel))
    return inside / (small * kernel)


def layer_flops(network: nn.Module, *shape: int, needed: bool = False) -> list[int]:
    """Of one forward pass over an input of this shape, a number a convolution; `needed` leaves padding out."""
    flops = []

    def note(conv, inputs, output):
        large, small = (output, inputs[0]) if isinstance(conv, nn.ConvTranspose3d) else (inputs[0], output)
        geometry = zip(large.shape[2:], small.shape[2:], conv.kernel_size, conv.stride, conv.padding, strict=True)
        share = math.prod(share_inside(*dimension) for dimension in geometry) if needed else 1
        flops.append(round(share * conv_flops(small.shape[0], small.shape[2:], conv.weight.shape)))

    network = network.to("meta")
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(note)
    network(torch.empty(shape, device="meta"))
    return flops


def step_flops(needed: bool = False) -> int:
    """Of one update of each network: what no loop can leave out.

    One pass of G serves both updates, the first layers give no gradient to noise or clips that want none, and D's
    weights get none in G's update.
    """
    g = layer_flops(generator(), BATCH, 100, 1, 1, 1, needed=needed)
    d = layer_flops(discriminator(), BATCH, 3, 16, 16, 16, needed=needed)
    g_forward, d_forward = sum(g), 3 * sum(d)  # D: on real and made clips, and on these again after its update
    d_update = 2 * (sum(d) + sum(d[1:]))  # weight gradients, and data gradients down to the second layer
    g_update = sum(d) + sum(g) + sum(g[1:])  # through D to the clip, then both kinds in G
    return g_forward + d_forward + d_update + g_update
