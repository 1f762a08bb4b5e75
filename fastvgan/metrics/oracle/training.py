"""Training of the oracle, and its accuracy on clips of unseen writers."""

import math
from typing import cast

import torch
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample, interpolate
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource
from fastvgan.metrics.oracle.network import Oracle, to_grey, to_inputs

_CLIPS, _FRAMES = 32, 2  # clips per step, and frames per clip
_RATE, _AVERAGE = 4e-3, 0.99
_CLIP_EVERY = 4  # steps; the clip branch learns in few steps and costs as much as the frame branch
_SCALE_CLIPS = 1024


def train(steps: int, seed: int) -> Oracle:
    """Train an oracle. The result depends on both numbers, the machine and the number of threads alone."""
    torch.manual_seed(seed)
    oracle = Oracle()
    averaged = AveragedModel(oracle, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGE), use_buffers=True)
    optimiser = torch.optim.AdamW(oracle.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    source = DigitsSource()
    batches = source.batches(_CLIPS, seed)
    for step in tqdm(range(steps), "training the oracle", disable=None, leave=False):
        clips = next(batches)
        assert clips.label is not None and clips.caption is not None  # DigitsSource has both
        loss = _digit_loss(oracle, clips.video, clips.label)
        if step % _CLIP_EVERY == 0:
            loss = loss + _clip_loss(oracle, clips.video, clips.caption)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        averaged.update_parameters(oracle)
    trained = cast(Oracle, averaged.module).eval().requires_grad_(False)  # a copy of `oracle`
    _set_scale(trained, source, seed)
    return trained


@torch.no_grad()
def accuracy(oracle: Oracle, clips: int) -> tuple[float, float]:
    """Return the shares of clips and of frames of unseen writers whose digit the oracle reads correctly."""
    real = next(DigitsSource(split="test").batches(clips, seed=0))
    assert real.label is not None  # DigitsSource has labels
    reading = oracle.read(real.video)
    right, right_frames = reading.digits.eq(real.label), reading.frame_digits.eq(real.label[:, None])
    return right.double().mean().item(), right_frames.double().mean().item()


def _digit_loss(oracle: Oracle, video: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    chosen = torch.randperm(video.shape[1])[:_FRAMES]
    frames = to_grey(to_inputs(video[:, chosen]).transpose(1, 2).flatten(0, 1))  # (N _FRAMES, 1, 16, 16)
    # Half of the frames are not distorted: an oracle trained on distorted digits alone reads others less well.
    frames = torch.where(torch.rand(len(frames), 1, 1, 1) < 0.5, frames, distort(frames))
    frames = frames + 0.1 * torch.rand(len(frames), 1, 1, 1) * torch.randn_like(frames)
    return cross_entropy(oracle.digit(oracle.frame(frames)), label.repeat_interleave(_FRAMES), label_smoothing=0.05)


def _clip_loss(oracle: Oracle, video: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
    seen = oracle.clip(to_inputs(video))
    # Captions are ordered by digit, then colour, then motion.
    motion, colour = caption % len(MOTIONS), caption // len(MOTIONS) % len(COLOURS)
    return (cross_entropy(oracle.motion(seen), motion) + cross_entropy(oracle.colour(seen), colour)) / 2


def distort(frames: torch.Tensor) -> torch.Tensor:
    """Rotate, scale, shear, shift, bend, blur and dim each of the frames (M, 1, H, W) in [0, 1] at random.

    The data has only ten writers, and generated clips are softer than real ones.
    """
    n = len(frames)
    turn, shear = math.radians(12) * torch.randn(n), 0.15 * torch.randn(n)
    wide, high = torch.empty(2, n).uniform_(0.8, 1.25)
    cos, sin = turn.cos(), turn.sin()
    linear = torch.stack([cos * wide, (shear * cos - sin) * high, sin * wide, (shear * sin + cos) * high], 1)
    # Rotated about the digit: a rotation about the centre of the frame could move the digit out of it.
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
    """Return the centre of brightness (x, y) of frames (M, 1, H, W) as (M, 2) in [-1, 1]."""
    height, width = frames.shape[2:]
    light = frames[:, 0] / frames.sum((1, 2, 3), keepdim=True)[:, 0].clamp_min(1e-6)
    across = (2 * torch.arange(width) + 1) / width - 1
    down = (2 * torch.arange(height) + 1) / height - 1
    return torch.stack([light.sum(1) @ across, light.sum(2) @ down], 1)


def _set_scale(oracle: Oracle, source: DigitsSource, seed: int) -> None:
    """Set `scale` so that each feature has variance 1 over clips of the source."""
    features = oracle.read(next(source.batches(_SCALE_CLIPS, seed + 1)).video).features
    oracle.scale.copy_(1 / features.std(0).clamp_min(1e-2))
