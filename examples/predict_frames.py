"""Predict the next frame of moving digits by a ConvLSTM (Shi et al. 2015), from fastvgan's layers.

python examples/predict_frames.py
python examples/predict_frames.py --steps 2000 --hidden 64
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import fastvgan
from fastvgan.data.digits import DigitsSource
from fastvgan.layers import Conv2d, ConvLSTM


class Predictor(nn.Module):
    """Two ConvLSTMs over the frames, and a convolution that makes each next frame of their outputs."""

    def __init__(self, hidden: int = 32):
        super().__init__()
        self.first = ConvLSTM(3, hidden, 5)
        self.second = ConvLSTM(hidden, hidden, 3)
        self.head = Conv2d(hidden, 3, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (N, C, T, H, W) in [0, 1] to logits of the frames that follow each of them, of the same shape."""
        hidden, _ = self.first(frames)
        hidden, _ = self.second(hidden)
        n, _, t, _, _ = hidden.shape
        logits = self.head(hidden.transpose(1, 2).flatten(0, 1))  # all frames at once
        return logits.unflatten(0, (n, t)).transpose(1, 2)


def to_frames(video: Tensor) -> Tensor:
    """Convert uint8 (N, T, H, W, C) to float (N, C, T, H, W) in [0, 1]."""
    return video.permute(0, 4, 1, 2, 3).float() / 255


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--hidden", type=int, default=32, help="feature maps of the ConvLSTMs")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("predicted.gif"))
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Predictor(given.hidden).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    clips = DigitsSource(split="train").batches(given.batch_size, seed=0)
    for step in range(1, given.steps + 1):
        frames = to_frames(next(clips).video.to(device))
        # Each frame but the last predicts the one after it.
        loss = nn.functional.binary_cross_entropy_with_logits(network(frames[:, :, :-1]), frames[:, :, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, given.steps // 10) == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    # Clips by other writers. A copy of the last frame is what a prediction has to beat.
    real = to_frames(next(DigitsSource(split="test").batches(8, seed=1)).video.to(device))
    with torch.no_grad():
        predicted = network(real[:, :, :-1]).sigmoid()
    error = (predicted - real[:, :, 1:]).square().mean().item()
    copied = (real[:, :, :-1] - real[:, :, 1:]).square().mean().item()
    print(f"mean squared error: predicted {error:.4f}, last frame copied {copied:.4f}")

    rows = torch.cat([real[:, :, 1:], predicted], 3)  # the real clip above the predicted one
    grid = torch.cat(list(rows), 3).permute(1, 2, 3, 0)  # (T, H, W, C), clips side by side
    fastvgan.write_video(given.out, (255 * grid).round().byte().cpu())
    print(f"{given.out}: real clips above, predictions below")


if __name__ == "__main__":
    main()
