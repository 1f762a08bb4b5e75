"""3D U-Nets for segmentation and for diffusion."""

import torch
from torch import nn


class SingleConv(nn.Sequential):
    """Convolution, batch norm and ReLU, as pytorch-3dunet's block of that name."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.add_module("conv", nn.Conv3d(inputs, outputs, 3, padding=1))
        self.add_module("batchnorm", nn.BatchNorm3d(outputs))
        self.add_module("ReLU", nn.ReLU(inplace=True))


class UNet3d(nn.Module):
    """3D U-Net with batch norm; the width is doubled before each pooling.

    (N, inputs, T, H, W) to (N, classes, T, H, W); T, H and W are multiples of 2^levels.

    Args:
        width: channels of the first convolution, 32 in the paper.
        levels: number of poolings, 3 in the paper.

    Source: Çiçek et al., "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation", 2016, figure 2,
    with padded convolutions.
    """

    def __init__(self, inputs: int = 3, classes: int = 3, width: int = 32, levels: int = 3):
        super().__init__()
        widths = [width * 2**level for level in range(levels + 2)]
        before = [inputs, *widths[1:-1]]
        self.encoders = nn.ModuleList(
            nn.Sequential(SingleConv(n, middle), SingleConv(middle, 2 * middle))
            for n, middle in zip(before, widths, strict=False)
        )
        self.pool = nn.MaxPool3d(2)
        self.upconvs = nn.ModuleList(nn.ConvTranspose3d(n, n, 2, 2) for n in widths[:1:-1])
        self.decoders = nn.ModuleList(
            nn.Sequential(SingleConv(n + n // 2, n // 2), SingleConv(n // 2, n // 2)) for n in widths[:1:-1]
        )
        self.final_conv = nn.Conv3d(widths[1], classes, 1)

    def forward(self, x):
        skips = []
        for index, encoder in enumerate(self.encoders):
            x = encoder(self.pool(x) if index else x)
            skips.append(x)
        for upconv, decoder, skip in zip(self.upconvs, self.decoders, skips[-2::-1], strict=True):
            x = decoder(torch.cat((skip, upconv(x)), 1))
        return self.final_conv(x)


class ConvNormNonlin(nn.Module):
    """nnU-Net's block: layers as named attributes, and again in the Sequential that forward calls."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, 1)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.nonlin = nn.LeakyReLU(inplace=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, self.nonlin)

    def forward(self, x):
        return self.all_modules(x)


class StackedConvBlocks(nn.Module):
    """Two blocks; the first may be strided."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.convs = nn.Sequential(ConvNormNonlin(inputs, outputs, stride), ConvNormNonlin(outputs, outputs, 1))

    def forward(self, x):
        return self.convs(x)


class PlainConvUNet(nn.Module):
    """nnU-Net's plain U-Net: instance norm, LeakyReLU, strided convolutions down and transposed ones up.

    (N, inputs, T, H, W) to (N, classes, T, H, W); T, H and W are multiples of 2^(len(widths) - 1).

    Args:
        widths: channels of each stage, 32, 64, 128, 256, 320, 320 as nnU-Net plans them for a large GPU.

    Source: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    2021; the classes of its dynamic_network_architectures.
    """

    def __init__(self, inputs: int = 1, classes: int = 2, widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)):
        super().__init__()
        stages = [StackedConvBlocks(inputs, widths[0])]
        stages += [StackedConvBlocks(n, m, 2) for n, m in zip(widths, widths[1:], strict=False)]
        # nnU-Net also wraps each stage in a Sequential.
        self.stages = nn.Sequential(*(nn.Sequential(stage) for stage in stages))
        up = widths[::-1]
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(n, m, 2, 2) for n, m in zip(up, up[1:], strict=False))
        self.decoders = nn.ModuleList(StackedConvBlocks(2 * n, n) for n in up[1:])
        self.seg_layer = nn.Conv3d(widths[0], classes, 1)

    def forward(self, x):
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        for transpconv, decoder, skip in zip(self.transpconvs, self.decoders, skips[-2::-1], strict=True):
            x = decoder(torch.cat((transpconv(x), skip), 1))
        return self.seg_layer(x)


class Convolution(nn.Sequential):
    """MONAI's block: a convolution, then (except in the last block) a Sequential of instance norm and LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, transposed: bool = False, only_conv: bool = False):
        super().__init__()
        if transposed:
            conv = nn.ConvTranspose3d(inputs, outputs, 3, stride, 1, stride - 1)
        else:
            conv = nn.Conv3d(inputs, outputs, 3, stride, 1)
        self.add_module("conv", conv)
        if not only_conv:
            adn = nn.Sequential()
            adn.add_module("N", nn.InstanceNorm3d(outputs))
            adn.add_module("A", nn.LeakyReLU(0.1))
            self.add_module("adn", adn)


class ResidualUnit(nn.Module):
    """MONAI's unit: convolutions, the first possibly strided, with a convolution or the identity as the skip."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, subunits: int = 2, only_conv: bool = False):
        super().__init__()
        self.conv = nn.Sequential()
        for unit in range(subunits):
            last = only_conv and unit == subunits - 1
            block = Convolution(inputs if unit == 0 else outputs, outputs, stride if unit == 0 else 1, only_conv=last)
            self.conv.add_module(f"unit{unit:d}", block)
        self.residual: nn.Module = nn.Identity()
        if stride > 1:
            self.residual = nn.Conv3d(inputs, outputs, 3, stride, 1)
        elif inputs != outputs:
            self.residual = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x):
        return self.conv(x) + self.residual(x)


class SkipConnection(nn.Module):
    """Concatenates a module's output to its input, along the channels."""

    def __init__(self, submodule: nn.Module):
        super().__init__()
        self.submodule = submodule

    def forward(self, x):
        return torch.cat((x, self.submodule(x)), 1)


