"""One meaning of a name that leads out of its folder, wherever names come from."""

import csv
import io
import itertools
import json
import os
import tarfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import urlsplit

import pytest
from make_videos import encode, make_numbered

from fastvgan.data.clips import items_from_manifest
from fastvgan.data.folders.entry import Entry
from fastvgan.data.folders.layouts import Layout, scan
from fastvgan.data.folders.manifest import find_manifest, read_manifest
from fastvgan.data.folders.survey import Found
from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import Media
from fastvgan.data.paths import LEADS_OUT, leads_out, stays_within
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.preparation.clip_files import write_clips
from fastvgan.data.preparation.journal import Journal
from fastvgan.errors import UserError

OUTSIDE = [
    "/etc/x.mp4", "../x.mp4", "a/../../x.mp4", "a/../x.mp4", "..\\x.mp4", "a\\..\\..\\x.mp4", "\\x.mp4",
    "\\\\host\\x.mp4", "~/x.mp4", "~\\x.mp4", "C:/x.mp4", "C:\\x.mp4", "file:///etc/x.mp4", "file:/etc/x.mp4",
    "http://host/x.mp4", "s3://bucket/x.mp4", "simplecache::file:///etc/x.mp4", "a::/etc/x.mp4",
]  # fmt: skip
INSIDE = [
    "x.mp4", "a/x.mp4", "~x.mp4", "~old/x.mp4", "x~.mp4", "a: b.mp4", "12:30.mp4", "a..b/x..mp4", "x.../x.mp4",
    "concat:a|b.mp4", "std::vector.mp4",
]  # fmt: skip
TABLE = [(name, True) for name in OUTSIDE] + [(name, False) for name in INSIDE]
on_every_name = pytest.mark.parametrize(("name", "is_refused"), TABLE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    return encode(tmp_path_factory.mktemp("clip") / "x.mp4", make_numbered(2)).read_bytes()


@on_every_name
def test_what_leads_out_to_some_system_is_refused_and_nothing_else(name, is_refused):
    url = urlsplit(name.rpartition("::")[2])
    leads = [PurePosixPath(name).root, PureWindowsPath(name).root, ".." in PureWindowsPath(name).parts]
    leads += [url.scheme and url.path.startswith("/"), os.path.expanduser(name.replace("\\", "/"))[0] == "/"]
    leads += ["::/" in name]  # of fsspec
    assert leads_out(name) is is_refused is any(map(bool, leads))


def test_a_path_is_refused_where_one_of_its_parts_is():
    parts = {part for name, _ in TABLE for part in name.split("/") if part and part[0] != "\\"}
    for a, b in itertools.product(parts, parts):
        assert leads_out(f"{a}/{b}") == (leads_out(a) or leads_out(b))


def manifest_of(folder, name, root="."):
    record = {"path": name, "kind": "video", "frames": 3, "height": 4, "width": 5}
    lines = [{"fastvgan manifest": 1, "root": root}, record]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder / "m.jsonl")


@on_every_name
def test_paths_in_manifests(tmp_path, name, is_refused):
    manifest = read_manifest(manifest_of(tmp_path, name))
    if not is_refused:
        assert manifest.media(manifest.records[0]).path == tmp_path / name
        return
    with pytest.raises(UserError) as refusal:
        manifest.media(manifest.records[0])
    assert f"{name}, which {LEADS_OUT}" in str(refusal.value)


@on_every_name
def test_paths_in_manifests_below_a_url(tmp_path, name, is_refused):
    manifest = read_manifest(manifest_of(tmp_path, name), root="memory://set/")
    if not is_refused and "::" not in name:
        assert manifest.media(manifest.records[0]).path == f"memory://set/{name}"
        return
    with pytest.raises(UserError) as refusal:
        manifest.media(manifest.records[0])
    assert f"{name}, which {LEADS_OUT}" in str(refusal.value)


@on_every_name
def test_roots_of_manifests(tmp_path, name, is_refused):
    location = manifest_of(tmp_path, "x.mp4", root=name)
    if is_refused:
        with pytest.raises(UserError, match="--root"):
            read_manifest(location)
    else:
        assert read_manifest(location).root == tmp_path / name


