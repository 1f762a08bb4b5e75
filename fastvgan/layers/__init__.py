"""Layers over the operations of fastvgan_kernels, usable in any network.

`ConvTranspose3d` and `Conv3d` take torch.nn's arguments and state_dict, `BatchNormAct3d` BatchNorm3d's, and so do their
counterparts in two dimensions. Every layer has an `impl` argument that names the implementation of its operations; the
default is "auto". `fuse` exchanges the stock layers of any network for these.
"""

from fastvgan.layers.flat import BatchNormAct2d, Conv2d, ConvTranspose2d
from fastvgan.layers.fusion import FusedSequential, FuseEntry, FuseReport, fuse
from fastvgan.layers.groups import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d
from fastvgan.layers.modules import (
    BatchNormAct3d,
    Conv3d,
    ConvNormAct3d,
    ConvTranspose3d,
    ConvTransposeNormAct3d,
    sync_batch_norm,
)
from fastvgan.layers.recurrent import ConvLSTM, ConvLSTMCell

__all__ = [
    "BatchNormAct2d",
    "BatchNormAct3d",
    "Conv2d",
    "Conv3d",
    "ConvLSTM",
    "ConvLSTMCell",
    "ConvNormAct3d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvTransposeNormAct3d",
    "FuseEntry",
    "FuseReport",
    "FusedSequential",
    "GroupNormAct",
    "InstanceNormAct2d",
    "InstanceNormAct3d",
    "fuse",
    "sync_batch_norm",
]
