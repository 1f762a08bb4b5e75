"""Attribution methods, which hook or replace activations, return the same after fuse as before."""

import pytest
import torch
from fuse_networks import change, inputs
from torch import nn


def guide_gradients(model, log):
    """Springenberg et al. 2015: only positive gradients pass an activation."""
    return [
        m.register_full_backward_hook(lambda m, before, after: (before[0].clamp(min=0),))
        for m in model.modules()
        if isinstance(m, (nn.ReLU, nn.LeakyReLU))
    ]


def deconvolution(model, log):
    """Zeiler and Fergus 2014: the gradient itself is rectified."""
    return [
        m.register_full_backward_hook(lambda m, before, after: (after[0].clamp(min=0),))
        for m in model.modules()
        if isinstance(m, (nn.ReLU, nn.LeakyReLU))
    ]


def grad_cam(model, log):
    """Selvaraju et al. 2017: the feature maps of a layer and their gradients."""
    handles = []
    for m in model.modules():
        if isinstance(m, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.Tanh)):
            handles.append(m.register_forward_hook(lambda m, args, y: log.append(y.detach().clone())))
            handles.append(m.register_full_backward_hook(lambda m, dx, dy: log.append(dy[0].clone())))
    return handles


def deep_lift(model, log):
    """Shrikumar et al. 2017, as in Captum: records each activation's input and output, then replaces its gradient."""

    def before(m, args):
        m.seen = args[0].detach().clone()

    def after(m, args, y):
        m.given = y.detach().clone()

    def gradient(m, dx, dy):
        moved = m.seen.abs() > 1e-3
        return (torch.where(moved, dy[0] * m.given / torch.where(moved, m.seen, torch.ones(())), dx[0]),)

    handles = []
    for m in model.modules():
        if isinstance(m, (nn.ReLU, nn.LeakyReLU, nn.Tanh)):
            m.register_forward_pre_hook(before), m.register_forward_hook(after)
            handles.append(m.register_full_backward_hook(gradient))
    return handles


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy.clamp(min=0) * (x > 0)


class GuidedActivation(nn.Module):
    def forward(self, x):
        return GuidedReLU.apply(x)


def replace_modules(model, log):
    for container in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for name, child in container.named_children():
            if isinstance(child, nn.ReLU):
                container._modules[name] = GuidedActivation()
    return []


def replace_forwards(model, log):
    for m in model.modules():
        if isinstance(m, nn.ReLU):
            m.forward = GuidedReLU.apply
    return []


def hooks_in_hooks(model, log):
    """Each module but the last has a hook that hooks the next module for one call."""
    layers, handles = [m for m in model.modules() if not list(m.children())], []

    def look(following):
        def hook(*args):
            log.append(torch.tensor(len(log)))
            handles.append(following.register_forward_hook(lambda m, args, y: y * 2))

        return hook

    return [m.register_forward_pre_hook(look(n)) for m, n in zip(layers[::2], layers[1::2], strict=False)] + handles


METHODS = (guide_gradients, deconvolution, grad_cam, deep_lift, replace_modules, replace_forwards, hooks_in_hooks)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", list(map(change, METHODS)))
def test_attribution(pair, nested_pair, method, training):
    for models in (pair, nested_pair):
        x, results = inputs(), []
        for model in models:
            for m in model.modules():  # torch's backward hooks do not go with an activation in place
                m.inplace = False
            model.train(training)
            log = []
            handles = method(model, log)
            leaf = x.clone().requires_grad_()
            y = model(leaf)
            (dx,) = torch.autograd.grad(y[:, 1].square().sum(), leaf)
            results.append([y, dx, *log])
            for handle in handles:
                handle.remove()
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
