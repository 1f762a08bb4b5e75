"""Conversion between stored clips (uint8) and the inputs and outputs of networks (float)."""

import torch


def to_float(video: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Convert uint8 (N, T, H, W, C) to float (N, C, T, H, W) in [-1, 1] on the device, channels_last_3d in memory."""
    return video.to(device, non_blocking=True).permute(0, 4, 1, 2, 3).div(127.5).sub_(1)


def to_uint8(video: torch.Tensor) -> torch.Tensor:
    """Convert floating (N, C, T, H, W) in [-1, 1] to uint8 (N, T, H, W, C) on the CPU."""
    return quantise(video).cpu()


def quantise(video: torch.Tensor) -> torch.Tensor:
    """Convert floating (N, C, T, H, W) in [-1, 1] to uint8 (N, T, H, W, C) on its device."""
    return video.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
