"""Replace the layers of a network of one's own by fused ones, and compare results and speed side by side.

python examples/fuse_network.py
python examples/fuse_network.py --channels 32 --size 64
"""

import argparse
import copy
import time

import torch
from torch import Tensor, nn

from fastvgan.layers import FuseReport, fuse


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.LeakyReLU(0.1),
        nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.LeakyReLU(0.1),
    )


class UNet3d(nn.Module):
    """A 3D U-Net (Çiçek et al. 2016) of three levels, of torch.nn's layers only."""

    def __init__(self, channels: int = 16, inputs: int = 3, outputs: int = 4):
        super().__init__()
        self.down = nn.ModuleList([block(inputs, channels), block(channels, 2 * channels)])
        self.middle = block(2 * channels, 4 * channels)
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose3d(2 * width, width, 2, stride=2) for width in (2 * channels, channels)
        )
        self.up = nn.ModuleList(block(2 * width, width) for width in (2 * channels, channels))
        self.head = nn.Conv3d(channels, outputs, 1)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level in self.down:
            kept.append(level(x))
            x = self.pool(kept[-1])
        x = self.middle(x)
        for enlarge, level in zip(self.enlarge, self.up, strict=True):
            x = level(torch.cat([enlarge(x), kept.pop()], 1))
        return self.head(x)


def time_step(network: nn.Module, x: Tensor, repeats: int) -> float:
    """Return the seconds of the fastest of some forward and backward passes."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    best = float("inf")
    for _ in range(repeats + 1):  # the first one is slower
        wait()
        begin = time.perf_counter()
        network(x).square().mean().backward()
        wait()
        best = min(best, time.perf_counter() - begin)
    return best


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=16, help="feature maps at the first level")
    parser.add_argument("--size", type=int, default=32, help="height and width, a multiple of 4")
    parser.add_argument("--frames", type=int, default=16, help="length, a multiple of 4")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stock = UNet3d(given.channels).to(device)
    fused, report = copy.deepcopy(stock), FuseReport()
    fuse(fused, report=report)
    print(report)

    x = torch.randn(2, 3, given.frames, given.size, given.size, device=device)
    difference = (fused(x) - stock(x)).abs().max().item()
    before, after = (time_step(network, x, given.repeats) for network in (stock, fused))
    print(f"\nlargest difference of the outputs: {difference:.1e}")
    print(f"forward and backward on {device}: stock {1000 * before:.1f} ms, fused {1000 * after:.1f} ms", end="")
    print(f" ({before / after:.2f} times as fast)")


if __name__ == "__main__":
    main()
