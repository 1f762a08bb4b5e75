"""A manifest comes back as it was written, and opens nothing that its reader did not mean to open."""

import json
import math
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastvgan.data.clips import items_from_manifest
from fastvgan.data.folders.manifest import Record, find_manifest, read_manifest, write_manifest
from fastvgan.data.media.frames import probe
from fastvgan.errors import UserError

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\:\0\n"), min_size=1).filter(
    lambda name: name not in (".", "..") and not name.startswith("~")
)


@st.composite
def records(draw):
    frames = draw(st.integers(2, 40))
    height = draw(st.integers(1, 9999))
    steps = draw(st.lists(st.integers(1, 3), min_size=frames, max_size=frames))
    return Record(
        path="/".join(draw(st.lists(names, min_size=1, max_size=3))),
        kind=draw(st.sampled_from(["video", "tar", "frames", "zip", "strip", "shard"])),
        frames=frames,
        height=height,
        width=draw(st.integers(math.ceil(height / 64), 64 * height)),
        codec=draw(st.sampled_from(["", "vp9"])),
        fps=draw(st.none() | st.floats(0.1, 999)),
        steady=draw(st.booleans()),
        captions=tuple(draw(st.lists(st.text(st.characters(codec="utf-8"))))),
        label=draw(st.none() | names),
        span=draw(st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))),
        pts=draw(st.sampled_from([None, np.cumsum(steps)])),
        keys=tuple(sorted(draw(st.sets(st.integers(0, frames - 1))))),
    )


