"""Networks that classify clips: residual networks as in torchvision, and X3D as in pytorchvideo."""

import torch
from torch import nn

# Initial weight of the last norm in a block. The public code uses 0 or 1: with 0, half of the gradients are 0; with 1,
# the gradients of random networks this deep are noise in bf16, so that they cannot be checked.
_LAST_NORM = 0.1


class Conv3DSimple(nn.Conv3d):
    """A convolution of kernel 3, as a subclass without a forward method."""

    def __init__(self, inputs: int, outputs: int, midplanes: int | None = None, stride: int = 1):
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        return stride, stride, stride


class Conv2Plus1D(nn.Sequential):
    """A convolution in space, batch norm and ReLU, and a convolution in time."""

    def __init__(self, inputs: int, outputs: int, midplanes: int, stride: int = 1):
        super().__init__(
            nn.Conv3d(inputs, midplanes, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(midplanes),
            nn.ReLU(inplace=True),
            nn.Conv3d(midplanes, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        return stride, stride, stride


class BasicBlock(nn.Module):
    """Two convolutions with batch norm and a skip; ReLU after the first one and after the sum."""

    def __init__(self, inputs: int, planes: int, conv_builder: type, stride: int):
        super().__init__()
        midplanes = (inputs * planes * 3 * 3 * 3) // (inputs * 3 * 3 + 3 * planes)
        self.conv1 = nn.Sequential(
            conv_builder(inputs, planes, midplanes, stride), nn.BatchNorm3d(planes), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(conv_builder(planes, planes, midplanes), nn.BatchNorm3d(planes))
        nn.init.constant_(self.conv2[1].weight, _LAST_NORM)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != planes:
            strides = conv_builder.get_downsample_stride(stride)
            self.downsample = nn.Sequential(nn.Conv3d(inputs, planes, 1, strides, bias=False), nn.BatchNorm3d(planes))

    def forward(self, x):
        residual = x if self.downsample is None else self.downsample(x)
        out = self.conv2(self.conv1(x))
        out += residual
        return self.relu(out)


class BasicStem(nn.Sequential):
    """The first layers of R3D."""

    def __init__(self, width: int):
        super().__init__(
            nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )


class R2Plus1dStem(nn.Sequential):
    """The first layers of R(2+1)D."""

    def __init__(self, width: int):
        middle = 45 * width // 64
        super().__init__(
            nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )


class VideoResNet(nn.Module):
    """ResNet-18 over clips: (N, 3, T, H, W) to (N, classes).

    Args:
        conv_builder: Conv3DSimple for R3D, Conv2Plus1D for R(2+1)D.
        width: channels of the first stage, 64 in the paper.

    Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", 2018; torchvision's
    classes of these names.
    """

    def __init__(self, conv_builder: type, stem: type, width: int = 64, classes: int = 400):
        super().__init__()
        self.stem = stem(width)
        widths = [width * 2**stage for stage in range(4)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(before, after, conv_builder, stride), BasicBlock(after, after, conv_builder, 1))
            for before, after, stride in zip([width, *widths], widths, (1, 2, 2, 2), strict=False)
        )
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = self.stem(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def r3d_18(width: int = 64, classes: int = 400) -> VideoResNet:
    """Build torchvision's r3d_18."""
    return VideoResNet(Conv3DSimple, BasicStem, width, classes)


def r2plus1d_18(width: int = 64, classes: int = 400) -> VideoResNet:
    """Build torchvision's r2plus1d_18."""
    return VideoResNet(Conv2Plus1D, R2Plus1dStem, width, classes)


class Swish(nn.Module):
    """x sigmoid(x), as pytorchvideo writes it."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a function of all channels' means."""

    def __init__(self, channels: int, ratio: float = 0.0625):
        super().__init__()
        # X3D rounds to a multiple of 8, and up if the result would be more than a tenth too small.
        squeezed = max(8, int(channels * ratio + 4) // 8 * 8)
        squeezed += 8 * (squeezed < 0.9 * channels * ratio)
        self.block = nn.Sequential(
            nn.Conv3d(channels, squeezed, 1), nn.ReLU(), nn.Conv3d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.block(x.mean((2, 3, 4), keepdim=True))


class BottleneckBlock(nn.Module):
    """X3D's block: 1x1x1 to more channels, a depthwise convolution, 1x1x1 back; forward calls every layer."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, has_se: bool):
        super().__init__()
        self.conv_a = nn.Conv3d(inputs, inner, 1, bias=False)
        self.norm_a = nn.BatchNorm3d(inner)
        self.act_a = nn.ReLU()
        self.conv_b = nn.Conv3d(inner, inner, 3, (1, stride, stride), 1, groups=inner, bias=False)
        norm_b = nn.BatchNorm3d(inner)
        self.norm_b = nn.Sequential(norm_b, SqueezeExcitation(inner) if has_se else nn.Identity())
        self.act_b = Swish()
        self.conv_c = nn.Conv3d(inner, outputs, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(outputs)
        nn.init.constant_(self.norm_c.weight, _LAST_NORM)

    def forward(self, x):
        x = self.act_a(self.norm_a(self.conv_a(x)))
        x = self.act_b(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class ResBlock(nn.Module):
    """X3D's bottleneck with the skip around it and ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, has_se: bool):
        super().__init__()
        changes = stride != 1 or inputs != outputs
        self.branch1_conv = nn.Conv3d(inputs, outputs, 1, (1, stride, stride), bias=False) if changes else None
        self.branch1_norm = nn.BatchNorm3d(outputs) if inputs != outputs else None
        self.branch2 = BottleneckBlock(inputs, int(2.25 * outputs), outputs, stride, has_se)
        self.activation = nn.ReLU()

    def forward(self, x):
        shortcut = x if self.branch1_conv is None else self.branch1_conv(x)
        if self.branch1_norm is not None:
            shortcut = self.branch1_norm(shortcut)
        return self.activation(shortcut + self.branch2(x))


class Stem(nn.Module):
    """X3D's stem: a spatial convolution and a depthwise temporal one."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_xy = nn.Conv3d(3, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv_t = nn.Conv3d(width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False)
        self.norm = nn.BatchNorm3d(width)
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(self.norm(self.conv_t(self.conv_xy(x))))


class ProjectedPool(nn.Module):
    """X3D's last layers; the average is over the whole clip, so that clips may have any size."""

    def __init__(self, inputs: int, inner: int, features: int, classes: int):
        super().__init__()
        self.pre_conv = nn.Conv3d(inputs, inner, 1, bias=False)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.pre_act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.post_conv = nn.Conv3d(inner, features, 1, bias=False)
        self.post_act = nn.ReLU()
        self.proj = nn.Linear(features, classes)

    def forward(self, x):
        x = self.pool(self.pre_act(self.pre_norm(self.pre_conv(x))))
        return self.proj(self.post_act(self.post_conv(x)).flatten(1))


class X3D(nn.Module):
    """X3D with Swish, and squeeze-excitation in every second block: (N, 3, T, H, W) to (N, classes).

    Args:
        depths: blocks of each stage, 3, 5, 11, 7 for the sizes XS, S and M.

    Source: Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", 2020, table 1; pytorchvideo's
    create_x3d, without dropout.
    """

    def __init__(self, width: int = 24, depths: tuple[int, ...] = (3, 5, 11, 7), classes: int = 400):
        super().__init__()
        widths = [width * 2**stage for stage in range(len(depths))]
        stages = zip([width, *widths], widths, depths, strict=False)
        head = ProjectedPool(widths[-1], int(2.25 * widths[-1]), 2048 * width // 24, classes)
        self.blocks = nn.ModuleList([Stem(width), *(self._stage(*stage) for stage in stages), head])

    @staticmethod
    def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
        first = ResBlock(inputs, outputs, 2, True)
        return nn.Sequential(first, *(ResBlock(outputs, outputs, 1, index % 2 == 0) for index in range(1, depth)))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x
