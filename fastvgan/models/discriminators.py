"""Discriminators that can be combined: of the whole clip, of single frames, of differences of neighbouring frames.

A clip has one logit from the first of these, and one for each of its frames or differences from the others. That of
the clip is the family's own (a subclass of `Discriminators` says what its trunk is); the others are the same in both
families.
"""

import torch
from torch import nn

from fastvgan.models.conditions import Condition
from fastvgan.models.head import Projected, ScoreHead
from fastvgan.models.sizes import stages
from fastvgan.models.trunk import FrameEncoder


class Discriminators(nn.Module):
    """A clip, and a condition if the model has one, to logits: how real it is and how well it fits.

    `features` and `score` are the two halves, so that one clip can be scored under several captions for the price of
    one.

    Args:
        config: its `discriminators` says which there are. trunk: a clip (N, C, T, H, W) and a condition to the features
            of the clip's own discriminator, (N, channels, *size); not used, and not kept, where there is none.
    """

    def __init__(self, config, trunk: nn.Module, channels: int, size: tuple[int, int, int]):
        super().__init__()
        self.names = config.discriminators
        if "clip" in self.names:
            self.trunk, self.head = trunk, ScoreHead(config, channels, size)
        self.others = nn.ModuleDict(
            {name: _KINDS[name](config) for name in ("frame", "difference") if name in self.names}
        )

    def features(self, x: torch.Tensor, c: Condition | None = None) -> list[Projected]:
        """What `score` takes, one for each discriminator, of x (N, C, T, H, W) in [-1, 1]."""
        found = [self.head(self.trunk(x, c))] if "clip" in self.names else []
        image = None if c is None else c.image
        return found + [other(x, image) for other in self.others.values()]

    def score(self, projected: list[Projected], c: Condition | None = None) -> list[torch.Tensor]:
        """Logits of each discriminator, (N, P) for P frames (1: the clip as a whole).

        Under K conditions per clip (see `Condition`) they are (N, P, K).
        """
        heads = [self.head] if "clip" in self.names else []
        heads += [other.head for other in self.others.values()]
        return [head.score(part, c) for head, part in zip(heads, projected, strict=True)]

    def widths(self) -> list[int]:
        """How many features each discriminator makes its logits of, in the order of `features`."""
        heads = [self.head] if "clip" in self.names else []
        return [head.real.in_channels for head in (*heads, *(other.head for other in self.others.values()))]

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        """One logit per clip, (N,): the mean over the discriminators, of each over its frames."""
        return per_clip(self.score(self.features(x, c), c)) / len(self.names)


def per_clip(logits: list[torch.Tensor]) -> torch.Tensor:
    """The logits of a clip, (N, P) from each discriminator, as one, (N,): their sum, of each the mean over frames.

    In float32 or better.
    """
    precise = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in logits)
    return torch.stack([part.mean(1) for part in precise]).sum(0)


class FrameDiscriminator(nn.Module):
    """Scores single frames.

    MoCoGAN (Tulyakov et al. 2018) shows its discriminator of images one frame of each clip, drawn at random. Here
    nothing is drawn: with k = `frame_every`, clip i of a batch shows every k-th frame from frame i modulo k on, so that
    a batch has all of them. Where G moves a picture (`warp`) what a condition says is looked for wherever it shows.
    """

    def __init__(self, config):
        super().__init__()
        plan = stages(config.frames, config.height, config.width, temporal=False)
        self.every = frames_between(config)
        self.encoder = FrameEncoder(config, plan)
        self.head = ScoreHead(config, self.encoder.out_channels, (1, *plan[0].small[1:]), anywhere=config.warp)

    def forward(self, x: torch.Tensor, image: torch.Tensor | None) -> Projected:
        return self.head(self.encoder(some_frames(x, self.every), image))


class DifferenceDiscriminator(FrameDiscriminator):
    """Scores differences of neighbouring frames, as a discriminator of motion."""

    def forward(self, x: torch.Tensor, image: torch.Tensor | None) -> Projected:
        return super().forward((x[:, :, 1:] - x[:, :, :-1]) / 2, image)


_KINDS = {"frame": FrameDiscriminator, "difference": DifferenceDiscriminator}


def frames_between(config) -> int:
    """Every how many frames one is judged on its own; 1 where none is."""
    if {"frame", "difference"}.isdisjoint(config.discriminators):
        return 1
    return min(config.frame_every, config.frames // 2)


def some_frames(x: torch.Tensor, every: int) -> torch.Tensor:
    """Of clips (N, C, T, H, W) every so many frames, clip i beginning with frame i modulo `every`.

    Each clip gives T // `every` frames, of which there must be one at least.
    """
    n, _, frames, _, _ = x.shape
    if every == 1:
        return x
    x = x.permute(0, 2, 3, 4, 1)  # (N, T, H, W, C), as it lies in memory
    missing = -n % every
    if missing:
        x = torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
    # Slices and not indices, whose gradient would be a scatter.
    parts = [x[k::every, k::every][:, : frames // every] for k in range(every)]
    return torch.stack(parts, 1).flatten(0, 1)[:n].permute(0, 4, 1, 2, 3)
