"""Whatever lies in a folder is taken or named: odd suffixes, files that are no clips, bins, thumbnails, a lone zip."""

import io
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
from broken import audio_only
from make_videos import encode, make_numbered, number_of
from PIL import Image, features

from fastvgan.data import list_clips
from fastvgan.data.clips import items_from_folder
from fastvgan.data.decoders import dali
from fastvgan.data.folders.layouts import Layout, scan
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.folders.survey import divide, examine
from fastvgan.data.media.frames import probe, read_frames
from fastvgan.data.media.types import Media, Probe
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.errors import UserError
from fastvgan.runs.config import DataConfig

# What cameras, discs, editors and streams call files of the containers that they hold.
SUFFIXES = {
    **{".MTS": ".ts", ".m2ts": ".ts", ".TOD": ".mpg", ".VOB": ".mpg", ".f4v": ".mp4", ".qt": ".mov", ".LRV": ".mp4"},
    **{".divx": ".avi", ".mkv2": ".mkv", "": ".mp4", ".bin": ".webm", ".lvl": ".flv", ".264": ".h264", ".x": ".nut"},
}


def kinds(folder, **layout):
    entries, rejected, remarks = scan(folder, Layout(**layout))
    return {entry.name: entry.media.kind for entry in entries}, {i.name: i.reason for i in rejected}, remarks


def test_a_video_is_looked_at_whatever_its_suffix(tmp_path):
    names = []
    for number, (suffix, container) in enumerate(SUFFIXES.items()):
        codec = "vp9" if container == ".webm" else "h264"
        path = encode(tmp_path / f"{number}{container}", make_numbered(4), codec)
        names.append(path.rename(path.with_name(f"{number}{suffix}")).name)
    found, rejected, _ = kinds(tmp_path)
    assert found == dict.fromkeys(names, "video") and not rejected
    good, bad = divide(examine(entry) for entry in scan(tmp_path, Layout())[0])
    assert [clip.probe.frames for clip in good] == [4] * len(SUFFIXES) and not bad


def test_what_is_no_clip_is_named(tmp_path):
    encode(tmp_path / "a.mp4", make_numbered(4))
    for name, data in {"b.npy": b"\x93NUMPY\0\1", "c.tar.gz": b"\x1f\x8b\0", "d.pdf": b"%PDF-1.7\n\xff\xff"}.items():
        (tmp_path / name).write_bytes(data)
    audio_only(tmp_path / "e.m4a")
    pages = [Image.fromarray(frame) for frame in make_numbered(3)]
    pages[0].save(tmp_path / "f.pdf", save_all=True, append_images=pages[1:])  # FFmpeg finds a film of three JPEGs
    for number in range(7):
        (tmp_path / f"{number}.json").write_text('{"a": 1}')
    for name in ("a.txt", "notes.md"):
        (tmp_path / name).write_text("text")
    found, rejected, remarks = kinds(tmp_path)
    assert found == {"a.mp4": "video"} and set(rejected) == {"b.npy", "c.tar.gz", "d.pdf", "e.m4a", "f.pdf"}
    assert "unpack it" in rejected["c.tar.gz"] and rejected["e.m4a"] == "has no video stream"
    names = "0.json, 1.json, 2.json, 3.json, 4.json and 3 more"
    assert remarks == [f"skipped 8 files ({names}): neither clips nor captions"]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_photographs_beside_videos_do_not_count_as_bad_clips(tmp_path):
    """A telephone's folder has more of them than videos; an AVIF file that moves is a clip."""
    encode(tmp_path / "a.mp4", make_numbered(4))
    pictures = [Image.fromarray(frame) for frame in make_numbered(4)]
    for number in range(3):
        pictures[0].save(tmp_path / f"{number}.avif")
    pictures[0].save(tmp_path / "moves.avif", save_all=True, append_images=pictures[1:], duration=100)
    items, remarks = items_from_folder(tmp_path, Layout())
    assert {item.name: item.found.frames for item in items} == {"a.mp4": 4, "moves.avif": 4}
    assert remarks == [f"{number}.avif: is a single picture; left out" for number in range(3)]


@pytest.mark.parametrize(
    "name", ["$RECYCLE.BIN", ".Trash-1000", "@eaDir", "thumbnails", "Thumbs", "#recycle", ".hidden"]
)
def test_bins_and_thumbnails_are_passed_over_and_said(tmp_path, name):
    encode(tmp_path / "a.mp4", make_numbered(2))
    (tmp_path / "below" / name).mkdir(parents=True)
    encode(tmp_path / "below" / name / "b.mp4", make_numbered(2))
    found, rejected, remarks = kinds(tmp_path)
    assert found == {"a.mp4": "video"} and not rejected
    assert remarks == [f"skipped 1 folder (below/{name}): hidden, trash or thumbnails by their names"]
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(UserError, match=r"holds no clip \(below/.*is skipped"):
        scan(tmp_path, Layout())


def test_a_folder_that_prepare_wrote_into_names_none_of_its_own_files(tmp_path):
    encode(tmp_path / "a.mp4", make_numbered(2))
    prepare(tmp_path, tmp_path, PrepareConfig())
    assert kinds(tmp_path)[1:] == ({}, [])


