"""How the oracle that reads digits is trained, and how well it reads clips of writers that it has not seen."""

import math

import torch
from torch import nn
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample, interpolate
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource
from fastvgan.metrics.oracle import Oracle, to_grey, to_inputs

_CLIPS, _FRAMES = 32, 2  # in a step, and of each clip
_RATE, _AVERAGE = 4e-3, 0.99
_CLIP_EVERY = 4  # motion and colour are learnt in few steps, and cost as much as the digit
_SCALE_CLIPS = 1024


def train(steps: int, seed: int) -> Oracle:
    """An oracle after this many steps; a function of both numbers, for one machine and number of threads."""
    torch.manual_seed(seed)
    oracle = Oracle()
    averaged = AveragedModel(oracle, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGE), use_buffers=True)
    optimiser = torch.optim.AdamW(oracle.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    source = DigitsSource()
    batches = source.batches(_CLIPS, seed)
    for step in tqdm(range(steps), "training the oracle", disable=None, leave=False):
        clips = next(batches)
        loss = _digit_loss(oracle, clips.video, clips.label)
        if step % _CLIP_EVERY == 0:
            loss = loss + _clip_loss(oracle, clips.video, clips.caption)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        averaged.update_parameters(oracle)
    return _with_unit_features(averaged.module.eval().requires_grad_(False), source, seed)


@torch.no_grad()
def accuracy(oracle: Oracle, clips: int) -> tuple[float, float]:
    """The share of clips and of frames, of writers not trained on, whose digit the oracle reads."""
    real = next(DigitsSource(split="test").batches(clips, seed=0))
    reading = oracle.read(real.video)
    right = reading.digits == real.label, reading.frame_digits == real.label[:, None]
    return right[0].double().mean().item(), right[1].double().mean().item()


def _digit_loss(oracle: Oracle, video: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    chosen = torch.randperm(video.shape[1])[:_FRAMES]
    frames = to_grey(to_inputs(video[:, chosen]).transpose(1, 2).flatten(0, 1))  # (N _FRAMES, 1, 16, 16)
    # Half of the frames keep their shape: an oracle that sees bent digits alone reads straight ones less well.
    frames = torch.where(torch.rand(len(frames), 1, 1, 1) < 0.5, frames, distort(frames))
    frames = frames + 0.1 * torch.rand(len(frames), 1, 1, 1) * torch.randn_like(frames)
    return cross_entropy(oracle.digit(oracle.frame(frames)), label.repeat_interleave(_FRAMES), label_smoothing=0.05)


def _clip_loss(oracle: Oracle, video: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
    seen = oracle.clip(to_inputs(video))
    # Captions are ordered by digit, then colour, then motion.
    motion, colour = caption % len(MOTIONS), caption // len(MOTIONS) % len(COLOURS)
    return (cross_entropy(oracle.motion(seen), motion) + cross_entropy(oracle.colour(seen), colour)) / 2


def distort(frames: torch.Tensor) -> torch.Tensor:
    """Frames (M, 1, H, W) in [0, 1], each turned, scaled, sheared, shifted, bent, blurred and dimmed.

    Ten writers are few, and generated clips are softer than real ones.
    """
    n = len(frames)
    turn, shear = math.radians(12) * torch.randn(n), 0.15 * torch.randn(n)
    wide, high = torch.empty(2, n).uniform_(0.8, 1.25)
    cos, sin = turn.cos(), turn.sin()
    linear = torch.stack([cos * wide, (shear * cos - sin) * high, sin * wide, (shear * sin + cos) * high], 1)
    # Turned about the digit, not about the middle of the frame, which would push it over the edge.
    centre = _centre(frames)  # (M, 2)
    linear = linear.view(n, 2, 2)
    shift = centre - (linear @ centre[..., None])[..., 0] + 0.06 * torch.randn(n, 2)
    grid = affine_grid(torch.cat([linear, shift[..., None]], 2), list(frames.shape), align_corners=False)
    bend = interpolate(0.06 * torch.randn(n, 2, 5, 5), frames.shape[2:], mode="bicubic", align_corners=True)
    frames = grid_sample(frames, grid + bend.permute(0, 2, 3, 1), align_corners=False).clamp(0, 1)
    blur = 0.7 * torch.rand(n, 1, 1, 1)
    frames = (1 - blur) * frames + blur * avg_pool2d(frames, 3, 1, 1)
    frames = frames.clamp_min(1e-4) ** torch.empty(n, 1, 1, 1).uniform_(0.6, 1.6)
    return frames / frames.amax((2, 3), keepdim=True) * (1 + 0.1 * torch.randn(n, 1, 1, 1))


def _centre(frames: torch.Tensor) -> torch.Tensor:
    """The centre of brightness of frames (M, 1, H, W), (M, 2) as (x, y) in [-1, 1]."""
    height, width = frames.shape[2:]
    light = frames[:, 0] / frames.sum((1, 2, 3), keepdim=True)[:, 0].clamp_min(1e-6)
    across = (2 * torch.arange(width) + 1) / width - 1
    down = (2 * torch.arange(height) + 1) / height - 1
    return torch.stack([light.sum(1) @ across, light.sum(2) @ down], 1)


def _with_unit_features(oracle: nn.Module, source: DigitsSource, seed: int) -> Oracle:
    """The same with `scale` set so that each feature has variance 1 over clips of the source."""
    features = oracle.read(next(source.batches(_SCALE_CLIPS, seed + 1)).video).features
    oracle.scale.copy_(1 / features.std(0).clamp_min(1e-2))
    return oracle
