"""Discriminators without batch statistics: against torch.nn's modules, and one clip at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import FAMILIES, condition, config
from torch import nn
from torch.nn.utils import parametrizations

from fastvgan.errors import UserError
from fastvgan.layers.spectral import iterate
from fastvgan.models import ModelConfig, build
from fastvgan.models.sizes import count_min_weights, features, stages
from fastvgan.training.footprint import clip_bytes

NORMS = ("none", "group", "spectral")
NAMES = ("clip", "difference", "frame")


class StockLayers(nn.Module):
    """The convolutions of a trunk or of the frame discriminator, written in torch.nn."""

    def __init__(self, norm, sizes, blocks):
        super().__init__()
        self.frames_apart = norm == "group" and all(kernel[0] == 1 for _, _, kernel, _, _ in sizes)
        kernel = (1, 3, 3) if all(kernel[0] == 1 for _, _, kernel, _, _ in sizes) else (3, 3, 3)
        self.layers = nn.ModuleList()
        for number, (before, after, *rest) in enumerate(sizes):
            has_norm = norm == "group" and number > 0
            conv = stock_conv(norm, before, after, *rest, bias=not has_norm)
            inner = [StockBlock(norm, after, kernel) for _ in range(blocks if max(rest[1]) > 1 else 0)]
            act = stock_act("group" if has_norm else "none", after)
            self.layers.append(nn.Sequential(conv, *inner, act))

    def forward(self, x):
        if self.frames_apart:
            return torch.stack([self.run(x[:, :, [t]])[:, :, 0] for t in range(x.shape[2])], 2)
        return self.run(x)

    def run(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class StockBlock(nn.Module):
    def __init__(self, norm, width, kernel):
        super().__init__()
        padding = tuple(k // 2 for k in kernel)
        self.acts = nn.ModuleList([stock_act(norm, width), stock_act(norm, width)])
        self.first = stock_conv(norm, width, width, kernel, 1, padding, bias=norm != "group")
        self.last = stock_conv(norm, width, width, kernel, 1, padding, bias=norm != "group")

    def forward(self, x):
        return x + self.last(self.acts[1](self.first(self.acts[0](x))))


def stock_conv(norm, *sizes, bias):
    conv = nn.Conv3d(*sizes, bias=bias)
    return parametrizations.spectral_norm(conv) if norm == "spectral" else conv


def stock_act(norm, width):
    leaky = nn.LeakyReLU(0.2)
    return nn.Sequential(nn.GroupNorm(max(width // 2, 1), width), leaky) if norm == "group" else leaky


class StockLSTM(nn.Module):
    """Shi et al. 2015 without peepholes, with the gates in the order of torch.nn.LSTM."""

    def __init__(self, norm, before, width):
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * width, before, 3, 3))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width, 3, 3))
        self.bias = nn.Parameter(torch.empty(4 * width))
        for name in ("weight_ih", "weight_hh"):
            nn.init.normal_(getattr(self, name))
            if norm == "spectral":
                parametrizations.spectral_norm(self, name)
        self.width = width

    def forward(self, x):
        n, _, frames, height, width = x.shape
        h = cell = x.new_zeros(n, self.width, height, width)
        for t in range(frames):
            gates = F.conv2d(x[:, :, t], self.weight_ih, self.bias, padding=1) + F.conv2d(h, self.weight_hh, padding=1)
            i, f, g, o = gates.chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            h = o.sigmoid() * cell.tanh()
        return h[:, :, None]


class StockHead(nn.Module):
    """The projection discriminator of Miyato & Koyama 2018 with a class as condition."""

    def __init__(self, model, channels, size):
        super().__init__()
        self.real = stock_conv(model.d_norm, channels, 1, size, bias=False)
        self.embed = nn.Embedding(model.classes, 128)
        self.fit = stock_conv(model.d_norm, channels, 128, size, bias=False)

    def forward(self, h, label):
        fit = self.fit(h).flatten(2)  # (N, E, P)
        return self.real(h).flatten(1) + torch.einsum("nep,ne->np", fit, self.embed(label)) / math.sqrt(128)


class StockDiscriminators(nn.Module):
    def __init__(self, model):
        super().__init__()
        norm, width = model.d_norm, model.base_width
        of_clips = stages(model.frames, model.height, model.width, model.family == "conv3d")[::-1]
        of_frames = stages(model.frames, model.height, model.width, False)[::-1]
        widths = [3, *features(len(of_clips), width)]
        sizes = [(widths[i], widths[i + 1], *stage[2:]) for i, stage in enumerate(of_clips)]
        self.trunk = StockLayers(norm, sizes, model.d_blocks)
        self.lstm, last, size = None, widths[-1], of_clips[-1].small
        if model.family == "recurrent":
            self.lstm, last, size = StockLSTM(norm, last, (last + 1) // 2), (last + 1) // 2, (1, *size[1:])
        self.head = StockHead(model, last, size)
        self.others = nn.ModuleDict()
        widths = features(len(of_frames) + 1, width)
        for name in ("frame", "difference"):
            sizes, before = [], 3
            for i, stage in enumerate(of_frames):
                sizes.append((before, widths[i], *stage[2:]))
                sizes.append((widths[i], widths[i + 1], (1, 3, 3), (1, 1, 1), (0, 1, 1)))
                before = widths[i + 1]
            head = StockHead(model, widths[-1], (1, *of_frames[-1].small[1:]))
            self.others[name] = nn.ModuleList([StockLayers(norm, sizes, model.d_blocks), head])

    def forward(self, x, label):
        h = self.trunk(x)
        logits = [self.head(h if self.lstm is None else self.lstm(h), label)]
        for name, video in (("frame", x), ("difference", (x[:, :, 1:] - x[:, :, :-1]) / 2)):
            layers, head = self.others[name]
            logits.append(head(layers(video), label))
        return logits


def as_stock(model, discriminator):
    """The stock network with our weights and vectors, in evaluation so that it takes no power iteration."""
    stock = StockDiscriminators(model).double().eval()
    ours, theirs = discriminator.state_dict(), stock.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    stock.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    return stock


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_of_both_orders_are_those_of_stock_modules(family, norm, blocks):
    """In float64; the second order is that of R1, by double backward."""
    torch.manual_seed(0)
    model = config(
        family=family, d_norm=norm, d_blocks=blocks, condition=("class",), discriminators=NAMES, base_width=4, frames=5
    )
    discriminator = build(model)[1].double()
    with torch.no_grad():  # singular values above 1 and last layers that are not zero
        for parameter in discriminator.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if norm != "spectral" else 1))
    for _ in range(3):
        iterate(discriminator)
    stock = as_stock(model, discriminator)
    c = condition(model, 3)
    x = torch.randn(3, 3, 5, 16, 16, dtype=torch.float64)
    found = []
    for network in (discriminator, stock):
        clips = x.clone().requires_grad_()
        if network is stock:
            logits = stock(clips, c.label)
        else:
            logits = network.score(network.features(clips, c), c)
        total = sum(part.mean(1).sum() for part in logits)
        parameters = list(network.parameters())
        firsts = torch.autograd.grad(total, [clips, *parameters], create_graph=True)
        penalty = firsts[0].square().sum() / 2
        seconds = torch.autograd.grad(penalty, parameters, materialize_grads=True)
        found.append((*logits, *firsts, penalty, *seconds))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7 * max(1, theirs.abs().max().item()))
    assert found[0][-1].abs().max() > 0 or norm == "none"


def per_clip(family, norm, **values):
    model = config(family=family, d_norm=norm, base_width=3, condition=("class",), **values)
    discriminator = build(model)[1]
    with torch.no_grad():
        for parameter in discriminator.parameters():  # the last layers of blocks, too
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model, discriminator


@given(
    n=st.integers(1, 4),
    frames=st.integers(4, 9),
    every=st.integers(1, 3),
    norm=st.sampled_from(NORMS),
    family=st.sampled_from(FAMILIES),
    names=st.sets(st.sampled_from(NAMES), min_size=1),
    blocks=st.integers(0, 1),
    is_bf16=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_a_clip_s_logits_are_its_own(n, frames, every, norm, family, names, blocks, is_bf16, seed):
    torch.manual_seed(seed)
    model, discriminator = per_clip(
        family, norm, d_blocks=blocks, frames=frames, frame_every=every, discriminators=tuple(names)
    )

    def logits(x, c):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            return discriminator.score(discriminator.features(x, c), c)

    x, c, mine = torch.randn(n, 3, frames, 16, 16), condition(model, n), seed % n
    others = torch.arange(n) != mine
    changed = torch.where(others[:, None, None, None, None], 5 * torch.randn_like(x) + 3, x)
    for before, after in zip(logits(x, c), logits(changed, c), strict=True):
        assert torch.equal(before[mine], after[mine])
        assert n == 1 or not torch.equal(before, after)
    # Clip `mine` sees other frames than the first clip of a batch, unless each clip sees all.
    if every == 1 or mine == 0:
        rows = slice(mine, mine + 1)
        for before, alone in zip(logits(x, c), logits(x[rows], c.rows(rows)), strict=True):
            tolerance = 0.02 if is_bf16 else 1e-4  # kernels for another batch size add in another order
            torch.testing.assert_close(before[rows], alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_norm_does_mix_clips(family):
    model, discriminator = per_clip(family, "batch")
    x, c = torch.randn(2, 3, 16, 16, 16), condition(model, 2)
    assert not torch.allclose(discriminator(x, c)[0], discriminator(torch.stack([x[0], 3 * x[1]]), c)[0])


@pytest.mark.parametrize("names", [("frame",), ("difference",)])
@pytest.mark.parametrize("norm", NORMS)
def test_a_frame_s_logit_is_its_own(norm, names):
    model, discriminator = per_clip("conv3d", norm, d_blocks=1, discriminators=names)
    x, c = torch.randn(2, 3, 16, 16, 16), condition(model, 2)
    (before,) = discriminator.score(discriminator.features(x, c), c)
    x = torch.cat([x[:, :, :9], torch.randn(2, 3, 7, 16, 16)], 2)
    (after,) = discriminator.score(discriminator.features(x, c), c)
    assert torch.equal(before[:, :8], after[:, :8]) and not (before[:, 9:] == after[:, 9:]).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_start_as_the_identity_and_then_learn(family, norm):
    values = {"family": family, "d_norm": norm, "condition": (), "discriminators": NAMES, "base_width": 4}
    plain, deep = (build(config(d_blocks=blocks, **values))[1] for blocks in (0, 2))
    fitting = {name: value for name, value in plain.state_dict().items() if name in deep.state_dict()}
    assert fitting.keys() == plain.state_dict().keys()
    deep.load_state_dict(fitting, strict=False)
    x = torch.randn(2, 3, 16, 16, 16)
    torch.testing.assert_close(deep(x), plain(x), rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.SGD(deep.parameters(), 0.1)
    for step in range(2):
        optimizer.zero_grad()
        deep(x).square().sum().backward()
        zero = {name for name, p in deep.named_parameters() if not p.grad.abs().max() > 0}
        # Behind a zero layer nothing has a gradient, but only in the first step.
        assert all(".blocks." in name and ".last." not in name for name in zero) and (step == 0 or not zero), zero
        optimizer.step()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("names", [("clip",), ("frame",), NAMES])
@pytest.mark.parametrize("frames", [16, 64])  # 64: more layers than frames of 16x16 have
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_memory_of_blocks_are_counted_from_below_and_nearly(family, frames, names, norm):
    values = {"family": family, "frames": frames, "discriminators": names, "condition": (), "base_width": 16}
    model = config(d_norm=norm, d_blocks=3, **values)
    counted, there = count_min_weights(model)[1], sum(p.numel() for p in build(model)[1].parameters())
    assert 0.3 * there < counted <= there
    plain, most = (clip_bytes(model.model_copy(update={"d_blocks": k}), torch.float32) for k in (0, 3))
    assert plain < most < 7 * plain


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"d_norm": "layer"}, "d_norm 'layer': expected one of batch, none, group, spectral"),
        ({"d_norm": "none", "d_blocks": -1}, "d_blocks -1: must be at least 0"),
        ({"d_norm": "none", "d_blocks": 65}, "d_blocks 65: must be at most 64"),
        ({"d_blocks": 2}, "--d-blocks 2 needs --d-norm none, group or spectral; or use --d-blocks 0"),
    ],
)
def test_bad_settings_are_one_sentence(values, sentence):
    with pytest.raises(UserError) as raised:
        ModelConfig(**values)
    assert str(raised.value).startswith(sentence) and "\n" not in str(raised.value)


def test_older_configurations_have_batch_norms():
    values = ModelConfig().model_dump()
    del values["d_norm"], values["d_blocks"]
    model = ModelConfig.model_validate(values)
    assert (model.d_norm, model.d_blocks) == ("batch", 0)
