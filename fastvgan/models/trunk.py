"""The decoder of generators and the encoders of discriminators, shared by both families."""

from typing import Any

import torch
from torch import nn

from fastvgan.layers import Conv3d, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d
from fastvgan.layers.deferred import Pending, chain, conv_act, resolve
from fastvgan.models.conditions import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.sizes import Stage, features
from fastvgan.models.warp import CHANNELS, GeneratorOutput, compose


class Decoder(nn.Module):
    """Decodes features (N, `in_channels`, t, h, w) of the plan's smallest size as a clip (N, C, T, H, W) in [-1, 1].

    Every layer but the last has batch norm and ReLU. Before the first layer and after every other one but the last,
    there are `refine` 3x3 convolutions of single frames. The last layer ends in tanh, or, with `warp`, in
    `fastvgan.models.warp.compose`.

    Args:
        config: its `base_width`, `channels`, `refine` and `warp` are used.
        plan: the layers, smallest size first.
    """

    def __init__(self, config: ModelConfig, plan: list[Stage]):
        super().__init__()
        widths = features(len(plan), config.base_width)[::-1]
        self.in_channels = widths[0]
        layers = zip(plan, widths, widths[1:], strict=False)
        middle: list[nn.Module] = _refinement(config.refine, widths[0])
        for s, before, after in layers:
            middle.append(ConvTransposeNormAct3d(before, after, s.kernel, s.stride, s.padding, activation="relu"))
            middle += _refinement(config.refine, after)
        self.middle = nn.Sequential(*middle)
        last = plan[-1]
        channels = config.channels + (CHANNELS if config.warp else 0)
        self.last = ConvTranspose3d(widths[-1], channels, last.kernel, last.stride, last.padding, bias=False)

    def forward(
        self, x: torch.Tensor | Pending, place: torch.Tensor | None = None, image: torch.Tensor | None = None
    ) -> GeneratorOutput:
        """Decode features.

        Args:
            x: (N, `in_channels`, t, h, w), or pending.
            place: with `warp`, the place of the picture in each frame, (N, 2, T) as `compose` takes it; otherwise None.
            image: the given first frame, (N, C, H, W) in [-1, 1], or None.
        """
        layers: Any = self.middle  # ConvNormAct3d and ConvTransposeNormAct3d
        x = chain(layers, x)  # (N, width, T or T/2, H/2, W/2)
        if place is not None:
            return compose(conv_act(self.last, x), place, image)
        return GeneratorOutput(conv_act(self.last, x, "tanh"))  # (N, C, T, H, W)


def _refinement(count: int, width: int) -> list[nn.Module]:
    return [ConvNormAct3d(width, width, (1, 3, 3), 1, (0, 1, 1), activation="relu") for _ in range(count)]


class Encoder(nn.Module):
    """Encodes clips (N, C, T, H, W) as features (N, `out_channels`, t, h, w) of the plan's smallest size.

    In a model whose condition has a first frame, that frame is concatenated to each frame of the clip. Every layer but
    the first has batch norm.

    Args:
        config: its `base_width`, `channels` and `condition` are used.
        plan: the layers of the generator, smallest size first.
    """

    def __init__(self, config: ModelConfig, plan: list[Stage]):
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
        """Encode clips x (N, C, T, H, W)."""
        if self.sees_image:
            x = concat_image(x, None if c is None else c.image)  # (N, 2C, T, H, W)
        x = conv_act(self.first, x, "leaky_relu", 0.2)  # (N, width, T or T/2, H/2, W/2)
        layers: Any = self.middle  # ConvNormAct3d
        return resolve(chain(layers, x))  # (N, F, t, h, w)


class FrameEncoder(nn.Module):
    """Encodes single frames (N, C, T, H, W) as features (N, `out_channels`, T, h, w) of the plan's smallest size.

    Recognising shapes takes more layers than telling real from generated frames, so a 3x3 convolution follows each
    strided one. A first frame as the condition is concatenated to each frame, as in `Encoder`.

    Args:
        config: its `base_width`, `channels` and `condition` are used.
        plan: the layers for frames (temporal=False), smallest size first.
    """

    def __init__(self, config: ModelConfig, plan: list[Stage]):
        super().__init__()
        self.sees_image = "image" in config.condition
        down = plan[::-1]
        widths = features(len(down) + 1, config.base_width)
        self.out_channels = widths[-1]
        channels, first = config.channels * (1 + self.sees_image), down[0]
        self.first = Conv3d(channels, widths[0], first.kernel, first.stride, first.padding, bias=False)
        leaky: Any = {"activation": "leaky_relu", "negative_slope": 0.2}
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            layers.append(ConvNormAct3d(before, after, (1, 3, 3), 1, (0, 1, 1), **leaky))
            if number + 1 < len(down):
                s = down[number + 1]
                layers.append(ConvNormAct3d(after, after, s.kernel, s.stride, s.padding, **leaky))
        self.middle = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Encode frames x (N, C, T, H, W); image (N, C, H, W) is the given first frame, if the model has one."""
        if self.sees_image:
            x = concat_image(x, image)  # (N, 2C, T, H, W)
        x = conv_act(self.first, x, "leaky_relu", 0.2)  # (N, width, T, H/2, W/2)
        layers: Any = self.middle  # ConvNormAct3d
        return resolve(chain(layers, x))  # (N, F, T, h, w)


class FirstFrame(nn.Module):
    """Encodes a frame (N, C, H, W) as a map (N, `channels`, h, w) of the plan's smallest size, by strided convolutions.

    Args:
        config: its `base_width` and `channels` are used.
        plan: the layers for frames (temporal=False), smallest size first.
        channels: of the map.
    """

    def __init__(self, config: ModelConfig, plan: list[Stage], channels: int):
        super().__init__()
        widths = [config.channels, *features(len(plan), config.base_width)]
        layers: list[nn.Module] = []
        for s, before, after in zip(plan[::-1], widths[:-1], widths[1:], strict=True):
            layers += [Conv3d(before, after, s.kernel, s.stride, s.padding), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, Conv3d(widths[-1], channels, (1, 3, 3), 1, (0, 1, 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode frames (N, C, H, W)."""
        return self.layers(image.unsqueeze(2)).squeeze(2)


def concat_image(x: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
    """Concatenate an image (N, C, H, W) to each frame of clips (N, C, T, H, W): (N, 2C, T, H, W).

    Raises:
        ValueError: there is no image.
    """
    if image is None:
        raise ValueError("the model's condition has a first frame: pass it as the condition's image")
    return torch.cat([x, image.unsqueeze(2).expand_as(x).to(x.dtype)], 1)
