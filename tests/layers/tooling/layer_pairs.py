"""Our modules and stock modules with the same parameters, and their comparison."""

import copy

import torch
from torch import nn

from fastvgan.layers import (
    BatchNormAct2d,
    BatchNormAct3d,
    Conv2d,
    Conv3d,
    ConvLSTM,
    ConvLSTMCell,
    ConvNormAct3d,
    ConvTranspose2d,
    ConvTranspose3d,
    ConvTransposeNormAct3d,
    GroupNormAct,
    InstanceNormAct2d,
    InstanceNormAct3d,
    fuse,
)

ACTIVATIONS = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "tanh": nn.Tanh()}


class StockConvLSTM(nn.Module):
    """ConvLSTM in stock PyTorch's operations, by its definition."""

    def __init__(self, in_channels, hidden_channels, kernel_size=3):
        super().__init__()
        ours = ConvLSTM(in_channels, hidden_channels, kernel_size)
        self.hidden = hidden_channels
        for name, parameter in ours.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))

    def forward(self, x, state=None):
        h, c = state or [x.new_zeros(x.shape[0], self.hidden, *x.shape[3:])] * 2
        outputs = []
        for step in x.unbind(2):
            gates = nn.functional.conv2d(step, self.weight_ih, self.bias, padding="same")
            i, f, g, o = (gates + nn.functional.conv2d(h, self.weight_hh, padding="same")).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 2), (h, c)


class StockConvLSTMCell(StockConvLSTM):
    def forward(self, x, state=None):
        return super().forward(x.unsqueeze(2), state)[1]


def norm_act(activation, **options):
    ours = BatchNormAct3d(4, activation=activation, negative_slope=0.2, **options)
    return ours, nn.Sequential(nn.BatchNorm3d(4, **options), ACTIVATIONS[activation])


def group_norm_act(activation, **options):
    ours = GroupNormAct(2, 4, activation=activation, negative_slope=0.2, **options)
    return ours, nn.Sequential(nn.GroupNorm(2, 4, **options), ACTIVATIONS[activation])


def instance_norm_act(activation, ours=InstanceNormAct3d, stock=nn.InstanceNorm3d, **options):
    ours = ours(4, activation=activation, negative_slope=0.2, **options)
    return ours, nn.Sequential(stock(4, **options), ACTIVATIONS[activation])


def chain(ours, stock, *args, **options):
    return ours(*args, **options), nn.Sequential(
        stock(*args, bias=False, **options), nn.BatchNorm3d(args[1]), nn.ReLU()
    )


