"""Preparing a folder again, after changes or after it was stopped: the same as in one go."""

import functools
import importlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import run
from make_videos import encode, make_numbered
from PIL import Image
from prepared import contents

from fastvgan.data import preparation
from fastvgan.data.media.types import BadVideo
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.preparation.journal import Journal
from fastvgan.files.atomic import UNFINISHED


@pytest.mark.parametrize("to", ["manifest", "clips", "shards", "tars"])
def test_the_same_again_does_nothing_and_gives_the_same(few, tmp_path, monkeypatch, to):
    sized = {} if to == "manifest" else {"height": 24, "width": 32}
    settings = PrepareConfig(to=to, **sized)
    prepare(few, tmp_path / "out", settings)
    before = contents(tmp_path / "out")
    assert len(before) == {"manifest": 2, "clips": 5, "shards": 3, "tars": 3}[to]

    def never(*arguments):
        raise AssertionError("a file was looked through, or written, again")

    for name in ("folders.survey.probe", "preparation.clip_files.encode", "preparation.shard_files.save_tensors"):
        monkeypatch.setattr(f"fastvgan.data.{name}", never)
    prepare(few, tmp_path / "out", settings)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("to", ["manifest", "clips", "shards", "tars"])
def test_strips_of_another_number_of_frames_are_written_again(tmp_path, to):
    (tmp_path / "src").mkdir()
    frames = make_numbered(8)[:, :16, :16]
    Image.fromarray(np.concatenate(frames, 1)).save(tmp_path / "src" / "x.png")
    sized = {} if to == "manifest" else {"height": 16, "width": 16}

    def lengths(out, **changed):
        settings = PrepareConfig(to=to, layout="strips", min_frames=2, **sized, **changed)
        return [record.frames for record in prepare(tmp_path / "src", tmp_path / out, settings).records]

    assert lengths("out") == [8]
    assert lengths("out", strip_frames=4) == lengths("fresh", strip_frames=4) == [4]
    assert lengths("out") == [8]


def test_an_animation_that_was_taken_for_a_strip_is_looked_at_again(tmp_path):
    (tmp_path / "src").mkdir()
    frames = [Image.fromarray(frame[:16, :64]) for frame in make_numbered(5)]
    frames[0].save(tmp_path / "src" / "x.png", save_all=True, append_images=frames[1:], duration=100)

    def kinds(out, layout):
        made = prepare(tmp_path / "src", tmp_path / out, PrepareConfig(to="manifest", layout=layout, min_frames=2))
        return [(record.kind, record.frames, record.width) for record in made.records]

    assert kinds("out", "strips") == [("strip", 4, 16)]
    assert kinds("out", "auto") == kinds("fresh", "auto") == [("animation", 5, 64)]


