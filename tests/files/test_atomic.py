"""Files that are replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from fastvgan.errors import UserError
from fastvgan.files.atomic import UNFINISHED, check_writable, replace_atomically, whole

WAYS = [replace_atomically, whole]


class Interruption(BaseException):
    """As when a user presses Ctrl+C."""


@pytest.fixture
def path(tmp_path):
    """A file that is there."""
    (tmp_path / "a.json").write_text("old")
    return tmp_path / "a.json"


@pytest.mark.parametrize("way", WAYS)
def test_the_old_file_stays_until_the_new_one_is_written(path, way):
    with way(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.suffix == ".json" and temporary.parent == path.parent
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, Interruption])
@pytest.mark.parametrize("way", WAYS)
def test_what_fails_leaves_the_old_file_alone(path, way, error):
    with pytest.raises(error), way(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize("name", ["v" * 250 + ".json", "長" * 83 + ".webm", "a." + "b" * 253])
@pytest.mark.parametrize("way", WAYS)
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, way, name):
    other = name[0] * 2 + name[2:].replace(name[2], "w", 1)
    with way(tmp_path / name) as temporary, way(tmp_path / other) as second:
        assert temporary != second and UNFINISHED in temporary.name
        assert len(Path(name).suffix) > 9 or temporary.suffix == second.suffix == Path(name).suffix
        temporary.write_text("new")
        second.write_text("other")
    assert (tmp_path / name).read_text() == "new" and sorted(os.listdir(tmp_path)) == sorted({name, other})


def test_a_folder_in_the_way_leaves_nothing_behind(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as raised, replace_atomically(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert raised.value.filename == str(tmp_path / "a") and os.listdir(tmp_path) == ["a"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "missing" / "a.json"
    with pytest.raises(FileNotFoundError) as raised, replace_atomically(path) as temporary:
        temporary.write_text("new")
    assert raised.value.filename == str(path)
    with pytest.raises(
        UserError, match=rf"cannot write {path}: the folder {path.parent} does not exist; create it first"
    ):
        whole(path).__enter__()


def test_another_file_s_error_keeps_its_name(path, tmp_path):
    with pytest.raises(FileNotFoundError) as raised, replace_atomically(path):
        (tmp_path / "input").read_text()
    assert raised.value.filename == str(tmp_path / "input")


def test_what_a_killed_process_left_is_neither_kept_nor_followed(path, tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / f".a{UNFINISHED}.json").symlink_to(tmp_path / "other")
    with replace_atomically(path) as temporary:
        assert not temporary.exists()
        temporary.write_text("new")
    assert path.read_text() == "new" and not path.is_symlink() and (tmp_path / "other").read_text() == "other"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to list open files")
@pytest.mark.parametrize("flush", [False, True])
def test_content_is_on_the_disk_before_the_name_is(path, monkeypatch, flush):
    flushed, fsync = [], os.fsync

    def note(handle):
        flushed.append((os.readlink(f"/proc/self/fd/{handle}"), path.read_text()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    with replace_atomically(path, flush) as temporary:
        temporary.write_text("new")
    assert flushed == ([(str(temporary), "old"), (str(path.parent), "new")] if flush else [])


def test_the_check_before_leaves_no_trace(path):
    check_writable(path)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.json"]
    with pytest.raises(UserError, match="it is a folder; pass a file name"):
        check_writable(path.parent)
