"""Something that can be saved like an `AdversarialStep`, so small that a save takes no time."""

import types

import torch
from torch import nn

from fastvgan.training.step.tensors import tensors_of


class Toy:
    """Three small networks, two Adams that have no moments before the first `train`, and a counter."""

    def __init__(self, width: int = 2):
        torch.manual_seed(0)
        self.generator, self.discriminator, self.ema = (
            nn.Sequential(nn.Conv3d(width, 3, 2), nn.BatchNorm3d(3)).to(memory_format=torch.channels_last_3d)
            for _ in range(3)
        )
        self.g_update, self.d_update = (
            types.SimpleNamespace(optimizer=torch.optim.Adam(network.parameters()))
            for network in (self.generator, self.discriminator)
        )
        self.scale = torch.tensor(4.0)
        self._width = width

    def state(self) -> dict[str, torch.Tensor]:
        return {"loss/scale": self.scale}

    def train(self, steps: int = 1) -> "Toy":
        for _ in range(steps):
            for network, update in ((self.generator, self.g_update), (self.discriminator, self.d_update)):
                update.optimizer.zero_grad()
                network(torch.randn(2, self._width, 3, 4, 4)).square().mean().backward()
                update.optimizer.step()
            self.scale *= 2
        return self


def state_of(step) -> dict[str, torch.Tensor]:
    """A copy of everything that is saved of it."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(step).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two such copies are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
