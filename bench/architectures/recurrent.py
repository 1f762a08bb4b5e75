"""A ConvLSTM that predicts frames, as a loop over stock convolutions."""

import torch
from torch import nn


class ConvLSTMCell(nn.Module):
    """One convolution for all four gates of input and state; without the peephole weights, as in public code."""

    def __init__(self, inputs: int, hidden: int, kernel: int):
        super().__init__()
        self.hidden = hidden
        self.conv = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)

    def forward(self, x, state):
        h, c = state
        i, f, o, g = self.conv(torch.cat((x, h), 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def zeros(self, x):
        """Return the state before the first frame."""
        zeros = x.new_zeros(x.shape[0], self.hidden, *x.shape[2:])
        return zeros, zeros


class FramePredictor(nn.Module):
    """Encodes a clip with stacked ConvLSTMs, and forecasts with others from their states.

    (N, C, T, H, W) to the next T frames. Frames are split into patches, whose pixels become channels.

    Args:
        patch: height and width of a patch, 4 in the paper.
        hidden: channels of each layer, 128, 64, 64 in the paper.

    Source: Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting", 2015,
    section 3.2 and figure 3.
    """

    def __init__(self, channels: int = 1, patch: int = 4, hidden: tuple[int, ...] = (128, 64, 64), kernel: int = 5):
        super().__init__()
        inside = channels * patch**2
        self.to_patches = nn.PixelUnshuffle(patch)
        self.to_frames = nn.PixelShuffle(patch)
        self.encoder = nn.ModuleList(
            ConvLSTMCell(n, m, kernel) for n, m in zip((inside, *hidden), hidden, strict=False)
        )
        below = (hidden[0], *hidden)
        self.forecaster = nn.ModuleList(ConvLSTMCell(n, m, kernel) for n, m in zip(below, hidden, strict=False))
        self.readout = nn.Conv2d(sum(hidden), inside, 1)

    def forward(self, x):
        frames = [self.to_patches(frame) for frame in x.unbind(2)]
        states = [cell.zeros(frames[0]) for cell in self.encoder]
        for frame in frames:
            self._step(self.encoder, frame, states)
        predicted = []
        nothing = frames[0].new_zeros(x.shape[0], self.forecaster[0].hidden, *frames[0].shape[2:])
        for _ in frames:
            self._step(self.forecaster, nothing, states)
            predicted.append(self.to_frames(self.readout(torch.cat([h for h, _ in states], 1))))
        return torch.stack(predicted, 2)

    @staticmethod
    def _step(cells, x, states) -> None:
        for index, cell in enumerate(cells):
            states[index] = cell(x, states[index])
            x = states[index][0]
