"""Networks as users write them, and the comparison of a fused one with the stock one."""

import pytest
import torch
from torch import nn

from fastvgan_kernels import extension

# "cpp" computes every row of modules in one pass, however small.
IMPLS = ["auto"] + ["cpp"] * (extension.load() is not None)
SHAPE = 2, 3, 4, 4, 4


def assert_same(ours, stock, *inputs, steps=(True, True, False, True), tolerance=1e-3, **options):
    """Check for equal outputs, gradients of inputs and parameters, and statistics, in training and evaluation."""
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in stock.named_modules()]
    for training in steps:
        ours.train(training), stock.train(training)
        results = []
        for module in (ours, stock):
            module.zero_grad()
            given = [x.clone().requires_grad_() for x in inputs]
            y = module(*(x * 1 for x in given), **options)  # an activation in place may not change a leaf
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
            grads = {name: p.grad for name, p in module.named_parameters()}
            results.append((y, [x.grad for x in given], grads, dict(module.state_dict())))
        torch.testing.assert_close(results[0], results[1], rtol=tolerance, atol=tolerance, equal_nan=True)
        assert list(results[0][3]) == list(results[1][3])


def settle(module):
    """Set statistics and affine parameters to other values than the initial ones."""
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)) and layer.affine:
            with torch.no_grad():
                layer.weight.uniform_(0.5, 2)
                layer.bias.normal_()
    return module


def generator():
    return nn.Sequential(
        nn.ConvTranspose3d(6, 8, 2, bias=False),
        nn.BatchNorm3d(8),
        nn.ReLU(True),
        nn.ConvTranspose3d(8, 4, 4, 2, 1, bias=False),
        nn.BatchNorm3d(4),
        nn.LeakyReLU(0.2, inplace=True),
        nn.ConvTranspose3d(4, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


class Block(nn.Sequential):
    """A Sequential with a custom __init__, like torchvision's and MONAI's."""

    def __init__(self, inputs, outputs):
        super().__init__(nn.Conv3d(inputs, outputs, 1), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))


class VideoGAN(nn.Module):
    """A module without a forward that holds VGAN's two streams."""

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.ConvTranspose3d(6, 8, 2, bias=False), nn.BatchNorm3d(8), nn.ReLU(True))
            self.video = nn.Sequential(nn.ConvTranspose3d(8, 3, 4, 2, 1), nn.Tanh())
            self.mask = nn.Sequential(nn.ConvTranspose3d(8, 1, 4, 2, 1), nn.Sigmoid())
            self.background = nn.Sequential(nn.ConvTranspose2d(6, 3, 4), nn.Tanh())

        def forward(self, z):
            n, c = z.shape
            h = self.head(z.view(n, c, 1, 1, 1))
            mask = self.mask(h)
            return mask * self.video(h) + (1 - mask) * self.background(z.view(n, c, 1, 1)).unsqueeze(2)

    def __init__(self):
        super().__init__()
        self.generator = self.Generator()
        self.discriminator = nn.Sequential(
            nn.Conv3d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv3d(4, 8, 2), nn.BatchNorm3d(8), nn.LeakyReLU(0.2)
        )


class Residual(nn.Module):
    """torchvision's block: one ReLU, after a batch norm in one place and after an addition in another."""

    def __init__(self, channels=4, relus=1):
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.relu2 = nn.ReLU(inplace=True) if relus == 2 else self.relu

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + x)


class R2Plus1D(nn.Module):
    def __init__(self):
        super().__init__()
        middle = nn.Sequential(
            nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(5),
            nn.ReLU(inplace=True),
            nn.Conv3d(5, 4, (3, 1, 1), padding=(1, 0, 0), bias=False),
        )
        self.conv1 = nn.Sequential(middle, nn.BatchNorm3d(4), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4))
        self.downsample = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = self.double(2, 4)
        self.down = nn.MaxPool3d(2)
        self.middle = self.double(4, 8)
        self.up = nn.ConvTranspose3d(8, 4, 2, 2)
        self.outside = self.double(8, 4)
        self.heads = nn.ModuleList([nn.Conv3d(4, 1, 1), nn.Conv3d(4, 1, 1)])

    @staticmethod
    def double(inputs, outputs):
        return nn.Sequential(
            *(nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)),
            *(nn.Conv3d(outputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.LeakyReLU(0.1)),
        )

    def forward(self, x, skip=True):
        fine = self.inside(x)
        y = self.up(self.middle(self.down(fine)))
        y = self.outside(torch.cat([y, fine if skip else fine * 0], 1))
        return torch.cat([head(y) for head in self.heads], 1)


class DCGAN(nn.Sequential):
    """DCGAN's generator of images (Radford et al. 2016), small."""

    def __init__(self):
        super().__init__(
            *(nn.ConvTranspose2d(6, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(True)),
            *(nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh()),
        )


class ImageUNet(nn.Module):
    """The UNet above for images."""

    def __init__(self):
        super().__init__()
        self.inside, self.middle, self.outside = self.double(2, 4), self.double(4, 8), self.double(8, 4)
        self.down, self.up, self.head = nn.MaxPool2d(2), nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 1, 1)

    @staticmethod
    def double(inputs, outputs):
        return nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
            *(nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)),
        )

    def forward(self, x):
        fine = self.inside(x)
        return self.head(self.outside(torch.cat([self.up(self.middle(self.down(fine))), fine], 1)))


class Conv3DSimple(nn.Conv3d):
    """torchvision.models.video's class of this name: it defines __init__ and a static method, but no forward."""

    def __init__(self, in_planes, out_planes, midplanes=None, stride=1, padding=1):
        super().__init__(in_planes, out_planes, kernel_size=3, stride=stride, padding=padding, bias=False)

    @staticmethod
    def get_downsample_stride(stride):
        return stride, stride, stride


class OwnNorm(nn.BatchNorm3d):
    """A norm with another initial state and another repr."""

    def __init__(self, num_features):
        super().__init__(num_features, eps=1e-3, momentum=0.01)
        self.note = {"any": num_features}

    def reset_parameters(self):
        super().reset_parameters()
        nn.init.constant_(self.bias, 0.1)

    def extra_repr(self):
        return f"{super().extra_repr()}, own"


class OwnLayers(nn.Sequential):
    """Layers of subclasses that add no forward."""

    def __init__(self):
        super().__init__(Conv3DSimple(3, 4), OwnNorm(4), nn.ReLU(), Conv3DSimple(4, 2, stride=2), nn.Tanh())


def is_as_fast(module):
    """Whether a module is a convolution that has no compiled version: 1x1x1 or 2D, without a stride."""
    if not isinstance(module, (nn.Conv2d, nn.Conv3d)) or max(module.stride) > 1:
        return False
    return isinstance(module, nn.Conv2d) or max(module.kernel_size) == 1


def network():
    return settle(
        nn.Sequential(
            *(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU()),
            *(nn.Conv3d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm3d(6), nn.LeakyReLU(0.2, inplace=True)),
            *(nn.ConvTranspose3d(6, 3, 4, 2, 1), nn.Tanh()),
        )
    )


def blocks():
    """The same network as nested Sequentials, one of a subclass, with a norm and its activation in different ones."""
    first = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4))
    last = nn.Sequential(nn.ConvTranspose3d(6, 3, 2, 2), nn.Identity(), nn.Tanh())
    return settle(nn.Sequential(first, nn.ReLU(), Block(4, 6), nn.Dropout(0.0), last))


def inputs():
    return torch.randn(SHAPE)


def change(how):
    return pytest.param(how, id=how.__name__)
