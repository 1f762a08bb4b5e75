"""Every layout that public data comes in is recognised, with captions and classes, and nothing outside is touched."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from make_videos import encode, make_numbered
from PIL import Image

from fastvgan.data.folders.layouts import Layout, scan
from fastvgan.data.folders.survey import checksum, list_files
from fastvgan.data.media.frames import probe
from fastvgan.data.paths import LEADS_OUT
from fastvgan.errors import UserError


def video(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return encode(path, make_numbered(2))


def picture(path, height=48, width=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def png(height=48, width=64):
    data = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(data, "PNG")
    return data.getvalue()


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def kinds(entries):
    return {entry.name: entry.media.kind for entry in entries}


def test_all_layouts_side_by_side(tmp_path):
    video(tmp_path / "videos" / "a.MP4")
    for t in range(3):
        picture(tmp_path / "frames" / "walk" / f"f{t}.png")
        picture(tmp_path / "strips" / f"{t}.jpg", 16, 64)
        picture(tmp_path / "upright" / f"{t}.png", 64, 16)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for name in ("one/0.png", "one/1.png", "two/deep/0.png", "__MACOSX/one/._0.png", "read.txt"):
            file.writestr(name, png())
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "videos" / "a.MP4", "./000.mp4")
        for name in ("._000.mp4", "set/._0.mp4", "set/.Trash/9.mp4", "__MACOSX/1.mp4"):
            add(tar, name, b"x")
    for name in (".hidden.mp4", ".cache/x.mp4", "__MACOSX/y.mp4", "notes.txt", "strips/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    entries, rejected, remarks = scan(tmp_path, Layout())
    assert kinds(entries) == {
        "frames/walk": "frames", "strips/0.jpg": "strip", "strips/1.jpg": "strip", "strips/2.jpg": "strip",
        "t.tar/./000.mp4": "tar", "upright/0.png": "strip", "upright/1.png": "strip", "upright/2.png": "strip",
        "videos/a.MP4": "video", "z.zip/one": "zip", "z.zip/two/deep": "zip",
    }  # fmt: skip
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert not rejected
    said = "found 1 folder of pictures, 6 strips, 1 clip in tar files, 1 video file, 2 clips in zip files"
    assert remarks == [
        said,
        "skipped 2 folders (.cache, __MACOSX): hidden, trash or thumbnails by their names",
        "skipped 1 file (.hidden.mp4): hidden",
        "skipped 2 files (notes.txt, z.zip/read.txt): neither clips nor captions",
    ]
    assert set(kinds(scan(tmp_path, Layout("videos"))[0]).values()) == {"video", "tar"}
    assert set(kinds(scan(tmp_path, Layout("strips"))[0])) == {f"{d}/{t}.{s}" for t in range(3) for d, s in
                                                              [("strips", "jpg"), ("upright", "png")]} | {
        f"frames/walk/f{t}.png" for t in range(3)}  # fmt: skip
    assert kinds(scan(tmp_path, Layout("frames"))[0])["strips"] == "frames"


def test_strips_of_frames_that_are_not_square(tmp_path):
    picture(tmp_path / "a.png", 48, 64 * 5)
    with pytest.raises(UserError, match="a.png: is a single picture"):
        scan(tmp_path, Layout())
    (entry,), _, _ = scan(tmp_path, Layout(strip_frames=5))
    assert entry.media.strip_frames == 5


@pytest.mark.parametrize("above", ["", "UCF-101/", "data/UCF-101/"])
@pytest.mark.parametrize("numbers", [True, False])
def test_ucf101_with_its_split_files(tmp_path, above, numbers):
    names = ["Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g08_c01.avi", "YoYo/v_YoYo_g08_c02.avi"]
    for name in names:
        video(tmp_path / above / name)
    lines = [names[1] + " 1", names[2] + " 101", "YoYo/v_YoYo_g09_c01.avi 101"]
    split = tmp_path / "ucfTrainTestlist" / "trainlist01.txt"
    split.parent.mkdir()
    split.write_text("\r\n".join(line if numbers else line.rsplit(" ", 1)[0] for line in lines) + "\r\n")
    everything, _, _ = scan(tmp_path, Layout())
    assert [entry.label for entry in everything] == ["Archery", "Archery", "YoYo"]
    entries, rejected, _ = scan(tmp_path, Layout(split_file=split))
    assert [(entry.name, entry.label) for entry in entries] == [
        (above + names[1], "Archery"),
        (above + names[2], "YoYo"),
    ]
    assert [(item.name, item.reason) for item in rejected] == [
        ("YoYo/v_YoYo_g09_c01.avi", "is listed in the split file but does not exist")
    ]
    split.write_text("Golf/v_Golf_g01_c01.avi 3\n")
    with pytest.raises(UserError, match=r"trainlist01.txt lists no clip of .*Golf/v_Golf_g01_c01.avi"):
        scan(tmp_path, Layout(split_file=split))
    with pytest.raises(UserError, match="cannot read the split file"):
        scan(tmp_path, Layout(split_file=tmp_path / "none.txt"))


def test_names_in_split_files_may_end_in_numbers(tmp_path):
    for name in ("video 1", "video 2", "walk", "walk 7"):
        for t in range(2):
            picture(tmp_path / "set" / name / f"{t}.png")
    split = tmp_path / "split.txt"
    split.write_text("video 1\nvideo 2 1\nwalk 3\nrun 1\nrun\n")
    entries, rejected, _ = scan(tmp_path / "set", Layout(split_file=split))
    assert [entry.name for entry in entries] == ["video 1", "video 2", "walk"]
    assert [item.name for item in rejected] == ["run"]


def test_captions_of_the_other_part_are_no_mistake(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video(tmp_path / "set" / name)
    (tmp_path / "set" / "captions.csv").write_text("file,caption\na.mp4,one\nb.mp4,two\nc.mp4,three\n")
    (tmp_path / "split.txt").write_text("b.mp4\n")
    (entry,), rejected, _ = scan(tmp_path / "set", Layout(split_file=tmp_path / "split.txt"))
    assert (entry.name, entry.captions) == ("b.mp4", ("two",))
    assert [item.name for item in rejected] == ["c.mp4"]


def test_numbers_that_are_no_classes_in_a_split_file_are_refused(tmp_path):
    for name in "abc":
        video(tmp_path / "set" / f"{name}.avi")
    split = tmp_path / "wave_test_split1.txt"
    split.write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
    with pytest.raises(UserError, match=r"split1.txt ends its lines with 0, 1 and 2, .* training and test"):
        scan(tmp_path / "set", Layout(split_file=split))
    # These may be classes.
    for names, first in (("a.avi b.avi", 1), ("d/a.avi d/b.avi d/c.avi", 0), ("a.mp4 b.mp4 c.mp4", 0)):
        names = names.split()
        split.write_text("".join(f"{name} {number}\n" for number, name in enumerate(names, first)))
        for name in names:
            (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "set" / name).write_bytes(b"")  # the scan goes by the suffix
        assert [entry.name for entry in scan(tmp_path / "set", Layout(split_file=split))[0]] == names


@pytest.mark.parametrize("deep", ["", "cat", "cat dog"])
def test_parts_of_a_set_are_no_classes(tmp_path, deep):
    for part in ("Train", "test"):
        for name in deep.split() or [""]:
            video(tmp_path / "set" / part / name / f"{part}.mp4")
    entries, _, remarks = scan(tmp_path, Layout())
    assert [entry.label for entry in entries] == (["cat", "dog"] * 2 if " " in deep else [None] * len(entries))
    said = "the folders Train and test are read as parts of one set, not as classes"
    assert remarks == [f"{said}; pass one of them as the folder to use it alone"]
    video(tmp_path / "set" / "dance" / "0.mp4")
    entries, _, remarks = scan(tmp_path, Layout())
    assert {entry.label for entry in entries} == {"Train", "test", "dance"} and not remarks


def test_classes_of_folders_of_pictures(tmp_path):
    for name in ("run/clip1", "run/clip2", "walk/clip1"):
        for t in range(2):
            picture(tmp_path / name / f"{t}.png")
    entries, _, _ = scan(tmp_path, Layout())
    assert {entry.name: entry.label for entry in entries} == {
        "run/clip1": "run", "run/clip2": "run", "walk/clip1": "walk",
    }  # fmt: skip
    # Folders that are clips themselves are no classes.
    entries, _, _ = scan(tmp_path / "run", Layout())
    assert [(entry.name, entry.label) for entry in entries] == [("clip1", None), ("clip2", None)]


def test_classes_in_zip_files(tmp_path):
    for name, folders in [("one.zip", ["run/a", "run/b", "walk/a"]), ("two.zip", ["walk/c"])]:
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for folder in folders:
                file.writestr(f"{folder}/0.png", png())
    entries, _, _ = scan(tmp_path, Layout())
    assert [entry.label for entry in entries] == ["run", "run", "walk", "walk"]
    (tmp_path / "set").mkdir()
    for name in ("one.zip", "two.zip"):  # by itself the name of a file says nothing
        with zipfile.ZipFile(tmp_path / "set" / name, "w") as file:
            for folder in ("a/", "b/", ""):
                file.writestr(f"{folder}0.png", png())
    entries, _, _ = scan(tmp_path / "set", Layout())
    assert len(entries) == 6 and {entry.label for entry in entries} == {None}


def test_captions_of_every_kind_of_clip(tmp_path):
    video(tmp_path / "v.mp4")
    picture(tmp_path / "s" / "s.png", 16, 64)
    for t in range(2):
        picture(tmp_path / "f" / f"{t}.png")
        picture(tmp_path / "run.1" / f"{t}.png")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("0.png", png())
        file.writestr("1.png", png())
    for name in ("v.txt", "s/s.txt", "f.txt", "run.1.txt", "run.txt", "z.txt"):
        (tmp_path / name).write_text(f"of {name}")
    said = {entry.name: entry.captions for entry in scan(tmp_path, Layout())[0]}
    texts = {"v.mp4": "v.txt", "s/s.png": "s/s.txt", "f": "f.txt", "run.1": "run.1.txt", "z.zip": "z.txt"}
    assert said == {name: (f"of {text}",) for name, text in texts.items()}
    rows = [{"file": name, "caption": f"row {name}", "class": "c"} for name in ("v.mp4", "f", "s/s.png", "none.mp4")]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entries, rejected, _ = scan(tmp_path, Layout())
    said = {entry.name: (entry.captions, entry.label) for entry in entries}
    assert said["f"] == (("row f",), "c") and said["s/s.png"] == (("row s/s.png",), "c")
    assert said["z.zip"] == (("of z.txt",), None)
    assert [item.name for item in rejected] == ["none.mp4"]


@pytest.mark.parametrize(
    ("files", "captions", "label"),
    [
        ({"txt": "one\ntwo\n"}, ("one", "two"), None),
        ({"json": '{"caption": "c", "class": 3}', "txt": "t"}, ("c",), "3"),
        ({"json": '{"captions": ["a", "b"]}', "cls": "7"}, ("a", "b"), "7"),
        ({"json": '{"text": "c", "captions": [], "label": 3}'}, ("c",), "3"),
        ({"json": '{"description": "Subscribe!", "label": 3}', "txt": "t", "cls": "7"}, ("t",), "7"),
        ({"json": '{"text": {"en": "c"}, "description": "d", "label": ["a", "b"], "category": 0}'}, ("d",), "0"),
        ({"json": '{"class": {"id": 3}, "caption": "?"}', "txt": "t"}, ("t",), None),
        ({"json": "[1]"}, (), None),
        ({}, (), None),
    ],
)
def test_what_is_said_in_a_tar(tmp_path, files, captions, label):
    path = video(tmp_path / "x.mp4")
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "a.tar", "w") as tar:
        for suffix, text in {**{k: v.encode() for k, v in files.items()}, "mp4": path.read_bytes()}.items():
            add(tar, f"dir/00.{suffix}", text)
    (entry,), rejected, _ = scan(tmp_path / "set", Layout())
    assert (entry.captions, entry.label, rejected) == (captions, label, [])


def test_names_with_dots_in_a_tar_keep_their_captions_apart(tmp_path):
    data = video(tmp_path / "x.mp4").read_bytes()
    (tmp_path / "set").mkdir()
    texts = {"v1.0.txt": "zero", "v1.0.cls": "x", "v1.txt": "both", "a/captions.csv": "file,caption\n"}
    with tarfile.open(tmp_path / "set" / "t.tar", "w") as tar:
        for name, content in {"v1.0.mp4": data, "v1.1.mp4": data, **{k: v.encode() for k, v in texts.items()}}.items():
            add(tar, name, content)
    entries, rejected, _ = scan(tmp_path / "set", Layout())
    assert [(e.name, e.captions, e.label) for e in entries] == [
        ("t.tar/v1.0.mp4", ("zero",), "x"),
        ("t.tar/v1.1.mp4", ("both",), None),
    ]
    assert [item.name for item in rejected] == ["t.tar/a/captions.csv"]


def test_texts_in_a_zip_are_read_or_named(tmp_path):
    texts = {"run.1.txt": "of a folder", "deep/run.txt": "deeper", "captions.csv": "file,caption\n", "a.txt": "A"}
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for name in ("run.1/0.png", "run.1/1.png", "deep/run/0.png", "deep/run/1.png"):
            file.writestr(name, png())
        for name, text in texts.items():
            file.writestr(name, text)
    entries, rejected, remarks = scan(tmp_path, Layout())
    said = {entry.name: entry.captions for entry in entries}
    assert said == {"z.zip/deep/run": ("deeper",), "z.zip/run.1": ("of a folder",)}
    assert [item.name for item in rejected] == ["z.zip/captions.csv"] and "beside the archive" in rejected[0].reason
    assert remarks[1:] == ["skipped 1 file (z.zip/a.txt): neither clips nor captions"]


def test_tars_that_cannot_be_used_say_why(tmp_path):
    path = video(tmp_path / "x.mp4")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(path, "0.mp4")
    with tarfile.open(tmp_path / "texts.tar", "w") as tar:
        tar.add(__file__, "0.txt")
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.add(path, "0.mp4")
        add(tar, "0.json", b"{")
        tar.add(path, "1.mp4")
        add(tar, "1.json", b"[" * 10**5)
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4broken")
    entries, rejected, _ = scan(tmp_path, Layout())
    assert [entry.name for entry in entries] == ["x.mp4"]
    reasons = {item.name: item.reason for item in rejected}
    assert "uncompressed" in reasons["packed.tar"] and "no video file" in reasons["texts.tar"]
    for name in ("0.mp4", "1.mp4"):
        assert "has unreadable captions" in reasons[f"bad.tar/{name}"]
    assert "zip" in reasons["broken.zip"]


def test_names_in_archives_that_lead_out_or_are_no_text_are_named(tmp_path):
    data = video(tmp_path / "x.mp4").read_bytes()
    names = ["../up.mp4", "a/../../b.mp4", "/etc/c.mp4", "\\d.mp4", "caf\udce9.mp4", "./good.mp4"]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in names:
            add(tar, name, data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for folder in ("../up/", "/abs/", "good/", "a/../../b/"):
            for t in range(2):
                file.writestr(f"{folder}{t}.png", png())
        file.writestr(".", "")
    entries, rejected, _ = scan(tmp_path, Layout())
    assert [entry.name for entry in entries] == ["t.tar/./good.mp4", "x.mp4", "z.zip/good"]
    reasons = {item.name.encode().decode(): item.reason for item in rejected}
    assert reasons.pop("t.tar/caf\\udce9.mp4") == "has a name that is not UTF-8; rename it"
    assert set(reasons) == {f"t.tar/{name}" for name in names[:4]} | {"z.zip/../up", "z.zip//abs", "z.zip/a/../../b"}
    assert set(reasons.values()) == {LEADS_OUT}


def test_files_in_a_tar_whose_suffixes_differ_in_case_are_two(tmp_path):
    data = video(tmp_path / "x.mp4").read_bytes()
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "t.tar", "w") as tar:
        for name, content in [("0.MP4", data), ("0.mp4", data), ("0.TXT", b"said")]:
            add(tar, name, content)
    entries, _, _ = scan(tmp_path / "set", Layout())
    assert [(e.name, e.captions) for e in entries] == [(f"t.tar/{name}", ("said",)) for name in ("0.MP4", "0.mp4")]


def test_links_that_lead_out_are_named_and_those_within_are_followed(tmp_path):
    folder = tmp_path / "set"
    video(folder / "a.mp4")
    video(tmp_path / "outside" / "b.mp4")
    (folder / "same.mp4").symlink_to("a.mp4")
    (folder / "out.mp4").symlink_to(tmp_path / "outside" / "b.mp4")
    (folder / "outside").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(folder / "nothing")
    (folder / "self.mp4").symlink_to("self.mp4")
    entries, rejected, _ = scan(folder, Layout())
    assert [entry.name for entry in entries] == ["a.mp4", "gone.mp4", "same.mp4"]
    assert {item.name for item in rejected} == {"out.mp4", "outside", "self.mp4"}
    assert all("--follow-links" in item.reason for item in rejected)
    entries, rejected, _ = scan(folder, Layout(follow_links=True))
    assert [entry.name for entry in entries] == [
        "a.mp4",
        "gone.mp4",
        "out.mp4",
        "outside/b.mp4",
        "same.mp4",
        "self.mp4",
    ]
    assert not rejected


def test_links_to_frames_and_captions_are_held_to_the_same(tmp_path):
    folder, outside = tmp_path / "set", tmp_path / "outside"
    for t in range(3):
        picture(folder / "f" / f"{t}.png")
    video(folder / "a.mp4")
    picture(outside / "3.png")
    for name, text in [("a.txt", "secret"), ("f.txt", "secret"), ("captions.csv", "file,caption\na.mp4,secret\n")]:
        (outside / name).write_text(text)
        (folder / name).symlink_to(outside / name)
    (folder / "f" / "3.png").symlink_to(outside / "3.png")
    (folder / "f" / "4.png").symlink_to("0.png")
    (folder / "f" / "notes").symlink_to(outside / "a.txt")
    entries, rejected, _ = scan(folder, Layout())
    assert {item.name for item in rejected} == {"a.txt", "captions.csv", "f.txt", "f/3.png"}
    assert [(entry.name, entry.captions) for entry in entries] == [("a.mp4", ()), ("f", ())]
    assert probe(entries[1].media).frames == 4
    assert [path.name for path in list_files(entries[1])] == ["0.png", "1.png", "2.png", "4.png"]
    entries, rejected, _ = scan(folder, Layout(follow_links=True))
    assert [(entry.name, entry.captions) for entry in entries] == [("a.mp4", ("secret",)), ("f", ("secret",))]
    assert not rejected and probe(entries[1].media).frames == len(list_files(entries[1])) == 5


def test_names_that_are_not_text_are_named_all_the_same(tmp_path):
    video(tmp_path / "a.mp4")
    odd = os.fsencode(tmp_path) + b"/b\xff.mp4"
    try:
        os.link(os.fsencode(tmp_path / "a.mp4"), odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    entries, rejected, _ = scan(tmp_path, Layout())
    assert [entry.name for entry in entries] == ["a.mp4"]
    (item,) = rejected
    assert item.reason.startswith("has a name that is not UTF-8") and item.name.encode("utf-8")
    for name in (b"0.png", b"1.png", b"\xff.png"):
        picture(tmp_path / "f" / os.fsdecode(name))
    entries, rejected, _ = scan(tmp_path, Layout())
    assert [(item.name, len(list_files(item))) for item in entries] == [("a.mp4", 1), ("f", 2)]
    assert checksum(entries[1]) and probe(entries[1].media).frames == 2
    assert "f/\\udcff.png" in {item.name for item in rejected}


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    video(tmp_path / "a.mp4")
    video(tmp_path / "closed" / "b.mp4")
    real = os.scandir

    def deny(path):  # root may read everything, so that this cannot be had from the disk in every place
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", deny)
    entries, rejected, _ = scan(tmp_path, Layout())
    assert [entry.name for entry in entries] == ["a.mp4"]
    assert [(item.name, item.reason) for item in rejected] == [("closed", "cannot be read: Permission denied")]


def test_empty_and_missing_folders(tmp_path):
    (tmp_path / "f").write_text("")
    for path, sentence in [
        (tmp_path / "no", "does not exist"),
        (tmp_path / "f", "is not a folder"),
        (tmp_path, "no clip"),
    ]:
        with pytest.raises(UserError, match=sentence):
            scan(path, Layout())
