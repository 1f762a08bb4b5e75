"""The network that reads digits in clips and computes features for distances, and the file of its weights."""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from fastvgan.errors import UserError
from fastvgan.files.tensor_file import read_tensors

ORACLE = Path(__file__).with_name("oracle.safetensors")
SIDE = 16  # pixels; clips of other sizes are resampled to this
FRAME_FEATURES, CLIP_FEATURES = 128, 64
_CHUNK = 64  # clips per forward pass


class Reading(NamedTuple):
    """The oracle's output for N clips of T frames, on the CPU.

    log_probabilities: float32 (N, T, 10), of the ten digits, for each single frame.
    features: float32 (N, 192), each with variance 1 over real clips of the training writers.
    """

    log_probabilities: torch.Tensor
    features: torch.Tensor

    @property
    def digits(self) -> torch.Tensor:
        """The digit of each clip, int64 (N,): the one with the highest mean log-probability over the frames."""
        return self.log_probabilities.mean(1).argmax(-1)

    @property
    def frame_digits(self) -> torch.Tensor:
        """The digit of each frame, int64 (N, T)."""
        return self.log_probabilities.argmax(-1)


class Oracle(nn.Module):
    """A frame branch that recognises digits, and a clip branch that recognises motion and colour.

    The frame branch sees single grey frames (the maximum over channels), scaled so that the brightest pixel is 1. The
    clip branch sees whole clips in colour. It only contributes features, so that distances depend on time and colour.
    """

    scale: torch.Tensor

    def __init__(self):
        super().__init__()
        self.frame = nn.Sequential(
            *_conv2d(1, 32),
            *_conv2d(32, 32, stride=2),
            *_conv2d(32, 64),
            *_conv2d(64, 64, stride=2),
            *_conv2d(64, FRAME_FEATURES),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.digit = nn.Linear(FRAME_FEATURES, 10)
        self.clip = nn.Sequential(
            *_conv3d(3, 24, stride=(1, 2, 2)),
            *_conv3d(24, 48, stride=2),
            *_conv3d(48, CLIP_FEATURES, stride=(2, 1, 1)),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.motion = nn.Linear(CLIP_FEATURES, 4)
        self.colour = nn.Linear(CLIP_FEATURES, 6)
        self.register_buffer("scale", torch.ones(FRAME_FEATURES + CLIP_FEATURES))

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits of the digit in each frame, float32 (N, T, 10), and features, float32 (N, 192).

        Args:
            video: uint8 (N, T, H, W, C), C of 1 or 3.
        """
        clips = to_inputs(video)  # (N, 3, T, 16, 16)
        n, _, frames = clips.shape[:3]
        seen = self.frame(to_grey(clips.transpose(1, 2).flatten(0, 1)))  # (N T, 128)
        features = torch.cat([seen.view(n, frames, -1).mean(1), self.clip(clips)], 1)  # (N, 192)
        return self.digit(seen).view(n, frames, -1), features * self.scale

    @torch.no_grad()
    def read(self, video: torch.Tensor) -> Reading:
        """Read clips, uint8 (N, T, H, W, C) with C of 1 or 3 and T of 2 or more. They are processed in parts.

        Raises:
            ValueError: the clips have another dtype or shape.
        """
        if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] not in (1, 3) or video.shape[1] < 2:
            raise ValueError(
                f"clips must be uint8 (N, T, H, W, C) with T of 2 or more and C of 1 or 3, not {video.dtype} "
                f"{tuple(video.shape)}"
            )
        device = self.scale.device
        parts = [self(part.to(device)) for part in video.split(_CHUNK)]
        logits, features = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return Reading(logits.log_softmax(-1), features)


@functools.cache
def load_oracle(path: Path = ORACLE) -> Oracle:
    """Load the oracle that ships with the package, or another one that `train_oracle` wrote; on the CPU, in float32.

    Raises:
        UserError: the file is missing or truncated, or holds other tensors.
    """
    tensors, _ = read_tensors(path)
    oracle = Oracle()
    try:
        oracle.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} holds no digit oracle of this version ({reason}); create one with "
            "`python -m fastvgan.metrics.train_oracle`"
        ) from error
    return oracle.eval().requires_grad_(False)


def to_inputs(video: torch.Tensor) -> torch.Tensor:
    """Convert clips, uint8 (N, T, H, W, C), to float32 (N, 3, T, 16, 16) in [0, 1] by averaging; repeat grey."""
    n, frames, height, width, channels = video.shape
    x = video.permute(0, 1, 4, 2, 3).float().div(255)  # (N, T, C, H, W)
    if (height, width) != (SIDE, SIDE):
        x = adaptive_avg_pool2d(x.flatten(0, 1), SIDE).view(n, frames, channels, SIDE, SIDE)
    return x.expand(-1, -1, 3, -1, -1).transpose(1, 2)


def to_grey(frames: torch.Tensor) -> torch.Tensor:
    """Convert frames (M, 3, H, W) in [0, 1] to grey, (M, 1, H, W), scaled to a maximum of 1 unless nearly black."""
    grey = frames.amax(1, keepdim=True)
    return grey / grey.amax((2, 3), keepdim=True).clamp_min(0.05)


def _conv2d(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _conv3d(inputs: int, outputs: int, stride: int | tuple[int, int, int]) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]
