"""The sizes of a network's feature maps, from the smallest one to the clip."""

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastvgan.models.config import ModelConfig


Size = tuple[int, int, int]


class ConvSizes(NamedTuple):
    """Arguments of a convolution: channels before and after it, and its sizes for (T, H, W)."""

    before: int
    after: int
    kernel: Size
    stride: Size
    padding: Size


class Stage(NamedTuple):
    """A layer of a generator, from a smaller to a larger size, or of a discriminator, from the larger to the smaller.

    small, large: (T, H, W) of the two feature maps.
    kernel, stride, padding: of the convolution between them, each for (T, H, W).
    """

    small: Size
    large: Size
    kernel: Size
    stride: Size
    padding: Size


def stages(frames: int, height: int, width: int, temporal: bool = True) -> list[Stage]:
    """Plan the layers from at most 4x4x4 up to (frames, height, width), smallest size first.

    Each dimension is halved, rounding up, until it is at most 4. The dimension that needs most halvings determines the
    number of layers; one that needs fewer grows in the last layers. Even sizes double by (kernel 4, stride 2, padding
    1) as in DCGAN, odd ones grow by (3, 2, 1), and a constant size has (3, 1, 1). With temporal=False the time
    dimension is constant, by (1, 1, 0).
    """
    times = _halvings(frames) if temporal else [frames]
    heights, widths = _halvings(height), _halvings(width)
    count = max(len(times), len(heights), len(widths))
    chains = ([chain[0]] * (count - len(chain)) + chain for chain in (times, heights, widths))
    sizes = [(t, h, w) for t, h, w in zip(*chains, strict=True)]
    return [_stage(small, large, temporal) for small, large in itertools.pairwise(sizes)]