def pack(path, folders):
    with zipfile.ZipFile(path, "w") as file:
        for folder in folders:
            for t in range(3):
                data = io.BytesIO()
                Image.fromarray(np.full((16, 16, 3), 80 * t, np.uint8)).save(data, "PNG")
                file.writestr(f"{folder}{t}.png", data.getvalue())
    return path


def test_a_zip_given_directly_is_read(tmp_path):
    path = pack(tmp_path / "x.zip", ["run/a/", "run/b/", "walk/a/"])
    encode(tmp_path / "beside.mp4", make_numbered(2))  # lies beside the zip, and is not meant
    (tmp_path / "captions.csv").write_text("file,caption\nbeside.mp4,one\nx.zip/run/a,two\n")
    found, rejected, _ = kinds(path)
    assert found == dict.fromkeys(("x.zip/run/a", "x.zip/run/b", "x.zip/walk/a"), "zip") and not rejected
    items, _ = items_from_folder(path, Layout())
    assert [(item.found.frames, item.label) for item in items] == [(3, "run"), (3, "run"), (3, "walk")]
    assert items[0].captions == ("two",)
    for to, size in (("manifest", None), ("shards", 16)):
        made = prepare(path, tmp_path / to, PrepareConfig(to=to, height=size, width=size))
        assert [record.frames for record in made.records] == [3] * 3 and not made.rejected
        again = prepare(path, tmp_path / to, PrepareConfig(to=to, height=size, width=size))
        assert [record.checksum for record in again.records] == [record.checksum for record in made.records]
    for name in ("y.zip", "notes.txt"):
        (tmp_path / name).write_text("nothing")
        with pytest.raises(UserError, match=f"{name} is not a folder, and "):
            scan(tmp_path / name, Layout())


def test_videos_and_animations_in_a_zip_are_clips(tmp_path):
    encode(tmp_path / "0.mp4", make_numbered(6))
    encode(tmp_path / "1.webm", make_numbered(7), "vp9")
    pictures = [Image.fromarray(frame) for frame in make_numbered(5)]
    pictures[0].save(tmp_path / "2.webp", save_all=True, append_images=pictures[1:], lossless=True)
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set" / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "0.mp4", "run/0.mp4")
        file.writestr("run/0.txt", "one\ntwo\n")
        file.write(tmp_path / "1.webm", "walk/1.webm")
        for number in range(2):
            file.write(tmp_path / "2.webp", f"walk/{number}.webp")
        for name in (".Trash/0.mp4", "walk/._1.webm", "../up.mp4"):
            file.write(tmp_path / "0.mp4", name)
    entries, rejected, _ = scan(tmp_path / "set", Layout())
    assert [(entry.name, entry.media.kind, entry.label, entry.captions) for entry in entries] == [
        ("x.zip/run/0.mp4", "video", "run", ("one", "two")),
        ("x.zip/walk/0.webp", "animation", "walk", ()),
        ("x.zip/walk/1.webm", "video", "walk", ()),
        ("x.zip/walk/1.webp", "animation", "walk", ()),
    ]
    assert [item.name for item in rejected] == ["x.zip/../up.mp4"]
    assert [entry.name for entry in scan(tmp_path / "set", Layout("videos"))[0]] == [entry.name for entry in entries]
    made = prepare(tmp_path / "set", tmp_path / "out", PrepareConfig())
    assert [record.frames for record in made.records] == [6, 5, 7, 5]
    manifest = read_manifest(str(tmp_path / "out" / "manifest.jsonl"), str(tmp_path / "set"))
    for record in manifest.records:
        media = manifest.media(record)
        assert number_of(read_frames(media, probe(media), [4], 48, 64, 3)[0]) == 4
    assert prepare(tmp_path / "set", tmp_path / "tars", PrepareConfig(to="tars")).records[2].frames == 7
    assert "zip" in dali._find_clip_obstacle(
        Media("video", tmp_path / "x.zip", "a.webm"), Probe(4, 48, 64, "vp9"), "cpu"
    )


def test_a_poster_beside_each_video_is_no_frame(tmp_path):
    for number in range(2):
        (tmp_path / "below").mkdir(exist_ok=True)
        encode(tmp_path / "below" / f"{number}.mp4", make_numbered(3))
        Image.new("RGB", (64, 48)).save(tmp_path / "below" / f"{number}.jpg")
    found, rejected, _ = kinds(tmp_path)
    assert found == {"below/0.mp4": "video", "below/1.mp4": "video"}
    assert rejected == dict.fromkeys(("below/0.jpg", "below/1.jpg"), "is a single picture beside videos")
    Image.new("RGB", (64, 48)).save(tmp_path / "below" / "2.jpg")
    assert kinds(tmp_path)[0]["below"] == "frames"