class ResidualUNet(nn.Module):
    """MONAI's UNet with residual units, instance norm and LeakyReLU: Sequentials inside skips inside Sequentials.

    (N, inputs, T, H, W) to (N, classes, T, H, W); T, H and W are multiples of 2^(len(widths) - 1).

    Source: Kerfoot et al., "Left-Ventricle Quantification Using Residual U-Net", 2019, and MONAI's
    networks/nets/unet.py.
    """

    def __init__(self, inputs: int = 1, classes: int = 2, widths: tuple[int, ...] = (16, 32, 64, 128)):
        super().__init__()
        self.model = self._level(inputs, classes, widths, True)

    def _level(self, inputs: int, outputs: int, widths: tuple[int, ...], is_top: bool) -> nn.Sequential:
        width = widths[0]
        if len(widths) > 2:
            inside: nn.Module = self._level(width, width, widths[1:], False)
            up = 2 * width
        else:
            inside = ResidualUnit(width, widths[1])
            up = width + widths[1]
        ascent = nn.Sequential(
            Convolution(up, outputs, 2, transposed=True), ResidualUnit(outputs, outputs, 1, 1, only_conv=is_top)
        )
        return nn.Sequential(ResidualUnit(inputs, width, 2), SkipConnection(inside), ascent)

    def forward(self, x):
        return self.model(x)


class LUConv(nn.Module):
    """V-Net's unit: a convolution of kernel 5, batch norm and PReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.relu1 = nn.PReLU(channels)
        self.conv1 = nn.Conv3d(channels, channels, 5, padding=2)
        self.bn1 = nn.BatchNorm3d(channels)

    def forward(self, x):
        return self.relu1(self.bn1(self.conv1(x)))


class InputTransition(nn.Module):
    """The first unit of V-Net: its input is repeated for the residual."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv3d(1, width, 5, padding=2)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu1 = nn.PReLU(width)

    def forward(self, x):
        out = self.bn1(self.conv1(x))
        return self.relu1(out + x.repeat(1, out.shape[1], 1, 1, 1))


class DownTransition(nn.Module):
    """V-Net's downward transition: a convolution of stride 2, then units with a skip around them."""

    def __init__(self, inputs: int, units: int):
        super().__init__()
        outputs = 2 * inputs
        self.down_conv = nn.Conv3d(inputs, outputs, 2, 2)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.relu1 = nn.PReLU(outputs)
        self.relu2 = nn.PReLU(outputs)
        self.ops = nn.Sequential(*(LUConv(outputs) for _ in range(units)))

    def forward(self, x):
        down = self.relu1(self.bn1(self.down_conv(x)))
        return self.relu2(self.ops(down) + down)


class UpTransition(nn.Module):
    """V-Net's upward transition: a transposed convolution to half the channels, the skip, and units with a residual."""

    def __init__(self, inputs: int, outputs: int, units: int):
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(inputs, outputs // 2, 2, 2)
        self.bn1 = nn.BatchNorm3d(outputs // 2)
        self.relu1 = nn.PReLU(outputs // 2)
        self.relu2 = nn.PReLU(outputs)
        self.ops = nn.Sequential(*(LUConv(outputs) for _ in range(units)))

    def forward(self, x, skip):
        joined = torch.cat((self.relu1(self.bn1(self.up_conv(x))), skip), 1)
        return self.relu2(self.ops(joined) + joined)


class OutputTransition(nn.Module):
    """V-Net's last unit."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, classes, 5, padding=2)
        self.bn1 = nn.BatchNorm3d(classes)
        self.conv2 = nn.Conv3d(classes, classes, 1)
        self.relu1 = nn.PReLU(classes)

    def forward(self, x):
        return self.conv2(self.relu1(self.bn1(self.conv1(x))))


class VNet(nn.Module):
    """V-Net with batch norm and without dropout; forward methods call every layer.

    (N, 1, T, H, W) to (N, classes, T, H, W); T, H and W are multiples of 2^len(down).

    Args:
        width: channels of the first unit, 16 in the paper.
        down: number of units in each downward transition.
        up: number of units in each upward transition.

    Source: Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    2016; batch norm and the classes as in the public vnet.pytorch.
    """

    def __init__(
        self,
        classes: int = 2,
        width: int = 16,
        down: tuple[int, ...] = (1, 2, 3, 2),
        up: tuple[int, ...] = (2, 2, 1, 1),
    ):
        super().__init__()
        self.in_tr = InputTransition(width)
        widths = [width * 2**level for level in range(len(down) + 1)]
        self.down = nn.ModuleList(DownTransition(n, units) for n, units in zip(widths, down, strict=False))
        ways_up = zip([widths[-1], *widths[:1:-1]], widths[:0:-1], up, strict=True)
        self.up = nn.ModuleList(UpTransition(*way) for way in ways_up)
        self.out_tr = OutputTransition(widths[1], classes)

    def forward(self, x):
        skips = [self.in_tr(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        return self.out_tr(x)
