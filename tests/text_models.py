"""Tiny text models of the transformers library with random weights, saved into folders."""

import json

import pytest

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

import torch  # noqa: E402

WORDS = "a red green blue 7 3 seven moving up and down the number cat dog runs".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tokenizer(longest=16, padding_side="right"):
    """A tokenizer of whole words that puts [CLS] before a sentence and [SEP] after it."""
    words = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, model_max_length=longest, padding_side=padding_side, **names
    )


def save_bert(folder, seed=0, modules=None, pooling=None, **settings):
    """Save a BertModel with its tokenizer, and optionally the files of sentence-transformers; return both."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    known = {"vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 16, "hidden_dropout_prob": 0.5}
    model = transformers.BertModel(transformers.BertConfig(**{**sizes, **known, **settings})).eval()
    return save(folder, model, modules, pooling)


def save_clip(folder, seed=0, whole=False):
    """Save the text half of a CLIP model, or the whole model, with a tokenizer; return the half and the tokenizer."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 16, "projection_dim": 6}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if whole:
        vision = {**sizes, "image_size": 8, "patch_size": 4}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
        return save(folder, transformers.CLIPModel(config).eval())
    return save(folder, transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text)).eval())


def save(folder, model, modules=None, pooling=None):
    words = tokenizer()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if modules is not None:
        kinds = [{"idx": i, "name": str(i), "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(kinds))
    return model, words
