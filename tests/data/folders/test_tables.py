"""Tables of captions as people have them: Hugging Face's layout, other delimiters, columns and ways to name a clip."""

import csv
import json
import os
import re
import unicodedata

import pytest

from fastvgan.data.folders.layouts import Layout, scan
from fastvgan.errors import UserError


def folder_of(path, names=("a.mp4", "sub/b c.webm", "c.mkv")):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")  # the scan goes by the suffix and decodes nothing
    return path


def scan_folder(folder, **options):
    entries, rejected, remarks = scan(folder, Layout(**options))
    return {entry.name: (entry.captions, entry.label) for entry in entries}, {item.name for item in rejected}, remarks


def write(path, rows, delimiter=",", encoding="utf-8", above=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        file.write(above)
        csv.writer(file, delimiter=delimiter).writerows(rows)


ROWS = [("a.mp4", 'one, "two"; three\tfour', "x"), ("sub/b c.webm", "größer\nals", "y"), ("c.mkv", "c", "")]
EXPECTED = {
    "a.mp4": (('one, "two"; three four',), "x"),
    "sub/b c.webm": (("größer als",), "y"),
    "c.mkv": (("c",), None),
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["captions.csv", "metadata.csv", "captions.tsv", "Metadata.CSV"])
def test_delimiters_and_names_of_tables(tmp_path, delimiter, name):
    write(folder_of(tmp_path) / name, [("file_name", "text", "label"), *ROWS], delimiter)
    assert scan_folder(tmp_path) == (EXPECTED, set(), [])


@pytest.mark.parametrize(
    ("encoding", "above"), [("utf-8-sig", ""), ("utf-16", ""), ("utf-8", "sep=;\r\n"), ("utf-8", "\r\n\r\n")]
)
def test_what_spreadsheets_write(tmp_path, encoding, above):
    rows = [(" File Name ", "TEXT", "Class"), *ROWS, ("", "", ""), ("", " ", "")]
    write(folder_of(tmp_path) / "captions.csv", rows, ";", encoding, above)
    assert scan_folder(tmp_path) == (EXPECTED, set(), [])


@pytest.mark.parametrize("file", ["file", "path", "file_name", "video", "video-path", "filename", "video_id"])
@pytest.mark.parametrize("caption", ["caption", "text", "captions", "prompt"])
def test_columns(tmp_path, file, caption):
    folder_of(tmp_path)
    write(tmp_path / "captions.csv", [("nr", caption, file), *((i, row[1], row[0]) for i, row in enumerate(ROWS))])
    expected = {name: (texts, None) for name, (texts, _) in EXPECTED.items()}
    assert scan_folder(tmp_path) == (expected, set(), [])
    (tmp_path / "captions.csv").unlink()
    lines = [json.dumps({file: row[0], caption: row[1]}) for row in ROWS]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert scan_folder(tmp_path) == (expected, set(), [])


def test_a_table_in_each_folder_names_its_own_files(tmp_path):
    folder_of(tmp_path, ("train/0.mp4", "train/deep/1.mp4", "test/0.mp4", "test/2.mp4"))
    write(tmp_path / "train" / "metadata.csv", [("file_name", "text"), ("0.mp4", "zero"), ("deep/1.mp4", "one")])
    lines = [{"file_name": "0.mp4", "text": "nil"}, {"file_name": "../test/2.mp4", "text": ["two", "zwei"]}]
    (tmp_path / "test" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    # The folder's own table is overruled by the one beside the clip.
    write(tmp_path / "captions.csv", [("file", "caption"), ("train/0.mp4", "outer"), ("test/7.mp4", "gone")])
    said, missing, remarks = scan_folder(tmp_path)
    assert {name: texts for name, (texts, _) in said.items()} == {
        "train/0.mp4": ("zero",),
        "train/deep/1.mp4": ("one",),
        "test/0.mp4": ("nil",),
        "test/2.mp4": ("two", "zwei"),
    }
    assert missing == {"test/7.mp4"} and [" parts of one set" in remark for remark in remarks] == [True]


def test_a_table_in_a_folder_means_no_file_of_the_same_name_elsewhere(tmp_path):
    folder_of(tmp_path, ("001.mp4", "cats/002.mp4", "dogs/001.mp4"))
    rows = [("file", "caption"), ("001.mp4", "asleep"), ("002.mp4", "awake"), ("dogs/001.mp4", "a dog")]
    write(tmp_path / "cats" / "captions.csv", rows)
    said, missing, _ = scan_folder(tmp_path)
    assert {name: texts for name, (texts, _) in said.items()} == {
        "001.mp4": (),
        "cats/002.mp4": ("awake",),
        "dogs/001.mp4": ("a dog",),
    }
    assert missing == {"cats/001.mp4"}
    (tmp_path / "cats" / "002.mp4").unlink()  # now its rows can only mean files of the root
    assert scan_folder(tmp_path)[0]["001.mp4"][0] == ("asleep",)


def test_names_match_whatever_their_unicode_form(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    folder_of(tmp_path, (f"{apart}.mp4", f"x/{composed}.mp4", f"y/{composed}.mp4", f"y/{apart}.mp4"))
    rows = [(f"{composed}.mp4", "a"), (f"x/{apart}", "b"), (f"y/{composed}.mp4", "c"), (f"y/{apart}.mp4", "d")]
    write(tmp_path / "captions.csv", [("file", "caption"), *rows])
    said, missing, _ = scan_folder(tmp_path)
    assert [texts for _, (texts, _) in sorted(said.items())] == [("a",), ("b",), ("d",), ("c",)] and not missing


def test_columns_of_the_same_name_each_hold_a_caption(tmp_path):
    rows = [("file", "caption", "Caption", "caption"), ("a.mp4", "one", "", "two"), ("c.mkv", " ", "three", "four")]
    write(folder_of(tmp_path) / "captions.csv", rows)
    said, _, _ = scan_folder(tmp_path)
    assert (said["a.mp4"][0], said["c.mkv"][0]) == (("one", "two"), ("three", "four"))


def test_captions_without_a_word_and_classes_that_are_no_number_are_missing(tmp_path):
    lines = ['{"file": "a.mp4", "text": ["!!!", "a 5"], "label": NaN, "category": 1.5}']
    lines += ['{"file": "c.mkv", "text": "…", "label": NaN}']
    (folder_of(tmp_path) / "metadata.jsonl").write_text("\n".join(lines))
    said, _, _ = scan_folder(tmp_path)
    assert (said["a.mp4"], said["c.mkv"]) == ((("a 5",), "1.5"), ((), None))


def test_names_without_suffix(tmp_path):
    folder_of(tmp_path, ("a.mp4", "a.webm", "v.1.mp4", "sub/b.mov", "7.mkv", "run.1/0.png", "run.1/1.png"))
    lines = [("a", "both"), ("v.1", "dots"), ("./sub/b", "deep"), (7, "number"), ("run", "no folder"), ("run.1", "run")]
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps({"file": f, "text": c}) for f, c in lines))
    said, missing, _ = scan_folder(tmp_path)
    assert {name: texts for name, (texts, _) in said.items()} == {
        "a.mp4": ("both",),
        "a.webm": ("both",),
        "v.1.mp4": ("dots",),
        "sub/b.mov": ("deep",),
        "7.mkv": ("number",),
        "run.1": ("run",),
    }
    assert missing == {"run"}


@pytest.mark.parametrize("at", ["straight", "by a link", "relative"])
def test_absolute_paths_inside_the_folder(tmp_path, at, monkeypatch):
    folder = folder_of(tmp_path / "set")
    (tmp_path / "link").symlink_to("set")
    monkeypatch.chdir(tmp_path)
    given = {"straight": folder, "by a link": tmp_path / "link", "relative": tmp_path.__class__("set")}[at]
    for base in {given.absolute(), folder.resolve()}:
        rows = [("file_name", "text"), (base / "a.mp4", "a"), (base / "sub" / ".." / "c", "c")]
        write(folder / "metadata.csv", rows)
        said, missing, _ = scan_folder(given)
        assert (said["a.mp4"][0], said["c.mkv"][0], missing) == (("a",), ("c",), set())
    for outside in (f"{folder.resolve()}2/a.mp4", f"{folder.resolve()}/../a.mp4", "C:/set/a.mp4", "http://x/a.mp4"):
        write(folder / "metadata.csv", [("file_name", "text"), (outside, "a")])
        with pytest.raises(UserError, match=r"metadata.csv, line 2: .* leads out of the folder"):
            scan(given, Layout())


def test_a_single_file_has_the_captions_of_its_folder(tmp_path):
    folder_of(tmp_path)
    write(tmp_path / "metadata.csv", [("file_name", "text"), *(row[:2] for row in ROWS)])
    said, missing, _ = scan_folder(tmp_path / "a.mp4")
    assert said == {"a.mp4": (EXPECTED["a.mp4"][0], None)} and not missing


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "youtube_id,start,end\nabc,1,2\n"),
        ("metadata.csv", "file_name,size\na.mp4,2\n"),
        ("metadata.csv", ""),
        ("metadata.jsonl", "not JSON\n"),
        ("metadata.jsonl", '{"height": 3}\n'),
        ("metadata.jsonl", '{"file_name": "a.mp4", "size": 3}\n'),
        ("sub/captions.csv", "time,words\n"),
        ("train.csv", "file,caption\n"),
    ],
)
def test_what_is_no_table_of_clips_is_named(tmp_path, name, text):
    (folder_of(tmp_path) / name).write_text(text)
    said, missing, remarks = scan_folder(tmp_path)
    assert len(said) == 3 and not missing
    assert remarks == [f"skipped 1 file ({name}): neither clips nor captions"]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_blanks_after_a_closing_quote_are_dropped(tmp_path, delimiter):
    """But none within quotes."""
    a, b, c = '"a.mp4" ,"a ""red"" thing"  \r\n', '"sub/b c" ,  "a ""b, "" , "" ,", x\n', 'c.mkv,5" ,"y" '
    text = f"file,caption,class\n{a}{b}{c}".replace(",", delimiter)
    (folder_of(tmp_path) / "captions.csv").write_text(text, newline="")
    said, missing, _ = scan_folder(tmp_path)
    of_b = " ".join('a "b, " , " ,'.replace(",", delimiter).split())
    assert said == {"a.mp4": (('a "red" thing',), None), "sub/b c.webm": ((of_b,), "x"), "c.mkv": (('5"',), "y")}
    assert not missing