@given(st.lists(records(), min_size=1, max_size=4))
def test_what_was_written_comes_back(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("m")
    write_manifest(folder / "manifest.jsonl", written)
    read = read_manifest(str(folder / "manifest.jsonl"))
    assert read.root == folder
    for a, b in zip(read.records, written, strict=True):
        assert a.to_json() == b.to_json() and (a.captions, a.label, a.span) == (b.captions, b.label, b.span)
        assert np.array_equal(a.pts, b.pts) if b.pts is not None else a.pts is None
        assert read.media(a).path == folder / a.path


def write(path: Path, *lines, root=".") -> str:
    header = {"fastvgan manifest": 1, "root": root}
    path.write_text("\n".join(json.dumps(line) for line in (header, *lines)) + "\n")
    return str(path)


def test_clips_without_a_word_in_their_captions_have_none(tmp_path):
    written = [Record(f"{i}.mp4", "video", 2, 8, 8, captions=texts) for i, texts in enumerate([("!", "a 5"), ("…",)])]
    write_manifest(tmp_path / "manifest.jsonl", written)
    manifest = read_manifest(str(tmp_path / "manifest.jsonl"))
    (item,), remarks = items_from_manifest(manifest, ("text",))
    assert item.captions == ("a 5",) and remarks == ["1.mp4: has no caption; left out"]


CLIP = {"path": "a.mp4", "kind": "video", "frames": 3, "height": 4, "width": 5}


@pytest.mark.parametrize("root", ["/", "/etc", "..", "../other", "file:///", "memory://x", "x/../.."])
def test_a_root_elsewhere_is_read_only_when_named(tmp_path, root):
    location = write(tmp_path / "m.jsonl", CLIP, root=root)
    with pytest.raises(UserError, match="--root"):
        read_manifest(location)
    manifest = read_manifest(location, root=str(tmp_path / "clips"))
    assert manifest.media(manifest.records[0]).path == tmp_path / "clips" / "a.mp4"


def test_links_that_lead_out_are_followed_only_on_request(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "inside.mp4").write_text("x")
    (tmp_path / "secret.mp4").write_text("x")
    (tmp_path / "set" / "a.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "set" / "b.mp4").symlink_to("inside.mp4")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    lines = [{**CLIP, "path": path} for path in ("b.mp4", "a.mp4", "up/secret.mp4")]
    location = write(tmp_path / "set" / "m.jsonl", *lines)
    manifest = read_manifest(location)
    manifest.media(manifest.records[0])
    for record in manifest.records[1:]:
        with pytest.raises(UserError, match="--follow-links"):
            manifest.media(record)
        assert read_manifest(location, follow_links=True).media(record).path.exists()


def test_the_folders_of_many_clips_are_resolved_once(tmp_path, monkeypatch):
    (tmp_path / "set" / "d").mkdir(parents=True)
    lines = [{**CLIP, "path": f"d/{i}.mp4"} for i in range(20)]
    manifest = read_manifest(write(tmp_path / "set" / "m.jsonl", *lines))
    resolved, resolve = [], Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: (resolved.append(path), resolve(path))[1])
    assert [manifest.media(r).path for r in manifest.records] == [tmp_path / "set" / line["path"] for line in lines]
    assert len(resolved) == 2  # the root and the folder


def test_clips_whose_files_have_changed_since_are_left_out(tmp_path):
    for name in ("same.mp4", "longer.mp4", "unknown.mp4", "a.tar", "short.tar"):
        (tmp_path / name).write_bytes(b"0123456789")
    clips = {"same.mp4": 10, "longer.mp4": 9, "unknown.mp4": 0, "missing.mp4": 5, "x" * 300: 5}
    lines = [{**CLIP, "path": name, "bytes": size} for name, size in clips.items()]
    spans = {"a.tar": [4, 6], "short.tar": [4, 7]}
    lines += [{**CLIP, "kind": "tar", "path": k, "bytes": v[1], "span": v} for k, v in spans.items()]
    manifest = read_manifest(write(tmp_path / "m.jsonl", *lines))
    items, remarks = items_from_manifest(manifest)
    assert [item.name for item in items] == ["same.mp4", "unknown.mp4", "missing.mp4", "x" * 300, "a.tar"]
    why = "has changed since `prepare` (10 bytes); run `prepare` again; left out"
    assert remarks == [f"longer.mp4: {why}", f"short.tar: {why}"]
    with pytest.raises(UserError, match="2 of 7 files in .* unusable, .*longer.mp4 has changed .*run `prepare` again"):
        items_from_manifest(manifest, max_bad=0.2)


def test_links_among_frames_are_held_to_the_same(tmp_path):
    (tmp_path / "set" / "f").mkdir(parents=True)
    for name in ("set/f/0.png", "set/1.png", "2.png"):
        Image.new("RGB", (5, 4)).save(tmp_path / name)
        if name != "set/f/0.png":
            (tmp_path / "set" / "f" / Path(name).name).symlink_to(tmp_path / name)
    location = write(tmp_path / "set" / "m.jsonl", {**CLIP, "path": "f", "kind": "frames"})
    for follow_links, frames in ((False, 2), (True, 3)):
        manifest = read_manifest(location, follow_links=follow_links)
        assert probe(manifest.media(manifest.records[0])).frames == frames


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "lists no clip"),
        ([{**CLIP, "frames": 0}], "line 2 is not a valid clip: frames must be a whole number from 1"),
        ([{**CLIP, "frames": "3"}], "line 2 is not a valid clip: frames must be a whole number"),
        (
            [{**CLIP, "frames": 10**12, "pts": {"first": 0, "step": 1}}],
            "frames must be .* from 1 to 10000000",
        ),
        ([{**CLIP, "height": 2, "width": 8192}], "frames of 8192x2, one side more than 64 times the other"),
        ([{**CLIP, "span": [-5, 3]}], "span must be a whole number from 0"),
        ([{**CLIP, "span": [5]}], "line 2 is not a valid clip"),
        ([{**CLIP, "keys": ["a"]}], "keys and span must be"),
        ([{**CLIP, "keys": [0, 3]}], "keys must rise and be below 3"),
        ([{**CLIP, "keys": [1, 1]}], "keys must rise and be below 3"),
        *(([{**CLIP, "fps": fps}], "fps must be a number above 0") for fps in ("fast", 0.0, -1, math.nan, math.inf)),
        ([CLIP, {"path": "a.mp4"}], "line 3 is not a valid clip"),
        ([{**CLIP, "kind": "dream"}], "kind must be one of .*not 'dream'"),
        ([{**CLIP, "speed": 3}], "line 2 is not a valid clip: .*speed"),
        ([{**CLIP, "interlaced": "yes"}], "interlaced, transparent must be true or false"),
        ([{**CLIP, "stream": -1}], "stream must be a whole number from 0"),
        ([{**CLIP, "pts": [1, 2]}], "2 times for 3 frames"),
        ([{**CLIP, "pts": [1, 2, 2**70]}], "each time in pts must be a whole number"),
        ([{**CLIP, "pts": [1, 2, 2.5]}], "each time in pts must be a whole number"),
        ([{**CLIP, "pts": [1, 3, 3]}], "pts must rise"),
        ([{**CLIP, "pts": {"first": 0.5, "step": 1}}], "each time in pts must be a whole number"),
        ([{**CLIP, "pts": {"first": 2**62, "step": 1}}], "each time in pts must be a whole number"),
        ([{**CLIP, "pts": {"first": 0, "step": 0}}], "step of pts must be a whole number from 1"),
        ([{**CLIP, "path": "a\0.mp4"}], "a path cannot hold a zero byte"),
        ([{**CLIP, "path": "\ud800.mp4"}], "line 2 is not a valid clip: .* surrogates not allowed"),
        ([{**CLIP, "class": "\ud800"}], "line 2 is not a valid clip: .* surrogates not allowed"),
        ([{**CLIP, "class": 1}], "must be strings"),
        ([{**CLIP, "captions": [1]}], "must be strings"),
        ([{**CLIP, "captions": "a dog"}], "captions must be a list, not 'a dog'"),
        ([[1]], "line 2 is not a valid clip"),
    ],
)
def test_bad_manifests_are_one_sentence(tmp_path, lines, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        read_manifest(write(tmp_path / "m.jsonl", *lines))
    assert "\n" not in str(raised.value) and "m.jsonl" in str(raised.value)
    str(raised.value).encode()


def test_what_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"file": "a.mp4"}\n')
    (tmp_path / "n.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, sentence in [
        ("m.jsonl", "not a manifest of this version"),
        ("n.jsonl", "cannot read"),
        ("o.jsonl", "o.jsonl"),
    ]:
        with pytest.raises(UserError, match=sentence):
            read_manifest(str(tmp_path / name))
    with pytest.raises(UserError, match="cannot read the manifest nosuch://x/m.jsonl"):
        read_manifest("nosuch://x/m.jsonl")