def network():
    return nn.Sequential(
        nn.Conv3d(4, 6, 3, 1, 1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.Conv3d(6, 8, 3, 2, 1, bias=False, groups=2),
        nn.BatchNorm3d(8),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose3d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )


def make_fused():
    stock = network()
    return fuse(copy.deepcopy(stock)), stock


class OwnConv2d(nn.Conv2d):
    """A subclass that adds no forward."""


def make_fused_images():
    stock = nn.Sequential(
        *(nn.Conv2d(4, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU()),
        *(OwnConv2d(6, 8, 3, 2, 1, bias=False, groups=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
        *(nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()),
    )
    return fuse(copy.deepcopy(stock)), stock


def norm_act_of_images():
    return BatchNormAct2d(4, activation="relu"), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())


# Each gives one of our modules and the stock one, and the shape of an input.
PAIRS = {
    "Conv3d": (lambda: (Conv3d(4, 6, 3, 2, 1, groups=2), nn.Conv3d(4, 6, 3, 2, 1, groups=2)), (2, 4, 5, 6, 6)),
    "Conv3d-unbatched": (lambda: (Conv3d(4, 6, (1, 2, 3)), nn.Conv3d(4, 6, (1, 2, 3))), (4, 2, 3, 3)),
    "Conv3d-reflect": (
        lambda: tuple(kind(4, 6, 3, padding="same", padding_mode="reflect") for kind in (Conv3d, nn.Conv3d)),
        (1, 4, 3, 4, 3),
    ),
    "ConvTranspose3d": (
        lambda: tuple(kind(4, 6, 3, 2, 1, 1, bias=False) for kind in (ConvTranspose3d, nn.ConvTranspose3d)),
        (2, 4, 1, 3, 3),
    ),
    **{f"BatchNormAct3d-{name}": (lambda name=name: norm_act(name), (3, 4, 2, 3, 1)) for name in ACTIVATIONS},
    "BatchNormAct3d-plain": (lambda: norm_act("tanh", affine=False, track_running_stats=False), (3, 4, 2, 3, 1)),
    **{f"GroupNormAct-{name}": (lambda name=name: group_norm_act(name), (3, 4, 2, 3, 1)) for name in ACTIVATIONS},
    "GroupNormAct-plain": (lambda: group_norm_act("relu", affine=False), (3, 4, 5)),
    "InstanceNormAct3d": (lambda: instance_norm_act("leaky_relu", affine=True), (3, 4, 2, 3, 1)),
    "InstanceNormAct3d-plain": (lambda: instance_norm_act("relu"), (3, 4, 2, 3, 1)),
    "InstanceNormAct3d-tracking": (lambda: instance_norm_act("tanh", track_running_stats=True), (3, 4, 2, 3, 1)),
    "InstanceNormAct3d-unbatched": (lambda: instance_norm_act("relu", affine=True), (4, 2, 3, 5)),
    "InstanceNormAct2d": (
        lambda: instance_norm_act("relu", InstanceNormAct2d, nn.InstanceNorm2d, affine=True),
        (3, 4, 5, 3),
    ),
    "ConvNormAct3d": (lambda: chain(ConvNormAct3d, nn.Conv3d, 4, 6, 3), (2, 4, 4, 4, 4)),
    "ConvTransposeNormAct3d": (
        lambda: chain(ConvTransposeNormAct3d, nn.ConvTranspose3d, 4, 6, 4, 2, 1),
        (2, 4, 1, 2, 3),
    ),
    "ConvLSTM": (lambda: (ConvLSTM(4, 3), StockConvLSTM(4, 3)), (2, 4, 3, 4, 5)),
    "ConvLSTMCell": (lambda: (ConvLSTMCell(4, 3, 1), StockConvLSTMCell(4, 3, 1)), (2, 4, 5, 4)),
    "fused": (make_fused, (2, 4, 6, 6, 4)),
    "Conv2d": (lambda: (Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(4, 6, 3, 2, 1, groups=2)), (2, 4, 6, 5)),
    "Conv2d-unbatched": (lambda: (Conv2d(4, 6, (1, 2)), nn.Conv2d(4, 6, (1, 2))), (4, 3, 3)),
    "Conv2d-circular": (
        lambda: tuple(kind(4, 6, 3, padding=1, padding_mode="circular") for kind in (Conv2d, nn.Conv2d)),
        (1, 4, 4, 3),
    ),
    "ConvTranspose2d": (
        lambda: tuple(kind(4, 6, 3, 2, 1, 1, bias=False) for kind in (ConvTranspose2d, nn.ConvTranspose2d)),
        (2, 4, 1, 3),
    ),
    "BatchNormAct2d": (norm_act_of_images, (3, 4, 2, 1)),
    "fused-2D": (make_fused_images, (2, 4, 6, 4)),
}


def leaves(y):
    return list(torch.utils._pytree.tree_leaves(y))


def assert_same(ours, stock, ours_called, stock_called, x):
    """Both compute equal outputs, gradients and buffers in one call with backward."""
    y, expected = leaves(ours_called(x)), leaves(stock_called(x))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    grads = [
        torch.autograd.grad([t.square().sum() for t in outputs], list(module.parameters()))
        for outputs, module in ((y, ours), (expected, stock))
        if any(True for _ in module.parameters())
    ]
    torch.testing.assert_close(*grads or ([], []), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(list(ours.buffers()), list(stock.buffers()), rtol=1e-4, atol=1e-5)


class Parts(nn.Module):
    """Calls its parts in forward, one of them twice, with a function between: not a sequence of modules."""

    def __init__(self, down, norm, up):
        super().__init__()
        self.down, self.norm, self.up = down, norm, up

    def forward(self, x):
        y = torch.cat([self.norm(self.down(x)), self.norm(self.down(x + 1))], 1)
        return self.up(y, output_size=[4, 4, 4])


def parts():
    ours = Parts(Conv3d(2, 3, 3, 2, 1), BatchNormAct3d(3), ConvTranspose3d(6, 2, 3, 2, 1))
    stock = Parts(nn.Conv3d(2, 3, 3, 2, 1), nn.BatchNorm3d(3), nn.ConvTranspose3d(6, 2, 3, 2, 1))
    stock.load_state_dict(ours.state_dict())
    return ours, stock, torch.randn(2, 2, 4, 4, 4)


def flat(ours, stock):
    """Return stock's state under the names in ours, which are in the same order."""
    return dict(zip(ours.state_dict(), stock.state_dict().values(), strict=True))
