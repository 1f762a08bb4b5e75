"""The decoder of generators and the encoders of discriminators, shared by both families."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastvgan.layers import Conv3d, ConvNormAct3d, ConvTranspose3d, ConvTransposeNormAct3d, GroupNormAct
from fastvgan.layers.deferred import Pending, chain, conv_act, resolve
from fastvgan.models.conditions import Condition
from fastvgan.models.config import ModelConfig
from fastvgan.models.sizes import (
    ConvSizes,
    Size,
    Stage,
    block_kernel,
    clip_layers,
    features,
    frame_layers,
    has_blocks,
    has_time_margin,
    is_temporal,
)
from fastvgan.models.warp import CHANNELS, GeneratorOutput, compose

_MOST_GROUPS = 32  # the default of Wu & He 2018 (Group Normalization)
_LEAKY: Any = {"activation": "leaky_relu", "negative_slope": 0.2}


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


class _DiscriminatorEncoder(nn.Module):
    """Convolutions with leaky ReLUs from a clip (N, C, T, H, W) to features (N, `out_channels`, t, h, w).

    In a model whose condition has a first frame, that frame is concatenated to each frame of the clip. With `d_norm`
    "batch" every layer but the first has batch norm; see `PerClipLayers` for the others.

    Args:
        config: its `base_width`, `channels`, `condition`, `d_norm` and `d_blocks` are used.
        layers: the convolutions, from the clip to the features.
        sees_contrast: whether the first layer has a bias that is not 0; see `_spread_bias`.
        end_copies: how often the first and the last frame are repeated before the first layer; see `repeat_ends`.
    """

    def __init__(self, config: ModelConfig, layers: list[ConvSizes], sees_contrast: bool, end_copies: int = 0):
        super().__init__()
        self.end_copies = end_copies
        self.sees_image = "image" in config.condition
        self.out_channels = layers[-1].after
        self.per_clip = None
        if config.d_norm != "batch":
            self.per_clip = PerClipLayers(config, layers)
        else:
            self.first = Conv3d(*layers[0], bias=sees_contrast)
            self.middle = nn.Sequential(*(ConvNormAct3d(*sizes, **_LEAKY) for sizes in layers[1:]))
        if sees_contrast:
            _spread_bias(self.first if self.per_clip is None else self.per_clip.first)

    def encode(self, x: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
        """Encode clips x (N, C, T, H, W); image (N, C, H, W) is the given first frame, if the model has one."""
        if self.sees_image:
            x = concat_image(x, image)  # (N, 2C, T, H, W)
        x = repeat_ends(x, self.end_copies)
        if self.per_clip is not None:
            return self.per_clip(x)
        x = conv_act(self.first, x, **_LEAKY)  # (N, width, T or T/2, H/2, W/2)
        layers: Any = self.middle  # ConvNormAct3d
        return resolve(chain(layers, x))  # (N, F, t, h, w)


class Encoder(_DiscriminatorEncoder):
    """Encodes clips (N, C, T, H, W) as features (N, `out_channels`, t, h, w) of the plan's smallest size.

    Args:
        config: see `_DiscriminatorEncoder`.
        plan: the layers of the generator, smallest size first.
    """

    def __init__(self, config: ModelConfig, plan: list[Stage]):
        layers, end_copies = clip_layers(config, plan), 0
        if has_time_margin(config):
            # Zeros around a clip would make its ends look unlike its middle, and G then ends in frames that are too
            # sharp and noisy.
            end_copies, height, width = layers[0].padding
            layers[0] = layers[0]._replace(padding=(0, height, width))
        super().__init__(config, layers, config.d_bias, end_copies)

    def forward(self, x: torch.Tensor, c: Condition | None = None) -> torch.Tensor:
        """Encode clips x (N, C, T, H, W)."""
        return self.encode(x, None if c is None else c.image)


class FrameEncoder(_DiscriminatorEncoder):
    """Encodes single frames (N, C, T, H, W) as features (N, `out_channels`, T, h, w) of the plan's smallest size.

    Args:
        config: see `_DiscriminatorEncoder`.
        plan: the layers for frames (temporal=False), smallest size first.
    """

    def __init__(self, config: ModelConfig, plan: list[Stage]):
        # One discriminator that sees contrast is enough, and two slowed the learning of digits.
        sees_contrast = config.d_bias and "clip" not in config.discriminators
        super().__init__(config, frame_layers(config, plan), sees_contrast)

    def forward(self, x: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Encode frames x (N, C, T, H, W); image (N, C, H, W) is the given first frame, if the model has one."""
        return self.encode(x, image)


