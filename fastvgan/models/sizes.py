"""How a clip's size grows from the first feature map to the output, one layer at a time."""

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastvgan.models.config import ModelConfig


class Stage(NamedTuple):
    """One layer of a generator, from a smaller to a larger size; read backwards, one of a discriminator.

    small, large: (T, H, W) before and after. kernel, stride, padding: of the convolution between them, each (T, H, W).
    """

    small: tuple[int, int, int]
    large: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]


def stages(frames: int, height: int, width: int, temporal: bool = True) -> list[Stage]:
    """The layers from at most 4x4x4 up to (frames, height, width).

    Each dimension is halved, rounding up, until it is at most 4; the dimension that needs most halvings sets the number
    of layers, and one that needs fewer grows in the last of them. Even sizes grow by (kernel 4, stride 2, padding 1) as
    in DCGAN, odd ones by (3, 2, 1), and a size that stays has (3, 1, 1). With temporal=False the time dimension is left
    alone, by (1, 1, 0).
    """
    chains = [_halvings(height), _halvings(width)]
    chains.insert(0, _halvings(frames) if temporal else [frames])
    count = max(len(chain) for chain in chains) - 1
    chains = [[chain[0]] * (count + 1 - len(chain)) + chain for chain in chains]
    sizes = list(zip(*chains, strict=True))
    return [_stage(small, large, temporal) for small, large in zip(sizes, sizes[1:], strict=False)]


def _halvings(size: int) -> list[int]:
    chain = [size]
    while chain[0] > 4:
        chain.insert(0, math.ceil(chain[0] / 2))
    return chain


def _stage(small, large, temporal) -> Stage:
    rules = []
    for axis, (before, after) in enumerate(zip(small, large, strict=True)):
        if axis == 0 and not temporal:
            rules.append((1, 1, 0))
        elif after == 2 * before:
            rules.append((4, 2, 1))
        else:
            rules.append((3, 2, 1) if after > before else (3, 1, 1))
    return Stage(small, large, *zip(*rules, strict=True))


def map_values(frames: int, height: int, width: int, base_width: int, temporal: bool = True) -> list[int]:
    """How many values each feature map of a generator has for a clip, the smallest map first."""
    plan = stages(frames, height, width, temporal)
    maps = [math.prod(plan[0].small), *(math.prod(stage.large) for stage in plan[:-1])]
    widths = features(len(plan), base_width)[::-1]
    return [size * channels for size, channels in zip(maps, widths, strict=True)]


def least_weights(config: "ModelConfig") -> tuple[int, int]:
    """How many weights a configuration's generator and discriminator have at least: those of their convolutions.

    Nothing is built for it, so that a configuration that no memory can hold costs nothing.
    """
    is_3d = config.family == "conv3d"
    plan = stages(config.frames, config.height, config.width, temporal=is_3d)
    widths = features(len(plan), config.base_width)[::-1]
    trunk = sum(
        math.prod(stage.kernel) * before * after
        for stage, before, after in zip(plan, widths, [*widths[1:], config.channels], strict=True)
    )
    refining = 9 * config.refine * sum(width**2 for width in widths)
    if is_3d:
        first, lstm_of_g, lstm_of_d = config.latent * widths[0] * math.prod(plan[0].small), 0, 0
    else:
        # Four gates of 3x3 over input and state; D's has half as many states.
        states = (widths[0] + 1) // 2
        lstm_of_g, lstm_of_d = 36 * 2 * widths[0] ** 2, 36 * states * (widths[0] + states)
        first = config.latent * widths[0] * math.prod(plan[0].small[1:])
    of_d = trunk + lstm_of_d if "clip" in config.discriminators else trunk
    return first + trunk + refining + lstm_of_g, of_d


def features(count: int, width: int) -> list[int]:
    """Channels of `count` feature maps, the largest map first: width, twice that, and so on up to 8 times."""
    return [min(width * 2**i, 8 * width) for i in range(count)]
