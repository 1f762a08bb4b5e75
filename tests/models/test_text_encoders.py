"""The encoders of text that train along, against torch.nn's transformer layer."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from fastvgan.errors import UserError
from fastvgan.models import Condition, ModelConfig, build
from fastvgan.models.conditions import ConditionEncoder, TextEncoder
from fastvgan.models.text.encoders import EmbeddingEncoder, SequenceEncoder
from fastvgan.models.text.inputs import to_text_input
from fastvgan.models.vocabulary import Vocabulary

KNOWN = {"vocabulary": tuple("abcdefg"), "caption_length": 5, "base_width": 2, "latent": 4, "condition": ("text",)}


def sequence(words=9, dim=32, dtype=torch.float64):
    """An encoder whose weights are all random, those too that are zero at first."""
    encoder = SequenceEncoder(words, dim).to(dtype).eval()
    for name, parameter in encoder.named_parameters():
        if name == "start" or name.endswith("distance"):
            nn.init.normal_(parameter)
    return encoder


def stock(encoder, words):
    """The same encoder made of torch.nn's layers, for one sentence without padding, int64 (L,)."""
    x = torch.cat([encoder.start[None], encoder.embed.weight[words]])[None]
    size, heads = x.shape[1], encoder.layers[0].distance.shape[0]
    for layer in encoder.layers:
        width = x.shape[2]
        other = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True, dtype=x.dtype
        )
        own = layer.state_dict()
        names = {"norm": "norm1", "second_norm": "norm2", "output": "self_attn.out_proj", "each.0": "linear1"}
        names |= {"each.2": "linear2"}
        state = {f"{names[k]}.{end}": own[f"{k}.{end}"] for k in names for end in ("weight", "bias")}
        state |= {f"self_attn.in_proj_{end}": own[f"inputs.{end}"] for end in ("weight", "bias")}
        other.load_state_dict(state)
        bias = torch.empty(heads, size, size, dtype=x.dtype)
        for i in range(size):
            for j in range(size):
                bias[:, i, j] = layer.distance[:, min(max(j - i, -8), 8) + 8]
        x = other(x, src_mask=bias)
    x = nn.functional.layer_norm(x, x.shape[2:], encoder.norm.weight, encoder.norm.bias)
    return encoder.mix(x[0].max(0).values)


@pytest.mark.parametrize("length", [1, 2, 7, 20])
def test_it_is_torch_s_transformer_with_relative_positions(length):
    encoder = sequence()
    words = torch.randint(1, 9, (length,))
    torch.testing.assert_close(encoder(words[None])[0], stock(encoder, words))


@given(st.lists(st.integers(1, 8), max_size=12), st.integers(0, 9), st.integers(1, 3))
def test_padding_and_neighbours_change_nothing(words, padding, copies):
    encoder = sequence()
    row = torch.tensor(words, dtype=torch.int64)
    alone = encoder(row[None])[0]
    padded = torch.cat([row, torch.zeros(padding, dtype=torch.int64)])
    other = torch.randint(0, 9, padded.shape)
    batch = torch.stack([torch.stack([padded] * copies), torch.stack([other] * copies)])  # (2, K, L)
    found = encoder(batch)
    assert found.shape == (2, copies, 32) and found.isfinite().all()
    torch.testing.assert_close(found[0], alone.expand(copies, -1))


def test_the_order_of_words_matters():
    encoder = sequence()
    there, back = encoder(torch.tensor([[2, 3, 4, 5], [5, 4, 3, 2]]))
    assert (there - back).abs().max() > 1e-2


