"""What the families share: the layers from the first feature map up to a clip, and from a clip down to the last one."""

import torch
from torch import nn

from fastvgan.layers import Conv3d, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d
from fastvgan.layers.deferred import Pending, chain, conv_act, resolve
from fastvgan.models.conditions import Condition
from fastvgan.models.sizes import Stage, features
from fastvgan.models.warp import CHANNELS, Drawn, compose


class Decoder(nn.Module):
    """Features (N, `in_channels`, t, h, w) of the plan's smallest size to a clip (N, C, T, H, W) in [-1, 1].

    Each layer but the last has batch norm and ReLU. Before the first layer and behind each but the last, `refine`
    convolutions of 3x3 work on each frame on its own. Where the configuration says `warp` the last one makes frames as
    `fastvgan.models.warp` says, and else ends in tanh.

    Args:
        plan: the layers, smallest size first.
    """

    def __init__(self, config, plan: list[Stage]):
        super().__init__()
        widths = features(len(plan), config.base_width)[::-1]
        self.in_channels = widths[0]
        layers = zip(plan, widths, widths[1:], strict=False)
        middle: list[nn.Module] = _refining(config.refine, widths[0])
        for s, before, after in layers:
            middle.append(ConvTransposeNormAct3d(before, after, s.kernel, s.stride, s.padding, activation="relu"))
            middle += _refining(config.refine, after)
        self.middle = nn.Sequential(*middle)
        last, self.warps = plan[-1], config.warp
        made = config.channels + (CHANNELS if config.warp else 0)
        self.last = ConvTranspose3d(widths[-1], made, last.kernel, last.stride, last.padding, bias=False)

    def forward(
        self, x: torch.Tensor | Pending, place: torch.Tensor | None = None, image: torch.Tensor | None = None
    ) -> Drawn:
        """See this class.

        Args:
            place: where the moving picture is in each frame, as `compose` takes it (only with `warp`).
            image: (N, C, H, W) in [-1, 1], the given first frame, if there is one.
        """
        x = chain(self.middle, x)  # (N, width, T or T/2, H/2, W/2)
        if self.warps:
            return compose(conv_act(self.last, x), place, image)
        return Drawn(conv_act(self.last, x, "tanh"))  # (N, C, T, H, W)


def _refining(count: int, width: int) -> list[nn.Module]:
    return [ConvNormAct3d(width, width, (1, 3, 3), 1, (0, 1, 1), activation="relu") for _ in range(count)]


class Encoder(nn.Module):
    """A clip (N, C, T, H, W) to features (N, `out_channels`, t, h, w) of the plan's smallest size.

    Where the model follows a first frame, that is laid beside each frame of the clip.

    Args:
        plan: the layers of the generator, smallest size first; all but the one that sees the clip have batch norm.
    """

    def __init__(self, config, plan: list[Stage]):
        super().__init__()
        self.sees_image = "image" in config.condition
        down = plan[::-1]
        widths = features(len(down), config.base_width)
        self.out_channels = widths[-1]
        channels, first = config.channels * (1 + self.sees_image), down[0]
        self.first = Conv3d(channels, widths[0], first.kernel, first.stride, first.padding, bias=False)
        layers = zip(down[1:], widths, widths[1:], strict=False)
        self.middle = nn.Sequential(
            *(
                ConvNormAct3d(before, after, s.kernel, s.stride, s.padding, activation="leaky_relu", negative_slope=0.2)
                for s, before, after in layers
            )
        )

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        if self.sees_image:
            x = beside(x, c.image)  # (N, 2C, T, H, W)
        x = conv_act(self.first, x, "leaky_relu", 0.2)  # (N, width, T or T/2, H/2, W/2)
        return resolve(chain(self.middle, x))  # (N, F, t, h, w)


class FrameEncoder(nn.Module):
    """Frames (N, C, T, H, W), each on its own, to features (N, `out_channels`, T, h, w) of the plan's smallest size.

    Telling shapes apart takes more layers than telling real from generated does, so each strided convolution has one of
    3x3 behind it. A first frame that the model follows is laid beside each frame, as in `Encoder`.

    Args:
        plan: the layers of the generator's frames, smallest size first; time is left alone.
    """

    def __init__(self, config, plan: list[Stage]):
        super().__init__()
        self.sees_image = "image" in config.condition
        down = plan[::-1]
        widths = features(len(down) + 1, config.base_width)
        self.out_channels = widths[-1]
        channels, first = config.channels * (1 + self.sees_image), down[0]
        self.first = Conv3d(channels, widths[0], first.kernel, first.stride, first.padding, bias=False)
        leaky = {"activation": "leaky_relu", "negative_slope": 0.2}
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            layers.append(ConvNormAct3d(before, after, (1, 3, 3), 1, (0, 1, 1), **leaky))
            if number + 1 < len(down):
                s = down[number + 1]
                layers.append(ConvNormAct3d(after, after, s.kernel, s.stride, s.padding, **leaky))
        self.middle = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        if self.sees_image:
            x = beside(x, image)  # (N, 2C, T, H, W)
        x = conv_act(self.first, x, "leaky_relu", 0.2)  # (N, width, T, H/2, W/2)
        return resolve(chain(self.middle, x))  # (N, F, T, h, w)


class FirstFrame(nn.Module):
    """A frame (N, C, H, W) to a map (N, `channels`, h, w) of the plan's smallest size, by strided convolutions.

    Args:
        plan: the layers of the generator's frames, smallest size first.
    """

    def __init__(self, config, plan: list[Stage], channels: int):
        super().__init__()
        widths = [config.channels, *features(len(plan), config.base_width)]
        layers: list[nn.Module] = []
        for s, before, after in zip(plan[::-1], widths[:-1], widths[1:], strict=True):
            layers += [Conv3d(before, after, s.kernel, s.stride, s.padding), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, Conv3d(widths[-1], channels, (1, 3, 3), 1, (0, 1, 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image.unsqueeze(2)).squeeze(2)


def beside(x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Clips (N, C, T, H, W) with a picture (N, C, H, W) laid beside each of their frames: (N, 2C, T, H, W)."""
    return torch.cat([x, image.unsqueeze(2).expand_as(x).to(x.dtype)], 1)