@on_every_name
def test_names_in_tables(tmp_path, clip, name, is_refused):
    (tmp_path / "clip.mp4").write_bytes(clip)
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), (name, "said")])
    if is_refused and name != "a/../x.mp4":  # a table in a folder may name files beside that folder
        with pytest.raises(UserError) as refusal:
            scan(tmp_path, Layout())
        assert str(refusal.value).startswith(f"{tmp_path / 'captions.csv'}, line 2: ")
        assert str(refusal.value).endswith(LEADS_OUT)
    else:
        (missing,) = scan(tmp_path, Layout()).rejected
        assert missing.name == name.replace("a/../", "") and "does not exist" in missing.reason


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@on_every_name
def test_names_in_archives(tmp_path, clip, suffix, name, is_refused):
    archive = tmp_path / f"t.{suffix}"
    (tmp_path / "good.mp4").write_bytes(clip)
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, clip)
    else:
        with tarfile.open(archive, "w") as file:
            member = tarfile.TarInfo(name)
            member.size = len(clip)
            file.addfile(member, io.BytesIO(clip))
    entries, rejected, _ = scan(tmp_path, Layout())
    if is_refused:
        # WebDataset's rule takes what begins with a dot for no sample.
        reason = "holds no video file" if suffix == "tar" and name == "..\\x.mp4" else LEADS_OUT
        assert len(entries) == 1 and [item.reason for item in rejected] == [reason]
    else:
        assert [entry.name for entry in entries] == ["good.mp4", f"t.{suffix}/{name}"] and not rejected


@on_every_name
def test_names_of_written_clips(tmp_path, clip, name, is_refused):
    source = tmp_path / "source.mp4"
    source.write_bytes(clip)
    found = Found(Entry(Media("video", source), name), probe(Media("video", source)))
    out = tmp_path / "out"
    out.mkdir()
    given = out, [found], {name: "sha256:0"}, PrepareConfig(to="clips"), Journal(tmp_path / "journal")
    if is_refused:
        with pytest.raises(UserError) as refusal:
            write_clips(*given)
        assert str(refusal.value) == f"{name} {LEADS_OUT}"
        assert not list(out.iterdir())
    else:
        (record,), _ = write_clips(*given)
        assert (out / record.path).is_file() and stays_within(out / record.path, (out / "clips").resolve())


def test_names_of_files_in_a_folder_are_those_that_its_manifest_may_hold(tmp_path, clip):
    refused = ["a\\..\\x.mp4", "\\x.mp4", "C:\\x.mp4", "~/x.mp4", "C:/x.mp4", "file:/x.mp4", "deep/~/x.mp4"]
    for name in (*INSIDE, *refused):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(clip)
    for part in refused:
        assert leads_out(part)
    made = prepare(tmp_path / "set", tmp_path / "set", PrepareConfig(to="manifest", max_bad=1))
    assert {item.name for item in made.rejected} == {name.removesuffix("/x.mp4") for name in refused}
    assert {item.reason for item in made.rejected} == {LEADS_OUT}
    items, _ = items_from_manifest(read_manifest(find_manifest(str(tmp_path / "set"))))
    assert sorted(item.name for item in items) == sorted(INSIDE)


def test_a_tar_in_a_folder_named_like_a_home_is_read_where_it_lies(tmp_path, clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    for name in ("~/t.tar", "a::b.tar"):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clip)
        assert probe(Media("tar", path, "x.mp4", (0, len(clip)))).frames == 2


def test_links_stay_within_or_do_not(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "in").symlink_to("x")
    (tmp_path / "set" / "out").symlink_to("../x")
    (tmp_path / "set" / "self").symlink_to("self")
    real = (tmp_path / "set").resolve()
    assert [stays_within(tmp_path / "set" / name, real) for name in ("in", "out", "self", "\0")] == [
        True, False, False, False
    ]  # fmt: skip
