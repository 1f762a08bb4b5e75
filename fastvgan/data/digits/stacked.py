"""Stacked digits: three handwritten digits in the three colour channels of a still clip, 1,000 modes in all.

This is the test of mode collapse of Metz et al. 2017 (Unrolled GAN, section 3.3.1), which stacks MNIST's digits, but
with the digits that ship with the package, and one picture repeated in all frames.
"""

from collections.abc import Sequence

import torch

from fastvgan.data.digits.drawn import DrawnSource
from fastvgan.data.digits.source import DigitsSource
from fastvgan.data.fingerprint import compute_fingerprint
from fastvgan.data.source import Clips
from fastvgan.random_draws import uniforms

MODES = 1000
_VERSION = 1  # raise it when the same random words draw other clips
_CHANNELS = 3


class StackedDigitsSource(DrawnSource):
    """An endless source of stacked digits, without conditions; see `fastvgan.data.source.Source`.

    Args:
        frames: Frames per clip, all alike.
        height: Height of a clip; a digit, in its centre, is half as high.
        width: Width of a clip; a digit is half as wide.
        split: "train" (the digits of 10 writers) or "test" (those of the other writers).
    """

    captions: Sequence[str] = ()
    classes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    decoder = "stacked digits: drawn, not decoded"
    draws = _words = 2 * _CHANNELS  # of each channel: its digit, and the picture of it

    def __init__(self, frames: int = 4, height: int = 16, width: int = 16, split: str = "train"):
        self._frames = frames
        self._digits = DigitsSource(1, height, width, channels=1, split=split)
        self.size = self._digits.size
        facts = ["stacked digits", _VERSION, *self._digits.fingerprint]
        self.fingerprint = compute_fingerprint(facts, self.size, (), ())

    def draw(self, words: torch.Tensor, clips: torch.Tensor | None = None) -> Clips:
        """Draw clips by random words; see `fastvgan.data.source.Source.draw`.

        Args:
            words: int64 (N, 6) in [0, 2**32).
            clips: Unused.
        """
        chances = uniforms(words).unflatten(1, (_CHANNELS, 2)).flatten(0, 1)  # (3 N, 2)
        digits = (chances[:, 0] * 10).long()
        still = self._digits.draw_still(digits, chances[:, 1])  # (3 N, H, W)
        picture = still.unflatten(0, (-1, _CHANNELS)).permute(0, 2, 3, 1)  # (N, H, W, 3)
        return Clips(picture[:, None].repeat(1, self._frames, 1, 1, 1))
