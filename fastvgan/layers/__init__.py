"""Layers over the operations of fastvgan_kernels, for use in any network.

`Conv3d`, `ConvTranspose3d` and `BatchNormAct3d` take the arguments and the state_dict of torch.nn's Conv3d,
ConvTranspose3d and BatchNorm3d; the 2D layers correspond in the same way. Every layer has an `impl` argument that names
the implementation of its operations, "auto" by default. `fuse` replaces the stock layers of any network by these.
"""

from fastvgan.layers.convolutions import Conv3d, ConvTranspose3d
from fastvgan.layers.flat import BatchNormAct2d, Conv2d, ConvTranspose2d
from fastvgan.layers.fusion import FusedSequential, FuseEntry, FuseReport, fuse
from fastvgan.layers.groups import GroupNormAct, InstanceNormAct2d, InstanceNormAct3d
from fastvgan.layers.modules import (
    BatchNormAct3d,
    ConvNormAct3d,
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
