"""Differentiable augmentation of clips (Zhao et al. 2020, DiffAugment), with the same change in all frames of a clip.

Clips are (N, C, T, H, W) in [-1, 1], in channels_last_3d, and so is the result, which may leave [-1, 1]. The formulas
are those of the paper's published code, where a clip takes the place of an image: its mean is over all its frames.
"""

from collections.abc import Container
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from fastvgan.random_draws import below, uniforms

WORDS = 10
"""Random words per clip: three to decide whether the clip gets color, translation and cutout, then brightness,
saturation, contrast, two for the translation, two for the cutout."""

_REACH, _CUT = 0.125, 0.5  # shares of a side: the farthest translation, and the side of a cutout


class Changes(NamedTuple):
    """How each of N clips is changed; None for an augmentation that is not used.

    Attributes:
        color: (N, 3), brightness to add (0 for none), and factors of saturation and contrast (1 for none).
        shift: int64 (N, 2), rows and columns from which each pixel comes, relative to its place.
        keep: bool (N, H, W), False in the rectangle to cut out.
    """

    color: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    keep: torch.Tensor | None = None


class ChangeMaker:
    """Makes `Changes` from random words, on the device and without waiting for it.

    Args:
        names: augmentations to use, of "color", "translation" and "cutout"; they are applied in this order.
        height, width: size of the clips in pixels.
        device: device of the words and of the changes.
    """

    def __init__(self, names: Container[str], height: int, width: int, device: torch.device):
        self._names, sides = names, (height, width)
        # Constants on the device, since a captured step cannot copy them there.
        self._gain = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64, device=device)
        self._least = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64, device=device)
        self._unchanged = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64, device=device)
        self._reach = torch.tensor(farthest(sides), device=device)
        cut = [int(side * _CUT + 0.5) for side in sides]
        self._half = torch.tensor([size // 2 for size in cut], device=device)
        self._centers = torch.tensor([s + 1 - c % 2 for s, c in zip(sides, cut, strict=True)], device=device)
        self._cut = cut
        self._places = [torch.arange(side, device=device) for side in sides]

    def __call__(self, words: torch.Tensor, probability: torch.Tensor) -> Changes:
        """Make the changes of N clips.

        Args:
            words: int64 (N, WORDS) in [0, 2**32).
            probability: of each augmentation for each clip, a scalar () in [0, 1].
        """
        chances = uniforms(words[:, :6])
        chosen = chances[:, :3] < probability  # (N, 3)
        color = shift = keep = None
        if "color" in self._names:
            drawn = torch.addcmul(self._least, chances[:, 3:], self._gain)
            color = torch.where(chosen[:, :1], drawn, self._unchanged)
        if "translation" in self._names:
            shift = (below(words[:, 6:8], 2 * self._reach + 1) - self._reach) * chosen[:, 1:2]
        if "cutout" in self._names:
            begin = below(words[:, 8:], self._centers) - self._half
            rows, columns = (
                (places >= first) & (places < first + size)
                for places, first, size in zip(self._places, begin.split(1, 1), self._cut, strict=True)
            )
            keep = ~(rows[:, :, None] & columns[:, None] & chosen[:, 2:, None])
        return Changes(color, shift, keep)


def farthest(sides: tuple[int, ...]) -> list[int]:
    """Return the longest translation along sides of some pixels: an eighth of each, rounded."""
    return [int(side * _REACH + 0.5) for side in sides]


def apply_changes(changes: Changes, clips: torch.Tensor, *images: torch.Tensor) -> list[torch.Tensor]:
    """Change clips, and images that a discriminator compares with them, differentiably any number of times.

    An image gets the change of its clip: its contrast, too, changes around the mean of the clip.

    Args:
        changes: of N clips.
        clips: (N, C, T, H, W).
        images: each (N, C, H, W), such as given first frames.

    Returns:
        The changed clips, then the changed images.
    """
    mean = _mean(clips) if changes.color is not None else None
    return [_change(changes, mean, clips), *(_change(changes, mean, image[:, :, None])[:, :, 0] for image in images)]


def _change(changes: Changes, mean: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    if changes.color is not None and mean is not None:
        x = _recolor(x, changes.color.to(x.dtype), mean)
    if changes.shift is not None:
        x = _Translate.apply(x, changes.shift)
    if changes.keep is not None:
        x = x * changes.keep[:, None, None].to(x.dtype)
    return x


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Mean (N, 1, 1, 1, 1) over each clip, which neither brightness (but for the sum) nor saturation changes."""
    return x.permute(0, 2, 3, 4, 1).flatten(1).mean(1)[:, None, None, None, None]


def _recolor(x: torch.Tensor, color: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Change brightness, saturation and contrast by `color` (N, 3), in that order, in one pass over x.

    With brightness b, factors s and k, and a pixel's mean g over its channels, they are x + b, (x − g) s + g and
    (x − mean) k + mean, together k s x + k (1 − s) g + (1 − k) mean + b.
    """
    brightness, saturation, contrast = color[:, :, None, None, None, None].unbind(1)  # each (N, 1, 1, 1, 1)
    rest = torch.addcmul(brightness, 1 - contrast, mean)
    if x.shape[1] == 1:  # grey, which has no saturation
        return torch.addcmul(rest, x, contrast)
    rest = torch.addcmul(rest, x.mean(1, keepdim=True), contrast * (1 - saturation))
    return torch.addcmul(rest, x, contrast * saturation)


class _Translate(torch.autograd.Function):
    """Translate clips, with zeros where no pixel comes from: result[i, j] is x[i + row, j + column].

    Its gradient is the opposite translation, which gathers, whereas that of indexing scatters.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Translate x (N, C, T, H, W) by shift, int64 (N, 2), within `farthest`."""
        ctx.save_for_backward(shift)
        n, channels, frames, height, width = x.shape
        down, across = farthest((height, width))
        padded = F.pad(x.permute(0, 2, 3, 4, 1), (0, 0, across, across, down, down))  # (N, T, H + 2d, W + 2a, C)
        # Rows are copied as a whole, from windows of a row's length that begin at any value.
        windows = padded.reshape(-1).unfold(0, width * channels, 1)
        tall, wide = height + 2 * down, width + 2 * across
        line = torch.arange(n * frames, device=x.device).view(n, frames, 1) * tall  # (N, T, 1)
        line = line + (torch.arange(down, down + height, device=x.device) + shift[:, :1])[:, None]  # (N, T, H)
        first = (line * wide + across + shift[:, 1:, None]) * channels
        return windows[first].unflatten(3, (width, channels)).permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Translate the gradient, the first one, back."""
        (shift,) = ctx.saved_tensors
        return _Translate.apply(gradients[0], -shift), None
