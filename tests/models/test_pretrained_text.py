"""Embeddings by a text model of the transformers library, against what that library computes, and bad folders."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from text_models import save, save_bert, save_clip, tokenizer, transformers

from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.models.text.cache import cache_path, read_cache, write_cache
from fastvgan.models.text.folder import check_folder, fingerprint
from fastvgan.models.text.inputs import move_text_encoder, to_text_input, to_text_inputs
from fastvgan.models.text.pretrained import open_text_encoder, pool

CAPTIONS = ["a red 7 moving up and down", "a cat", "the number seven", "a zebra runs", "blue"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def states(model, words, captions=CAPTIONS):
    """Last hidden states of each caption alone, without padding."""
    with torch.no_grad():
        return [model(**words(text, return_tensors="pt")).last_hidden_state[0] for text in captions]


def test_sentences_are_the_mean_of_their_tokens(tmp_path):
    model, words = save_bert(tmp_path / "m")
    encoder = open_text_encoder(tmp_path / "m")
    assert encoder.width == 8 and encoder.longest == 16
    expected = torch.stack([each.double().mean(0) for each in states(model, words)]).float()
    torch.testing.assert_close(encoder.encode(CAPTIONS), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(encoder.encode(CAPTIONS), encoder.encode(CAPTIONS))  # no dropout


@pytest.mark.parametrize("whole", [False, True])
def test_clip_returns_its_projected_text_embeddings(tmp_path, whole):
    model, words = save_clip(tmp_path / "m", whole=whole)
    encoder = open_text_encoder(tmp_path / "m")
    with torch.no_grad():
        tokens = [words(text, return_tensors="pt") for text in CAPTIONS]
        tokens = [{name: t[name] for name in ("input_ids", "attention_mask")} for t in tokens]
        if whole:
            expected = [model.text_projection(model.text_model(**t).pooler_output) for t in tokens]
        else:
            expected = [model(**t).text_embeds for t in tokens]
    torch.testing.assert_close(encoder.encode(CAPTIONS), torch.cat(expected), rtol=1e-5, atol=1e-6)
    assert encoder.width == 6


@pytest.mark.parametrize(
    ("pooling", "compute"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda x: x[0]),
        ({"pooling_mode_max_tokens": True}, lambda x: x.amax(0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda x: x.sum(0) / len(x) ** 0.5),
        ({"pooling_mode": "mean"}, lambda x: x.mean(0)),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "word_embedding_dimension": 8},
            lambda x: torch.cat([x[0], x.mean(0)]),
        ),
    ],
)
def test_the_pooling_of_sentence_transformers_is_followed(tmp_path, pooling, compute):
    model, words = save_bert(tmp_path / "m", pooling=pooling, modules=["Transformer", "Pooling", "Normalize"])
    encoder = open_text_encoder(tmp_path / "m")
    expected = torch.stack([compute(each) for each in states(model, words)])
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert encoder.width == expected.shape[1]
    torch.testing.assert_close(encoder.encode(CAPTIONS), expected, rtol=1e-5, atol=1e-6)


def test_padding_on_either_side_changes_nothing():
    x, ways = torch.randn(1, 3, 4), ("cls", "max", "mean", "mean_sqrt_len")
    alone = pool(x, torch.ones(1, 3), ways)
    noise = torch.randn(1, 2, 4) + 9
    right = pool(torch.cat([x, noise], 1), torch.tensor([[1, 1, 1, 0, 0]]), ways)
    left = pool(torch.cat([noise, x], 1), torch.tensor([[0, 0, 1, 1, 1]]), ways)
    torch.testing.assert_close(right, alone)
    torch.testing.assert_close(left, alone)


def test_many_sentences_are_encoded_in_batches_as_alone(tmp_path):
    save_bert(tmp_path / "m")
    encoder = open_text_encoder(tmp_path / "m")
    captions = [" ".join(["red cat 7 dog"] * (1 + i % 3)) for i in range(150)]
    alone = torch.cat([encoder.encode([text]) for text in captions[:5]])
    together = encoder.encode(captions)
    assert together.shape == (150, 8) and encoder.encode([]).shape == (0, 8)
    torch.testing.assert_close(together[:5], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[3:], together[:-3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "mpnet", "t5", "electra"])
def test_other_kinds_of_encoders(tmp_path, kind):
    torch.manual_seed(0)
    words = tokenizer()
    sizes = {
        "distilbert": (transformers.DistilBertModel, {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}),
        "t5": (transformers.T5EncoderModel, {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}),
        "roberta": (transformers.RobertaModel, {"max_position_embeddings": 12, "pad_token_id": 0}),
        "mpnet": (transformers.MPNetModel, {"max_position_embeddings": 12, "pad_token_id": 0}),
        "electra": (transformers.ElectraModel, {"embedding_size": 8}),
    }
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    make, settings = sizes[kind]
    config = make.config_class(vocab_size=len(words), **({} if kind in ("distilbert", "t5") else bert), **settings)
    model, words = save(tmp_path / "m", make(config).eval())
    encoder = open_text_encoder(tmp_path / "m")
    with torch.no_grad():
        tokens = words(CAPTIONS[2], return_tensors="pt")
        expected = model(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder.encode(CAPTIONS[2:3]), expected, rtol=1e-5, atol=1e-6)
    assert encoder.longest == (10 if kind in ("roberta", "mpnet") else 16)
    assert encoder.encode(["a cat " * 30]).shape == (1, 8)  # cut to the positions that the model has


def test_the_fingerprint_follows_the_files_that_matter(tmp_path):
    save_bert(tmp_path / "a")
    before = fingerprint(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("a card")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint(tmp_path / "b") == before
    save_bert(tmp_path / "c", seed=1)
    assert fingerprint(tmp_path / "c") != before
    (tmp_path / "b" / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    assert fingerprint(tmp_path / "b") != before
    assert open_text_encoder(tmp_path / "b").longest == 5


def test_weights_are_read_once_until_they_change(tmp_path, monkeypatch):
    save_bert(tmp_path / "m")
    opened, plain = [], Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self.name) or plain(self, *a, **k))
    first = open_text_encoder(tmp_path / "m")
    assert open_text_encoder(tmp_path / "m") is first and opened.count("model.safetensors") == 1
    save_bert(tmp_path / "m", seed=1)
    assert open_text_encoder(tmp_path / "m") is not first and opened.count("model.safetensors") == 2


@pytest.mark.parametrize("names", [["/etc/weights"], [["a"]]])
def test_an_odd_list_of_weights_is_one_sentence(tmp_path, names):
    save_bert(tmp_path / "m")
    no_weights(tmp_path / "m")
    index = {"weight_map": {str(i): name for i, name in enumerate(names)}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"--text-encoder .*: cannot read .* \(No such file"):
        fingerprint(tmp_path / "m")


def no_config(folder):
    (folder / "config.json").unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def of_kind(name, **more):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": name, **more}))

    return change


def no_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def fewer(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def infinite(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({k: v * torch.inf for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


BAD = {
    "nowhere": (shutil.rmtree, "does not exist; pass the folder of a text model"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "is a file, not a folder"),
    "no config": (no_config, r"config\.json is missing"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be read"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), r"config\.json is not a JSON object"),
    "ViT": (of_kind("vit"), "a model of the type 'vit', not an encoder of text; pass a CLIP or sentence model"),
    "GPT": (of_kind("gpt2"), "a model of the type 'gpt2', not an encoder of text"),
    "decoder": (of_kind("bert", is_decoder=True), "a decoder of the type 'bert'"),
    "no weights": (no_weights, r"has no weights; model\.safetensors is needed"),
    "pickled": (pickled, r"pytorch_model\.bin is not loaded, since such files can run code; model\.safetensors"),
    "no tokenizer": (no_tokenizer, "has no tokenizer"),
    "cut": (cut, "transformers cannot load it"),
    "weights missing": (fewer, r"its weights lack \S*layer\.1\.output\.dense\.weight; copy"),
    "infinite": (infinite, "makes NaN or infinite values"),
    "small vocabulary": (of_kind("bert", vocab_size=5), "copy the folder again"),
    "odd module": (
        lambda folder: (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]'),
        r"modules\.json has the module Dense, which is not supported",
    ),
    "odd pooling": (
        lambda folder: (
            (folder / "1_Pooling").mkdir(),
            (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}'),
        ),
        "asks for the pooling pooling_mode_lasttoken; supported are cls, max, mean, mean_sqrt_len",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_one_sentence(tmp_path, name):
    folder = tmp_path / "m"
    save_bert(folder)
    change, message = BAD[name]
    change(folder)
    with pytest.raises(UserError, match=message) as raised:
        open_text_encoder(folder).encode(CAPTIONS)
    assert "\n" not in str(raised.value) and f"--text-encoder {folder}" in str(raised.value)


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    save_bert(tmp_path / "m", vocab_size=9)
    with pytest.raises(UserError, match=r"its tokenizer has 20 tokens, and its model knows 9"):
        open_text_encoder(tmp_path / "m")


def test_without_transformers_a_sentence_names_the_extra(tmp_path, monkeypatch):
    save_bert(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install "fastvgan\[text\]"'):
        open_text_encoder(tmp_path / "m")


def test_nothing_is_drawn_from_torch_s_generator(tmp_path):
    save_bert(tmp_path / "m")
    before = torch.get_rng_state()
    open_text_encoder(tmp_path / "m").encode(CAPTIONS)
    assert torch.equal(torch.get_rng_state(), before)


def test_captions_become_embeddings_and_a_moved_folder_is_named(tmp_path):
    save_bert(tmp_path / "m")
    found = fingerprint(check_folder(tmp_path / "m").path)
    model = ModelConfig(text_encoder=str(tmp_path / "m"), text_width=8, text_fingerprint=found)
    expected = open_text_encoder(tmp_path / "m").encode(CAPTIONS)
    table = to_text_inputs(model, [*CAPTIONS, CAPTIONS[1]])
    torch.testing.assert_close(table, expected[[0, 1, 2, 3, 4, 1]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(to_text_input(model, "a zebra runs"), expected[3:4], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="has 32 tokens, and the text model takes 16; shorten it"):
        to_text_input(model, "a cat " * 15)
    (tmp_path / "m").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"which does not exist; pass its new folder with --text-encoder"):
        to_text_input(model, "a cat")
    moved = move_text_encoder(model, tmp_path / "moved")
    torch.testing.assert_close(to_text_input(moved, "a cat"), expected[1:2], rtol=1e-5, atol=1e-6)
    save_bert(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another text model than the one that the generator was trained with"):
        move_text_encoder(model, tmp_path / "other")
    with pytest.raises(UserError, match="reads text by itself; leave --text-encoder out"):
        move_text_encoder(ModelConfig(), tmp_path / "moved")


def test_a_damaged_or_foreign_cache_is_not_used(tmp_path):
    path = cache_path(tmp_path / "text", "abc", CAPTIONS)
    others = [cache_path(tmp_path / "text", "abd", CAPTIONS), cache_path(tmp_path / "text", "abc", CAPTIONS[1:])]
    assert path not in others and read_cache(path, (5, 8)) is None
    table = torch.randn(5, 8)
    write_cache(path, table)
    assert torch.equal(read_cache(path, (5, 8)), table) and read_cache(path, (5, 9)) is None
    write_cache(path, table.double())
    assert read_cache(path, (5, 8)) is None
    write_cache(path, table)
    path.write_bytes(path.read_bytes()[:-7])
    assert read_cache(path, (5, 8)) is None