def test_what_changed_is_looked_at_again(few, tmp_path):
    settings = PrepareConfig(to="clips")
    prepare(few, tmp_path / "out", settings)
    untouched = (tmp_path / "out" / "clips" / "cat" / "c.webm").stat().st_mtime_ns
    encode(few / "cat" / "a b.mp4", make_numbered(17), "h264", 10)
    (few / "dog" / "ä.avi").write_bytes(b"broken now")
    (few / "cat" / "c.txt").write_text("another caption")
    made = prepare(few, tmp_path / "out", settings)
    assert [(r.source, r.frames, r.captions) for r in made.records] == [
        ("cat/a b.mp4", 17, ("number 0", "clip 0")),
        ("cat/c.webm", 30, ("another caption",)),
    ]
    assert [item.name for item in made.rejected] == ["dog/ä.avi"]
    assert not (tmp_path / "out" / "clips" / "dog").exists()
    assert (tmp_path / "out" / "clips" / "cat" / "c.webm").stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("to", "step"),
    [
        ("manifest", "folders.survey.probe"),
        ("manifest", "folders.survey.checksum_of"),
        *((to, "preparation.clip_files.walk") for to in ("clips", "shards", "tars")),
    ],
)
def test_what_could_not_be_read_is_tried_again(few, tmp_path, monkeypatch, to, step):
    """Errors of a disk or a network pass; what is damaged stays so, and is not looked at again."""
    (few / "x.mp4").write_text("no video")
    settings = PrepareConfig(to=to, **({} if to == "manifest" else {"height": 16, "width": 16}))
    function = getattr(importlib.import_module(f"fastvgan.data.{step.rsplit('.', 1)[0]}"), step.rsplit(".", 1)[1])

    def fails(given, *arguments):
        if "c.webm" in str(given):
            error = OSError(5, "Input/output error")
            raise error if step.endswith("checksum_of") else BadVideo("damaged: Input/output error") from error
        return function(given, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(f"fastvgan.data.{step}", fails)
        made = prepare(few, tmp_path / "out", settings)
    assert [record.source or record.path for record in made.records] == ["cat/a b.mp4", "dog/ä.avi"]
    reasons = {item.name: item.reason for item in made.rejected}
    assert set(reasons) == {"cat/c.webm", "x.mp4"} and reasons["cat/c.webm"].endswith(": Input/output error")
    looked_at = []
    examine = preparation.examine
    monkeypatch.setattr(
        preparation, "examine", lambda entry, *rest: looked_at.append(entry.name) or examine(entry, *rest)
    )
    made = prepare(few, tmp_path / "out", settings)
    assert len(made.records) == 3 and [item.name for item in made.rejected] == ["x.mp4"]
    assert looked_at == (["cat/c.webm"] if step.startswith("folders.survey") else [])


@pytest.mark.parametrize("to", ["manifest", "clips", "shards", "tars"])
def test_stopped_at_any_moment_it_goes_on_and_the_result_is_the_same(forty, tmp_path, to):
    source, _ = forty
    flags = ["--to", to] + ([] if to == "manifest" else ["--height", "32", "--width", "32"])
    flags += ["--shard-size", "1"] if to in ("shards", "tars") else []
    command = [sys.executable, "-m", "fastvgan.prepare", str(source)]
    run("fastvgan.prepare", source, tmp_path / "straight", *flags).check_returncode()
    for wait in (0.9, 1.1, 1.3):
        process = subprocess.Popen([*command, str(tmp_path / "out"), *flags], stderr=subprocess.DEVNULL)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run("fastvgan.prepare", source, tmp_path / "out", *flags).check_returncode()
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_ctrl_c_ends_it_in_one_sentence(forty, tmp_path):
    source, _ = forty
    command = [sys.executable, "-m", "fastvgan.prepare", str(source), str(tmp_path / "out"), "--to", "clips"]
    # Clips this large take many seconds, so that the signal finds the command at work.
    command += ["--height", "1080", "--width", "1920"]
    # Tests that are started in the background of a shell inherit that Ctrl-C is ignored.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    said = ""
    while "writing clips" not in said:
        said += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    said += process.communicate()[1]
    assert process.returncode == 130 and "stopped; finished work is kept" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_stopped_in_its_first_file_it_goes_on(few, tmp_path, monkeypatch):
    def stop(temporary, *arguments):
        temporary.write_bytes(b"x")
        (temporary.parent / f".left{UNFINISHED}").write_bytes(b"x")  # as after a SIGKILL
        raise KeyboardInterrupt

    for to in ("clips", "tars"):
        with monkeypatch.context() as patched:
            patched.setattr("fastvgan.data.preparation.clip_files.encode", stop)
            with pytest.raises(KeyboardInterrupt):
                prepare(few, tmp_path / to, PrepareConfig(to=to))
        assert len(prepare(few, tmp_path / to, PrepareConfig(to=to)).records) == 3
        assert not [path for path in (tmp_path / to).rglob("*") if UNFINISHED in path.name]


def test_damaged_lines_of_a_journal_are_passed_over(tmp_path):
    lines = ['["a", [1], {"b": 2}]', "5", "null", '[["a"], 1, 2]', '["a", [1]]', '"abc', "\udcff", ""]
    (tmp_path / "j.jsonl").write_text("\n".join(lines), errors="surrogateescape")
    journal = Journal(tmp_path / "j.jsonl")
    assert list(journal.names()) == ["a"] and journal.get("a", [1]) == {"b": 2}
