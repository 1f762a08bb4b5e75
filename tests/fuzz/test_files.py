"""Files that anyone may have written: whatever is in them, they are read or named, and lead to no file outside.

`FASTVGAN_FUZZ=100000 python -m pytest tests/fuzz` tries so many; CI tries a few hundred.
"""

import csv
import hashlib
import io
import json
import struct
from pathlib import Path, PurePosixPath

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from odd import NAMES, limit_examples, mutate, mutate_bytes, odd_values

import fastvgan
from fastvgan.data.clips import items_from_manifest
from fastvgan.data.folders.annotations import read_captions
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.folders.tables import read_tables
from fastvgan.errors import UserError
from fastvgan.generation.files import export
from fastvgan.models import ModelConfig, build_generator
from fastvgan.runs.checkpoint import find_best, find_newest_good, read_averaged_weights, verify
from fastvgan.runs.config import read_config
from fastvgan.runs.presets import preset
from fastvgan.training.run import checkpoint
from fastvgan.training.step.adversarial import AdversarialStep

RECORD = {"path": "a/b.mp4", "kind": "video", "frames": 12, "height": 20, "width": 30, "codec": "h264", "fps": 8.0}
RECORD |= {"captions": ["a cat", "a dog"], "class": "cat", "pts": [*range(0, 24, 2)], "keys": [0, 5], "bytes": 99}
RECORD |= {"steady": True, "rotation": 90, "checksum": "sha256:0", "span": [0, 9], "member": "m", "strip_frames": 0}
HEADER = {"fastvgan manifest": 1, "root": "."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a link in it that leads out."""
    root = tmp_path_factory.mktemp("data")
    (root / "link").symlink_to("/etc")
    return root


def lines_of(*values) -> bytes:
    return b"".join(json.dumps(value).encode("utf-8", "surrogatepass") + b"\n" for value in values)


manifests = st.one_of(
    st.builds(lines_of, st.just(HEADER), mutate(RECORD), mutate(RECORD)),
    st.builds(lines_of, mutate(HEADER), st.just(RECORD)),
    st.builds(lines_of, st.just(HEADER), st.builds(lambda path: {**RECORD, "path": path}, st.sampled_from(NAMES))),
    mutate_bytes(lines_of(HEADER, RECORD)),
    st.builds(lambda depth: lines_of(HEADER) + b"[" * depth, st.sampled_from((10, 100_000))),
)


@limit_examples(3)
@given(data=manifests)
def test_a_manifest_is_read_or_named_and_leads_nowhere_else(folder, data):
    (folder / "manifest.jsonl").write_bytes(data)
    try:
        manifest = read_manifest(str(folder / "manifest.jsonl"))
        items, _ = items_from_manifest(manifest)
    except UserError:
        return
    for item in items:
        assert Path(item.media.path).resolve().is_relative_to(folder.resolve())
        assert item.found.frames == len(item.found.pts if item.found.pts is not None else range(item.found.frames))


def table(rows, delimiter) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(row if isinstance(row, list) else [row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


ROWS = [["file", "caption", "class"], ["a.mp4", "a cat", "cat"], ["b/c.mp4", "a dog", "dog"]]
LINES = [{"file": "a.mp4", "caption": ["a cat", "cats"], "class": "cat"}, {"file": "b/c.mp4", "caption": "a dog"}]
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=20))
captions = st.one_of(
    st.tuples(st.just("captions.jsonl"), st.builds(lambda lines: lines_of(*lines), mutate(LINES))),
    st.tuples(st.just("captions.jsonl"), st.builds(lambda n: lines_of({**LINES[0], "file": n}), names)),
    st.tuples(st.just("metadata.jsonl"), st.builds(lambda lines: lines_of(*lines), mutate(LINES))),
    st.tuples(st.just("metadata.csv"), mutate_bytes(table(ROWS, ";"))),
    st.tuples(st.just("metadata.tsv"), mutate_bytes(table(ROWS, "\t").decode().encode("utf-16"))),
    st.tuples(st.just("captions.jsonl"), mutate_bytes(lines_of(*LINES))),
    st.tuples(st.just("captions.csv"), st.builds(table, mutate(ROWS), st.sampled_from(",;\t"))),
    st.tuples(st.just("captions.csv"), st.builds(lambda n: table([ROWS[0], [n, "x", "y"]], ","), names)),
    st.tuples(st.just("captions.csv"), mutate_bytes(table(ROWS, ","))),
    st.tuples(st.just("clip.txt"), st.binary(max_size=40)),
)


@limit_examples(3)
@given(file=captions)
def test_captions_are_read_or_named_and_lead_nowhere_else(tmp_path_factory, folder, file):
    name, data = file
    for other in folder.glob("[cm][ael]*"):
        other.unlink()
    (folder / name).write_bytes(data)
    try:
        said = read_captions(folder / "clip.txt", folder.resolve())
        tables = read_tables(folder, [folder / name] if name != "clip.txt" else [])[0]
    except UserError:
        return
    for paths, (texts, label) in [line for table in tables for line in table.items()]:
        for path in map(PurePosixPath, paths):
            assert not path.is_absolute() and ".." not in path.parts
        said += (*texts, label or "")
    "".join(said).encode()  # nothing that could not be written down again


CONFIG = preset("digits").model_dump(mode="json")
texts_of_configurations = st.one_of(
    mutate(CONFIG).map(lambda values: yaml.safe_dump(values).encode("utf-8", "surrogatepass")),
    mutate_bytes(yaml.safe_dump(CONFIG).encode()),
)


@limit_examples(20)  # YAML is slow
@given(data=texts_of_configurations)
def test_a_configuration_is_read_or_named(folder, data):
    path = folder / "config.yaml"
    path.write_bytes(data)
    try:
        config = read_config(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(path) == config


MODEL = ModelConfig(condition=("text",), base_width=2, latent=4, vocabulary=("a", "cat"), caption_length=2)


class Quiet(tuple):
    """A tuple whose parts are too long for a message."""

    def __repr__(self):
        return "…"


@pytest.fixture(scope="module")
def exported_file(tmp_path_factory):
    """An exported generator: its file, its header as values, and its bytes without the header."""
    path = tmp_path_factory.mktemp("export") / "x.safetensors"
    export(build_generator(MODEL).state_dict(), MODEL, path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return Quiet((path, json.loads(data[8 : 8 + length]), data[8 + length :]))


def with_header(header, body) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@limit_examples(6)
@given(data=st.data())
def test_an_exported_file_is_loaded_or_named(exported_file, data):
    path, header, body = exported_file
    kind = data.draw(st.sampled_from(("settings", "header", "bytes", "text")))
    if kind == "settings":
        settings = data.draw(mutate(json.loads(header["__metadata__"]["fastvgan"])))
        written = with_header({**header, "__metadata__": {"fastvgan": json.dumps(settings)}}, body)
    elif kind == "text":
        written = with_header({**header, "__metadata__": {"fastvgan": data.draw(st.text(max_size=30))}}, body)
    elif kind == "header":
        written = with_header(data.draw(mutate(header)), body)
    else:
        written = data.draw(mutate_bytes(with_header(header, body)))
    path.write_bytes(written)
    try:
        generator = fastvgan.load(path)
        videos = generator.generate(text="a cat")
    except UserError:
        return
    assert videos.dtype == torch.uint8


@pytest.fixture(scope="module")
def saved_checkpoint(tmp_path_factory):
    """A run's step, one checkpoint of it, and that checkpoint's files."""
    from tiny import tiny

    config = tiny({"vocabulary": ("a", "cat"), "caption_length": 2})
    step = AdversarialStep(config.model, config.training, torch.device("cpu"), torch.float32)
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    path = checkpoint.save(folder, step, 3, keep=2)
    state = json.loads((path / "state.json").read_text())
    return Quiet((step, path, state, (path / "state.safetensors").read_bytes()))


@limit_examples(6)
@given(data=st.data())
def test_a_checkpoint_is_read_or_named(saved_checkpoint, data):
    step, path, state, tensors = saved_checkpoint
    kind = data.draw(st.sampled_from(("state", "any", "tensors", "both")))
    if kind in ("tensors", "both"):
        tensors = data.draw(mutate_bytes(tensors[:4000]).map(lambda head: head + tensors[4000:]))
    if kind == "both":  # as the user who wants to be believed would write it
        told = {"sha256": hashlib.sha256(tensors).hexdigest(), "bytes": len(tensors)}
        state = {**state, "files": {"state.safetensors": told}}
    text = json.dumps(state)
    if kind == "state":
        text = json.dumps(data.draw(mutate(state)))
    elif kind == "any":
        text = json.dumps(data.draw(odd_values))
    (path / "state.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    (path / "state.safetensors").write_bytes(tensors)
    found, faults = find_newest_good(path.parent)
    assert (found is None) == bool(faults)
    find_best(path.parent)
    for read in (verify, read_averaged_weights, lambda path: checkpoint.restore(path, step)):
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error)
