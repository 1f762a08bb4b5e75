"""A small trained network that reads the digit off a clip, and gives the features that distances are measured in.

The weights ship with the package (`oracle.safetensors`, half precision). They were trained by

    python -m fastvgan.metrics.train_oracle

on real clips of the training writers alone, and read 99.56% of clips and 99.33% of frames of unseen writers (4,800
clips). The file's metadata holds the command and these numbers. Colour and motion are read by the fixed rules of
`fastvgan.metrics.digits` instead.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from fastvgan.errors import UserError
from fastvgan.files.tensor_file import read_tensors

ORACLE = Path(__file__).with_name("oracle.safetensors")
SIDE = 16  # pixels; larger clips are averaged down to this, smaller ones are enlarged
FRAME_FEATURES, CLIP_FEATURES = 128, 64
_CHUNK = 64  # clips read at once


class Reading(NamedTuple):
    """What the oracle reads off N clips of T frames, on the CPU.

    log_probabilities: float32 (N, T, 10), of the ten digits, for each frame alone.
    features: float32 (N, 192), each with variance 1 over real clips of the training writers.
    """

    log_probabilities: torch.Tensor
    features: torch.Tensor

    @property
    def digits(self) -> torch.Tensor:
        """The digit of each clip, int64 (N,): the one with the highest log-probability averaged over frames."""
        return self.log_probabilities.mean(1).argmax(-1)

    @property
    def frame_digits(self) -> torch.Tensor:
        """The digit of each frame, int64 (N, T)."""
        return self.log_probabilities.argmax(-1)


class Oracle(nn.Module):
    """A frame branch that tells the digit, and a clip branch that tells motion and colour.

    The frame branch sees single frames: grey (the maximum over channels), scaled so that the brightest pixel is 1. The
    clip branch sees whole clips in colour, and serves only for features, so that distances notice time and colour.
    """

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
        """Logits of the digit in each frame, float32 (N, T, 10), and features, float32 (N, 192).

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
        """Read clips, uint8 (N, T, H, W, C) with C of 1 or 3 and T of 2 or more, of any size; N may be large.

        Raises:
            ValueError: another dtype or shape.
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
    """The oracle that ships with the package, or one that `train_oracle` wrote elsewhere; on the CPU, float32.

    Raises:
        UserError: the file is missing, truncated, or holds other tensors.
    """
    tensors, _ = read_tensors(path)
    oracle = Oracle()
    try:
        oracle.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} holds no digit oracle of this version ({reason}); make one by "
            "`python -m fastvgan.metrics.train_oracle`"
        ) from error
    return oracle.eval().requires_grad_(False)


def to_inputs(video: torch.Tensor) -> torch.Tensor:
    """uint8 (N, T, H, W, C) to float32 (N, 3, T, 16, 16) in [0, 1]: area averages, grey clips three times over."""
    n, frames, height, width, channels = video.shape
    x = video.permute(0, 1, 4, 2, 3).float().div(255)  # (N, T, C, H, W)
    if (height, width) != (SIDE, SIDE):
        x = adaptive_avg_pool2d(x.flatten(0, 1), SIDE).view(n, frames, channels, SIDE, SIDE)
    return x.expand(-1, -1, 3, -1, -1).transpose(1, 2)


def to_grey(frames: torch.Tensor) -> torch.Tensor:
    """Frames (M, 3, H, W) in [0, 1] to (M, 1, H, W) with a brightest pixel of 1; nearly black ones stay dark."""
    grey = frames.amax(1, keepdim=True)
    return grey / grey.amax((2, 3), keepdim=True).clamp_min(0.05)


def _conv2d(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _conv3d(inputs: int, outputs: int, stride: int | tuple[int, int, int]) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]