class PerClipLayers(nn.Module):
    """Convolutions with residual blocks and leaky ReLUs, for `d_norm` "none", "group" and "spectral".

    With "group" every layer but the first has a group norm. If no layer sees more than one frame, the norm's statistics
    are those of each frame, so that frames are scored one by one.

    Args:
        config: its `d_norm` and `d_blocks` are used.
        layers: the convolutions, from the clip to the features.
    """

    def __init__(self, config: ModelConfig, layers: list[ConvSizes]):
        super().__init__()
        has_norm = config.d_norm == "group"
        self._splits_frames = has_norm and not is_temporal(layers)
        counts = [config.d_blocks * has_blocks(layer) for layer in layers]
        # Fixup's rule for branches of two layers: the first one's weights are smaller the more branches there are.
        gain, kernel = max(sum(counts), 1) ** -0.5, block_kernel(layers)
        self.layers = nn.Sequential()
        for number, (layer, count) in enumerate(zip(layers, counts, strict=True)):
            blocks = [_ResidualBlock(layer.after, kernel, has_norm, gain) for _ in range(count)]
            self.layers.append(_Layer(layer, blocks, has_norm and number > 0))

    @property
    def first(self) -> Conv3d:
        """The convolution that reads clips."""
        layers: Any = self.layers
        return layers[0].conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode clips x (N, C, T, H, W) as features (N, F, t, h, w)."""
        if not self._splits_frames:
            return self.layers(x)
        frames = x.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (N T, C, 1, H, W), a view of channels-last clips
        y = self.layers(frames).squeeze(2)  # (N T, F, h, w)
        return y.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)  # (N, F, T, h, w)


class _Layer(nn.Module):
    """A convolution, residual blocks, and a leaky ReLU with or without a group norm."""

    def __init__(self, sizes: ConvSizes, blocks: Iterable[nn.Module], has_norm: bool):
        super().__init__()
        self.conv = _convolution(sizes, not has_norm)
        self.blocks = nn.Sequential(*blocks)
        self.norm = _group_norm(sizes.after) if has_norm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm is None and not len(self.blocks):
            return conv_act(self.conv, x, **_LEAKY)
        y = self.blocks(conv_act(self.conv, x))
        return nn.functional.leaky_relu(y, 0.2) if self.norm is None else self.norm(y)


class _ResidualBlock(nn.Module):
    """x + conv(activation(conv(activation(x)))), where the last convolution is zero before training.

    The order is that of He et al. 2016 (Identity mappings). The zero layer, in place of norms, is from Fixup (Zhang et
    al. 2019), as in R3GAN (Huang et al. 2024).
    """

    def __init__(self, width: int, kernel: Size, has_norm: bool, gain: float):
        super().__init__()
        padding = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
        sizes = ConvSizes(width, width, kernel, (1, 1, 1), padding)
        self.norms = nn.ModuleList([_group_norm(width), _group_norm(width)] if has_norm else [])
        self.first, self.last = (_convolution(sizes, not has_norm) for _ in range(2))
        with torch.no_grad():
            self.first.weight *= gain
        nn.init.zeros_(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norms:
            before, between = self.norms
            return x + conv_act(self.last, between(conv_act(self.first, before(x))))
        y = conv_act(self.first, nn.functional.leaky_relu(x, 0.2), **_LEAKY)
        return x + conv_act(self.last, y)


def _convolution(sizes: ConvSizes, has_bias: bool) -> Conv3d:
    """A convolution that keeps the variance of what leaky ReLUs pass on (He et al. 2015), which no norm restores."""
    conv = Conv3d(*sizes, bias=has_bias)
    nn.init.kaiming_normal_(conv.weight, a=0.2)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _spread_bias(conv: Conv3d) -> None:
    """Set a quarter of the bias of the convolution that reads clips to values from -1 to 1, and the rest to 0.

    Convolutions without bias and leaky ReLUs pass on a factor, which the norm of the next layer removes. Without this
    bias D's logits were the same for pale clips as for clear ones, so that G learnt contrast late or not at all. A unit
    whose bias is larger than what it sees is linear, and blind to the strength of a texture: if all units had one, G's
    clips became noisy.
    """
    assert conv.bias is not None
    seeing = max(1, len(conv.bias) // 4)
    with torch.no_grad():
        conv.bias.zero_()
        conv.bias[:seeing] = torch.linspace(-1, 1, seeing)  # a white frame gives about as much


def _group_norm(channels: int) -> GroupNormAct:
    """A group norm with at most 32 groups of at least two channels; the group of a single channel is that channel."""
    groups = math.gcd(_MOST_GROUPS, channels)
    if groups == channels > 1:
        groups //= 2
    return GroupNormAct(groups, channels, **_LEAKY)


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


def repeat_ends(x: torch.Tensor, count: int) -> torch.Tensor:
    """Put copies of their ends around clips (N, C, T, H, W), `count` each: (N, C, T + 2 count, H, W).

    Unlike torch's replication padding, its gradient is the same in every run on a GPU.
    """
    # Expanded ends instead of a list would lose channels last.
    return torch.cat([*[x[:, :, :1]] * count, x, *[x[:, :, -1:]] * count], 2) if count else x


def concat_image(x: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
    """Concatenate an image (N, C, H, W) to each frame of clips (N, C, T, H, W): (N, 2C, T, H, W).

    Raises:
        ValueError: there is no image.
    """
    if image is None:
        raise ValueError("the model's condition has a first frame: pass it as the condition's image")
    return torch.cat([x, image.unsqueeze(2).expand_as(x).to(x.dtype)], 1)