def test_captions_come_before_metadata(tmp_path):
    write(folder_of(tmp_path) / "metadata.csv", [("file_name", "text"), ("a.mp4", "meta")])
    write(tmp_path / "captions.tsv", [("file", "caption"), ("a.mp4", "own")], "\t")
    said, _, remarks = scan_folder(tmp_path)
    assert said["a.mp4"][0] == ("own",)
    assert remarks == ["skipped metadata.csv, since captions.tsv beside it is used"]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"metadata.csv": "file,text\na.mp4,x\n", "metadata.jsonl": '{"file": "a.mp4", "text": "x"}'}, "holds both"),
        ({"captions.csv": "file,caption\na.mp4,one, two\n"}, "line 2 has more cells than the header"),
        ({"metadata.csv": "sep=;\nfile;text\na.mp4;one\nb.mp4;x;y\n"}, "line 4 has more cells"),
        ({"metadata.jsonl": '{"file": "a.mp4", "text": "x"}\n{'}, "metadata.jsonl, line 2 is not JSON"),
        ({"metadata.csv": b"file,text\na.mp4,gr\xf6\xdfer\n"}, "write it as UTF-8 text"),
        ({"captions.csv": 'file,caption\na.mp4,"a red\nc.mkv,b\n'}, "captions.csv, line 2: the quotes do not match"),
        ({"captions.csv": 'file,caption\na.mp4,"a red\nc.mkv,is 5"\n'}, "captions.csv, line 2: the quotes do not"),
        ({"captions.csv": 'file,caption\n\na.mp4,"a" red\n'}, "captions.csv, line 3: the quotes do not match"),
        ({"captions.tsv": 'file\tcaption\na.mp4\tx\nc.mkv\t" is the sign\n'}, "captions.tsv, line 3: the quotes"),
        ({"captions.csv": f"file,caption\na.mp4,x\nc.mkv,{'x' * 140_000}\n"}, "line 3: a text cannot be read; shorten"),
        ({"captions.jsonl": '{"file": "a.mp4", "label": ["x"]}'}, "line 1: the class must be a string or a number"),
        ({"captions.csv": "file,size\na.mp4,1\n"}, "must begin with a line of column names"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, files, sentence):
    folder_of(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=re.escape(sentence)) as raised:
        scan(tmp_path, Layout())
    assert "\n" not in str(raised.value)


def test_a_table_that_is_a_link_out_is_not_read(tmp_path):
    folder = folder_of(tmp_path / "set")
    write(tmp_path / "other.tsv", [("file_name", "text"), ("a.mp4", "secret")], "\t")
    os.symlink(tmp_path / "other.tsv", folder / "metadata.tsv")
    said, missing, _ = scan_folder(folder)
    assert said["a.mp4"][0] == () and missing == {"metadata.tsv"}
    assert scan_folder(folder, follow_links=True)[0]["a.mp4"][0] == ("secret",)
    assert scan_folder(folder / "a.mp4")[0]["a.mp4"][0] == ()