@pytest.mark.parametrize("text", [[[2, 3, 0], [4, 4, 5]], [[2]], [[0, 0]]])
def test_derivatives_of_first_and_second_order(text):
    encoder, text = sequence(6, 16), torch.tensor(text)
    names = ["embed.weight", "start", "layers.0.distance", "layers.1.inputs.weight", "norm.bias"]
    given = [dict(encoder.named_parameters())[name].detach().requires_grad_() for name in names]
    # The maximum has a kink where two words tie; random weights have none.

    def encode(*values):
        return functional_call(encoder, dict(zip(names, values, strict=True)), (text,)).square().sum()

    assert torch.autograd.gradcheck(encode, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(encode, given, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    encoder, text = sequence(dtype=torch.float32), torch.randint(0, 9, (4, 3, 6))
    with torch.autocast("cpu", dtype):
        low = encoder(text)
    low.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in encoder.parameters())
    torch.testing.assert_close(low.float(), encoder(text), rtol=0.05, atol=0.05)


def test_embeddings_are_standardised_and_projected():
    encoder = EmbeddingEncoder(7, 5)
    x = 3 + 2 * torch.randn(4, 3, 7)
    expected = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(encoder(x), expected @ encoder.project.weight.T + encoder.project.bias)
    torch.testing.assert_close(encoder(100 * x)[0], encoder(x[0]), rtol=1e-4, atol=1e-4)
    assert encoder.double()(x).dtype == torch.float64


def test_the_configuration_chooses():
    def kind(**values):
        return type(ConditionEncoder(ModelConfig(**{**KNOWN, **values})).parts["text"])

    assert kind() is TextEncoder and kind(text_model="sequence") is SequenceEncoder
    assert kind(text_encoder="x", text_width=7) is EmbeddingEncoder
    with pytest.raises(UserError, match="--text-encoder and --text-model sequence exclude each other"):
        ModelConfig(text_encoder="x", text_model="sequence")


def test_unknown_words_and_long_sentences_are_named():
    model = ModelConfig(**{**KNOWN, "vocabulary": ("a", "red", "seven"), "text_model": "sequence"})
    vocabulary = Vocabulary(("a", "red", "seven"), 32)
    long = "a red " * 16
    assert torch.equal(to_text_input(model, long), vocabulary.encode([long]))
    with pytest.raises(UserError, match=r"words that were not in the training captions: 'blue'; known words: a, red"):
        to_text_input(model, "a blue seven")
    with pytest.raises(UserError, match=r"has 33 words, and this model takes 32; leave out the words from 'seven' on"):
        to_text_input(model, long + "seven")
    with pytest.raises(UserError, match=r"has 6 words, and this model takes 5; leave out the words from 'a' on"):
        to_text_input(model.model_copy(update={"text_model": "words"}), "red red red red red a")


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
@pytest.mark.parametrize("kind", [{"text_model": "sequence"}, {"text_encoder": "x", "text_width": 6}])
def test_the_gradient_penalty_has_derivatives(family, kind):
    """In float64, against finite differences of the penalty, for a weight of the encoder too."""
    model = ModelConfig(**{**KNOWN, "family": family, "frames": 4, **kind})
    torch.set_default_dtype(torch.float64)
    try:
        d = build(model)[1]
    finally:
        torch.set_default_dtype(torch.float32)
    text = torch.randint(0, 9, (2, 5)) if "text_model" in kind else torch.randn(2, 6)
    video = torch.randn(2, 3, 4, 16, 16, dtype=torch.float64)

    def penalty():
        x = video.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(d(x, Condition(text)).sum(), x, create_graph=True)
        return gradient.square().sum()

    weights = [d.head.condition.parts["text"].get_parameter(n) for n in _WEIGHTS[next(iter(kind))]]
    for weight, gradient in zip(weights, torch.autograd.grad(penalty(), weights), strict=True):
        direction, size = torch.randn_like(weight), 1e-5
        with torch.no_grad():
            weight.add_(direction, alpha=size)
            above = penalty_value(penalty)
            weight.add_(direction, alpha=-2 * size)
            below = penalty_value(penalty)
            weight.add_(direction, alpha=size)
        expected = (above - below) / (2 * size)
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-8)


_WEIGHTS = {
    "text_model": ("embed.weight", "layers.0.inputs.weight", "mix.2.weight"),
    "text_encoder": ("project.weight",),
}


def penalty_value(penalty):
    with torch.enable_grad():
        return penalty().detach()


@pytest.mark.parametrize("kind", [{"text_model": "sequence"}, {"text_encoder": "x", "text_width": 6}])
def test_export_to_onnx(kind, tmp_path):
    """A pretrained model's embedding is an input of the graph."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model = ModelConfig(**{**KNOWN, "frames": 4, **kind})
    generator = build(model)[0].eval()

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = generator

        def forward(self, z, text):
            return self.generator(z, Condition(text))

    z = generator.noise(2)
    text = torch.tensor([[2, 3, 4, 0, 0], [1, 2, 3, 4, 5]]) if "text_model" in kind else torch.randn(2, 6)
    file = tmp_path / "generator.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Called().eval(), (z, text), str(file), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, (z.numpy(), text.numpy()), strict=True)))[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), generator(z, Condition(text)), rtol=1e-4, atol=1e-5)
