"""Generator and discriminator of the preset `reference` or of other sizes in stock PyTorch, and their FLOPs.

With `--upsampling resize` the stock loop is spared the projection of G's kernels after each step, which ours does.
"""

import math

import torch
from support.variants import TINY
from torch import nn

from fastvgan.models.config import ModelConfig
from fastvgan.models.sizes import Stage, clip_stages, features, has_time_margin
from fastvgan.runs.presets import PRESETS

BATCH = 16 if TINY else 64  # auto leaves most convolutions of smaller batches to stock PyTorch
REFERENCE = PRESETS["reference"].model


class EndCopies(nn.Module):
    """Repeats the first and last frame of clips; on a CPU torch's replication padding takes 5% to 14% longer."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([*[x[:, :, :1]] * self.count, x, *[x[:, :, -1:]] * self.count], 2)


def generator(model: ModelConfig = REFERENCE) -> nn.Sequential:
    """Build the generator, (N, latent, 1, 1, 1) to clips; 100 → 256 → 128 → 3 channels at 16³ for `reference`."""
    plan = clip_stages(model)
    widths = features(len(plan), model.base_width)[::-1]
    layers = [nn.ConvTranspose3d(model.latent, widths[0], plan[0].small, bias=False), *_norm_relu(widths[0])]
    for stage, before, after in zip(plan, widths, widths[1:], strict=False):
        layers += [nn.ConvTranspose3d(before, after, *_geometry(stage), bias=False), *_norm_relu(after)]
    last = nn.ConvTranspose3d(widths[-1], model.channels, *_geometry(plan[-1]), bias=False)
    return nn.Sequential(*layers, last, nn.Tanh())


def discriminator(model: ModelConfig = REFERENCE) -> nn.Sequential:
    """Build the discriminator, clips to (N, 1, 1, 1, 1); 3 → 128 → 256 → 1 channels for `reference`."""
    plan = clip_stages(model)[::-1]
    widths = features(len(plan), model.base_width)
    kernel, stride, padding = _geometry(plan[0])
    layers: list[nn.Module] = []
    if has_time_margin(model):
        layers, padding = [EndCopies(padding[0])], (0, *padding[1:])
    layers += [nn.Conv3d(model.channels, widths[0], kernel, stride, padding, bias=model.d_bias), nn.LeakyReLU(0.2)]
    for stage, before, after in zip(plan[1:], widths, widths[1:], strict=False):
        layers += [nn.Conv3d(before, after, *_geometry(stage), bias=False), nn.BatchNorm3d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, plan[-1].small, bias=False))


def clips_of(model: ModelConfig, batch: int) -> tuple[int, ...]:
    """Return the shape (N, C, T, H, W) of a batch of the model's clips."""
    return batch, model.channels, model.frames, model.height, model.width


def _geometry(stage: Stage):
    return stage.kernel, stage.stride, stage.padding


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm3d(channels), nn.ReLU()


def conv_flops(batch: int, small: tuple[int, ...], weight: torch.Size) -> int:
    """Return the FLOPs of a convolution's pass (forward or either gradient), from the sizes of its smaller side."""
    return 2 * batch * math.prod(small) * math.prod(weight)


def share_inside(large: int, small: int, kernel: int, stride: int, padding: int) -> float:
    """Return the share of one dimension's (position, tap) pairs that read a value instead of padding.

    The usual count includes padding, so a kernel that skips padding may exceed the machine's peak by up to a half.
    """
    inside = sum(0 <= i * stride - padding + j < large for i in range(small) for j in range(kernel))
    return inside / (small * kernel)


def layer_flops(network: nn.Module, *shape: int, needed: bool = False) -> list[int]:
    """Return the forward FLOPs of each convolution for an input of this shape; without padding if `needed`."""
    flops = []

    def note(conv, inputs, output):
        large, small = (output, inputs[0]) if isinstance(conv, nn.ConvTranspose3d) else (inputs[0], output)
        geometry = zip(large.shape[2:], small.shape[2:], conv.kernel_size, conv.stride, conv.padding, strict=True)
        share = math.prod(share_inside(*dimension) for dimension in geometry) if needed else 1
        flops.append(round(share * conv_flops(small.shape[0], small.shape[2:], conv.weight.shape)))

    network = network.to("meta")
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(note)
    network(torch.empty(shape, device="meta"))
    return flops


def step_flops(needed: bool = False, model: ModelConfig = REFERENCE, batch: int = BATCH) -> int:
    """Return the minimum FLOPs of one update of each network.

    Both updates share one pass of G, the first layers compute no gradient of noise or clips, and G's update computes no
    gradient of D's weights.
    """
    g = layer_flops(generator(model), batch, model.latent, 1, 1, 1, needed=needed)
    d = layer_flops(discriminator(model), *clips_of(model, batch), needed=needed)
    g_forward, d_forward = sum(g), 3 * sum(d)  # D: on real and generated clips; on generated clips again in G's update
    d_update = 2 * (sum(d) + sum(d[1:]))  # weight gradients, and data gradients down to the second layer
    g_update = sum(d) + sum(g) + sum(g[1:])  # through D to the clip, then both kinds in G
    return g_forward + d_forward + d_update + g_update