def test_what_keeps_a_manifest_elsewhere_from_being_read_is_said(failing):
    with pytest.raises(UserError, match=f"cannot read the manifest {failing}/m.jsonl: status 503"):
        read_manifest(f"{failing}/m.jsonl")


def test_a_manifest_elsewhere_is_read_through_fsspec(tmp_path):
    location = write(tmp_path / "m.jsonl", {**CLIP, "kind": "tar", "path": "t/0.tar", "span": [5, 6]})
    fsspec.filesystem("memory").pipe("/set/manifest.jsonl", Path(location).read_bytes())
    assert find_manifest("memory://set") == find_manifest("memory://set/") == "memory://set/manifest.jsonl"
    manifest = read_manifest("memory://set/manifest.jsonl")
    media = manifest.media(manifest.records[0])
    assert (media.kind, media.path, media.span) == ("tar", "memory://set/t/0.tar", (5, 6))


@pytest.mark.parametrize("name", ["a::b", "memory::x", "~", "a*"])
def test_a_folder_whose_name_a_url_could_have_is_a_folder(tmp_path, name, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    location = write(tmp_path / name / "manifest.jsonl", CLIP)
    for found in (location, f"{name}/manifest.jsonl"):
        manifest = read_manifest(found)
        assert manifest.media(manifest.records[0]).path.absolute() == tmp_path / name / "a.mp4"


def test_where_a_manifest_is_looked_for(tmp_path):
    assert find_manifest(str(tmp_path)) is None
    location = write(tmp_path / "manifest.jsonl", CLIP)
    assert find_manifest(str(tmp_path)) == find_manifest(location) == location