def test_clips_that_a_folders_own_manifest_does_not_list_are_named(tmp_path):
    """Also in folders below it, but not where `prepare` wrote the files, read them elsewhere or found them unusable."""
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        encode(tmp_path / "set" / name, make_numbered(4))
    prepare(tmp_path / "set", tmp_path / "set" / "sub" / "out", PrepareConfig(to="clips"))
    (tmp_path / "set" / "sub" / "ü\u2028.mp4").write_text("unusable")
    prepare(tmp_path / "set", tmp_path / "set", PrepareConfig())
    prepare(tmp_path / "set", tmp_path / "out", PrepareConfig())
    prepare(tmp_path / "set", tmp_path / "written", PrepareConfig(to="clips"))
    for name in ("sub/c.mp4", "d.webm", "._d.webm", ".sub.mp4", "d.txt"):
        (tmp_path / "set" / name).write_text("new")
    (tmp_path / "written" / "e.mp4").write_text("new")

    def remarks(folder, root=None):
        return list_clips(DataConfig(data=str(tmp_path / folder), root=root), ()).remarks

    new = "2 video files (d.webm, sub/c.mp4); run `prepare` again to add files that are new"
    used = f"clips, captions and classes are those that {tmp_path / 'set' / 'manifest.jsonl'} lists"
    assert remarks("set") == [used, f"not in the manifest: {new}"]
    assert remarks("out", str(tmp_path / "set")) == remarks("written") == remarks("set/manifest.jsonl") == []
    (tmp_path / "set" / "rejects.jsonl").write_text('{"path": ')
    with pytest.raises(UserError, match=r"cannot read .*rejects.jsonl: .*; delete it, or run `prepare` again"):
        remarks("set")


@pytest.mark.parametrize("to", ["clips", "shards", "tars"])
def test_what_prepare_wrote_below_the_clips_is_no_second_set_of_them(tmp_path, to):
    """A folder of that name without its journal is the user's own, as is the one that was asked for."""
    (tmp_path / "set" / "sub" / "tars").mkdir(parents=True)
    encode(tmp_path / "set" / "a.mp4", make_numbered(4))
    encode(tmp_path / "set" / "sub" / "tars" / "b.mp4", make_numbered(4))
    out = tmp_path / "set" / "out"
    prepare(tmp_path / "set", out, PrepareConfig(to=to, height=16, width=16))
    found, rejected, remarks = kinds(tmp_path / "set")
    assert set(found) == {"a.mp4", "sub/tars/b.mp4"} and not rejected
    assert f"skipped 1 folder (out/{to}): written by `prepare`" in remarks
    if to != "shards":
        assert len(kinds(out)[0]) == len(kinds(out / to)[0]) == 2
    (tmp_path / "set" / "a.mp4").unlink()
    shutil.rmtree(tmp_path / "set" / "sub")
    with pytest.raises(UserError, match=rf"set holds no clip \(out/{to} was written by `prepare`; pass its OUT"):
        kinds(tmp_path / "set")


def test_pipes_are_not_waited_for(tmp_path):
    encode(tmp_path / "a.mp4", make_numbered(4))
    pipes = {"p.mp4", "p.png", "p.tar", "p.zip", "p.txt", "captions.csv", "link.mp4", "p"}
    for name in pipes - {"link.mp4"}:
        os.mkfifo(tmp_path / name)
    (tmp_path / "link.mp4").symlink_to("p")
    found, rejected, _ = kinds(tmp_path)
    assert set(found) == {"a.mp4"} and rejected == dict.fromkeys(pipes, "is not a regular file")
    with pytest.raises(UserError, match="p.mp4 is not a folder, and is not a regular file"):
        kinds(tmp_path / "p.mp4")


@pytest.mark.parametrize(
    ("shown", "is_clip"),
    [
        ("a.jpg b.jpg", False),
        ("a.mp4.jpg b.mp4.jpg", False),
        ("a_thumb.jpg b-1.jpg cover.jpg", False),
        ("front.jpg", False),
        ("frame 1.jpg frame 2.jpg", True),
        ("a_1.jpg a_2.jpg a_3.jpg", True),
        ("1.jpg 2.jpg cover.jpg", True),
        ("cover.png cover.jpg back.jpg", False),
        ("1.jpg 2.jpg 1_mask.jpg 2_mask.jpg", True),
        ("a_1.jpg a_2.jpg a_3.jpg b_1.jpg b_2.jpg", False),
    ],
)
def test_previews_have_many_names_in_folders_and_zips(tmp_path, shown, is_clip):
    (tmp_path / "below").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / "below" / name).write_bytes(b"")  # the scan goes by the suffix
            file.writestr(f"below/{name}", b"")
        for name in re.findall(r"\S.*?(?:jpg|png)", shown):
            Image.new("RGB", (64, 48)).save(tmp_path / "below" / name)
            file.write(tmp_path / "below" / name, f"below/{name}")
    found, rejected, _ = kinds(tmp_path)
    videos = {f"{above}below/{name}.mp4": "video" for above in ("", "x.zip/") for name in "ab"}
    assert found == videos | ({"below": "frames", "x.zip/below": "zip"} if is_clip else {})
    count = len(re.findall("jpg|png", shown))
    assert len(rejected) == (0 if is_clip else 2 * count) and set(rejected.values()) <= {
        "is a single picture beside videos"
    }