def add_time_margin(plan: list[Stage]) -> list[Stage]:
    """Add a frame on each side of feature maps: a generator's later layers crop it, a discriminator's pad as much more.

    Where a transposed convolution doubles the time, the frames at the ends of its result have half as many terms as the
    others, and a strided convolution reads them half as often. With the margin they have as many. Layers that keep the
    time would need a wider margin in each layer before them; they are the smallest ones, whose ends have 2 of 3 terms,
    and get a single frame too.
    """
    changed, after = [], 0
    for stage in reversed(plan):
        kernel, stride, padding = stage.kernel[0], stage.stride[0], stage.padding[0]
        before = min(1, (after - padding + kernel - 1) // stride)  # frames that reach into the result's ends
        changed.append(
            stage._replace(
                small=(stage.small[0] + 2 * before, stage.small[1], stage.small[2]),
                large=(stage.large[0] + 2 * after, stage.large[1], stage.large[2]),
                padding=(padding + stride * before - after, stage.padding[1], stage.padding[2]),
            )
        )
        after = before
    return changed[::-1]


def _halvings(size: int) -> list[int]:
    chain = [size]
    while chain[0] > 4:
        chain.insert(0, math.ceil(chain[0] / 2))
    return chain


def _stage(small: Size, large: Size, temporal: bool) -> Stage:
    rules = [_kernel_stride_padding(before, after) for before, after in zip(small, large, strict=True)]
    if not temporal:
        rules[0] = 1, 1, 0
    kernel, stride, padding = ((t, h, w) for t, h, w in zip(*rules, strict=True))
    return Stage(small, large, kernel, stride, padding)


def _kernel_stride_padding(before: int, after: int) -> tuple[int, int, int]:
    if after == 2 * before:
        return 4, 2, 1
    return (3, 2, 1) if after > before else (3, 1, 1)


def clip_stages(config: "ModelConfig") -> list[Stage]:
    """Plan the layers of a generator, and of the discriminator of clips; see `stages` and `add_time_margin`."""
    plan = stages(config.frames, config.height, config.width, temporal=config.family == "conv3d")
    return add_time_margin(plan) if has_time_margin(config) else plan


def has_time_margin(config: "ModelConfig") -> bool:
    """Whether feature maps have a margin in time; those of the recurrent family have none."""
    return config.family == "conv3d" and config.time_margin


def clip_layers(config: "ModelConfig", plan: list[Stage]) -> list[ConvSizes]:
    """Plan the convolutions of a discriminator's encoder of clips, first the one that reads the clip."""
    widths = [_seen_channels(config), *features(len(plan), config.base_width)]
    layers = zip(plan[::-1], itertools.pairwise(widths), strict=True)
    return [ConvSizes(*width, s.kernel, s.stride, s.padding) for s, width in layers]


def frame_layers(config: "ModelConfig", plan: list[Stage]) -> list[ConvSizes]:
    """Plan the convolutions of a discriminator's encoder of single frames, first the one that reads the frames.

    Recognising shapes takes more layers than telling real from generated frames, so a 3x3 convolution follows each
    strided one.
    """
    widths = features(len(plan) + 1, config.base_width)
    layers, channels = [], _seen_channels(config)
    for s, (width, after) in zip(plan[::-1], itertools.pairwise(widths), strict=True):
        layers.append(ConvSizes(channels, width, s.kernel, s.stride, s.padding))
        layers.append(ConvSizes(width, after, (1, 3, 3), (1, 1, 1), (0, 1, 1)))
        channels = after
    return layers


def _seen_channels(config: "ModelConfig") -> int:
    return config.channels * (1 + ("image" in config.condition))


def has_blocks(layer: ConvSizes) -> bool:
    """Whether the residual blocks of a discriminator follow this layer, if it has any."""
    return max(layer.stride) > 1


def block_kernel(layers: list[ConvSizes]) -> Size:
    """Return the kernel of the residual blocks between these layers: 3x3 if no layer sees more than one frame."""
    return (3 if is_temporal(layers) else 1), 3, 3


def is_temporal(layers: list[ConvSizes]) -> bool:
    """Whether a layer sees more than one frame."""
    return any(layer.kernel[0] > 1 for layer in layers)


def map_values(config: "ModelConfig") -> list[int]:
    """Return the number of values in each feature map of a generator for one clip, the smallest map first."""
    plan = clip_stages(config)
    maps = [math.prod(plan[0].small), *(math.prod(stage.large) for stage in plan[:-1])]
    widths = features(len(plan), config.base_width)[::-1]
    return [size * channels for size, channels in zip(maps, widths, strict=True)]


def count_min_weights(config: "ModelConfig") -> tuple[int, int]:
    """Return lower bounds for the numbers of weights of a generator and its discriminators: those of convolutions.

    No network is built, so that a configuration larger than memory can be rejected.
    """
    is_3d = config.family == "conv3d"
    plan = clip_stages(config)
    widths = features(len(plan), config.base_width)[::-1]
    trunk = sum(
        math.prod(stage.kernel) * before * after
        for stage, before, after in zip(plan, widths, [*widths[1:], config.channels], strict=True)
    )
    refining = 9 * config.refine * sum(width**2 for width in widths)
    if is_3d:
        first, lstm_of_g, lstm_of_d = config.latent * widths[0] * math.prod(plan[0].small), 0, 0
    else:
        # Four 3x3 gates over input and state. D's ConvLSTM has half as many states as features.
        states = (widths[0] + 1) // 2
        lstm_of_g, lstm_of_d = 36 * 2 * widths[0] ** 2, 36 * states * (widths[0] + states)
        first = config.latent * widths[0] * math.prod(plan[0].small[1:])
    of_clips = _count_encoder_weights(clip_layers(config, plan), config.d_blocks) + lstm_of_d
    flat = stages(config.frames, config.height, config.width, temporal=False)
    of_frames = _count_encoder_weights(frame_layers(config, flat), config.d_blocks)
    of_d = sum(of_clips if name == "clip" else of_frames for name in config.discriminators)
    return first + trunk + refining + lstm_of_g, of_d


def _count_encoder_weights(layers: list[ConvSizes], blocks: int) -> int:
    of_block = 2 * math.prod(block_kernel(layers))  # times the squared width
    return sum(
        math.prod(layer.kernel) * layer.before * layer.after + has_blocks(layer) * blocks * of_block * layer.after**2
        for layer in layers
    )


def features(count: int, width: int) -> list[int]:
    """Return the channels of `count` feature maps, the largest map first: width, twice that, ..., 8 times at most."""
    return [min(width * 2**i, 8 * width) for i in range(count)]
