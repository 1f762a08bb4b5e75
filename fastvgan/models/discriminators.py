"""Discriminators of whole clips, of single frames and of differences of neighbouring frames, which can be combined.

The first returns one logit per clip, the others one per frame or difference. Each family has its own subclass of
`Discriminators`, with the trunk of its clip discriminator; the other two are the same in both families.
"""

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastvgan.layers.spectral import add_spectral_norm
from fastvgan.models.conditions import Condition, ConditionEncoder
from fastvgan.models.config import ModelConfig
from fastvgan.models.head import Projection, ScoreHead
from fastvgan.models.sizes import stages
from fastvgan.models.trunk import FrameEncoder


class Discriminators(nn.Module):
    """Scores how real a clip is and how well it fits its condition, if the model has one.

    `features` and `score` are the two halves of `forward`, so that a clip is encoded once for several captions.

    Args:
        config: its `discriminators` names the discriminators.
        trunk: maps a clip (N, C, T, H, W) and a condition to features (N, channels, *size) for the clip discriminator.
            It is dropped if there is no such discriminator.
        channels: of the trunk's features.
        size: (t, h, w) of the trunk's features.
    """

    def __init__(self, config: ModelConfig, trunk: nn.Module, channels: int, size: tuple[int, int, int]):
        super().__init__()
        self.names = config.discriminators
        self.is_spectral = config.d_norm == "spectral"
        if "clip" in self.names:
            self.trunk, self.head = trunk, ScoreHead(config, channels, size)
        self.others = nn.ModuleDict(
            {name: _KINDS[name](config) for name in ("frame", "difference") if name in self.names}
        )
        if self.is_spectral:
            # No clip passes through the encoders of conditions, and bounded ones would leave captions little weight.
            add_spectral_norm(self, ConditionEncoder)

    def features(self, x: torch.Tensor, c: Condition | None = None) -> list[Projection]:
        """Encode clips x (N, C, T, H, W) in [-1, 1] for `score`, once per discriminator."""
        # Each weight is normalised once, although its layer reads it several times.
        with parametrize.cached() if self.is_spectral else contextlib.nullcontext():
            found = [self.head(self.trunk(x, c))] if "clip" in self.names else []
            image = None if c is None else c.image
            return found + [other(x, image) for other in self.others.values()]

    def score(self, projections: list[Projection], c: Condition | None = None) -> list[torch.Tensor]:
        """Compute the logits of each discriminator.

        Args:
            projections: the result of `features`.
            c: the condition of each clip, or K of them (see `Condition`).

        Returns:
            Per discriminator (N, P) for P frames (1 for the whole clip), or (N, P, K).
        """
        return [head.score(part, c) for head, part in zip(self._heads(), projections, strict=True)]

    def widths(self) -> list[int]:
        """Return the number of features that each discriminator scores, in the order of `features`."""
        return [head.real.in_channels for head in self._heads()]

    def _heads(self) -> list[ScoreHead]:
        others: Any = self.others.values()  # FrameDiscriminators
        return ([self.head] if "clip" in self.names else []) + [other.head for other in others]

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        """Return one logit per clip, (N,): the mean over frames and over discriminators, for x (N, C, T, H, W)."""
        return sum_logits(self.score(self.features(x, c), c)) / len(self.names)


def sum_logits(logits: list[torch.Tensor]) -> torch.Tensor:
    """Combine the logits of each discriminator, (N, P), into one per clip, (N,): the sum of the means over frames.

    The result is in float32 or better.
    """
    precise = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in logits)
    return torch.stack([part.mean(1) for part in precise]).sum(0)


class FrameDiscriminator(nn.Module):
    """Scores single frames.

    MoCoGAN (Tulyakov et al. 2018) scores one random frame of each clip. Here the choice is fixed: it scores every k-th
    frame of a clip, k = `frame_every`, starting at another frame in the next clip of the batch, so that a batch covers
    all frames (see `select_frames`). If G moves a picture (`warp`), the features of a condition may be anywhere in the
    frame.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        plan = stages(config.frames, config.height, config.width, temporal=False)
        self.every = frame_stride(config)
        self.encoder = FrameEncoder(config, plan)
        self.head = ScoreHead(config, self.encoder.out_channels, (1, *plan[0].small[1:]), anywhere=config.warp)

    def forward(self, x: torch.Tensor, image: torch.Tensor | None) -> Projection:
        """Encode frames of clips x (N, C, T, H, W); image (N, C, H, W) is the given first frame, if any."""
        return self.head(self.encoder(select_frames(x, self.every), image))


class DifferenceDiscriminator(FrameDiscriminator):
    """Scores differences of neighbouring frames, as a discriminator of motion."""

    def forward(self, x: torch.Tensor, image: torch.Tensor | None) -> Projection:
        """Encode differences of neighbouring frames of clips x (N, C, T, H, W). See `FrameDiscriminator.forward`."""
        return super().forward((x[:, :, 1:] - x[:, :, :-1]) / 2, image)


_KINDS = {"frame": FrameDiscriminator, "difference": DifferenceDiscriminator}


def frame_stride(config: ModelConfig) -> int:
    """Return the k of "every k-th frame is scored"; 1 for a model that scores no single frames."""
    if {"frame", "difference"}.isdisjoint(config.discriminators):
        return 1
    return min(config.frame_every, config.frames // 2)


def count_starts(config: ModelConfig) -> int:
    """Return how many clips of a batch show all of their frames together; 1 for a model that scores no single ones."""
    frames = {"frame": config.frames, "difference": config.frames - 1}
    counts = [
        len(_starts(count, frame_stride(config))) for name, count in frames.items() if name in config.discriminators
    ]
    return max(counts, default=1)  # all of them divide the largest one


def _starts(frames: int, every: int) -> list[int]:
    """Return the first selected frame of each of consecutive clips, which together show all frames."""
    left = frames % every
    return [*range(every), *(range(left, left + every) if left else ())]


def select_frames(x: torch.Tensor, every: int) -> torch.Tensor:
    """Select every n-th frame of clips (N, C, T, H, W), n = `every`, starting at frame i modulo n in clip i.

    If T is no multiple of n, every other n clips leave out the first frames in place of the last ones.

    Returns:
        (N, C, T // `every`, H, W). T must be at least `every`.
    """
    n, _, frames, _, _ = x.shape
    if every == 1:
        return x
    x = x.permute(0, 2, 3, 4, 1)  # (N, T, H, W, C), as it lies in memory
    starts = _starts(frames, every)
    missing = -n % len(starts)
    if missing:
        x = torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
    # Slices rather than indices, whose gradient would be a scatter.
    parts = [x[k :: len(starts), start::every][:, : frames // every] for k, start in enumerate(starts)]
    return torch.stack(parts, 1).flatten(0, 1)[:n].permute(0, 4, 1, 2, 3)
