"""Where preparing refuses to write: bad settings, too little room, folders that are not its own."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from commands import run
from PIL import Image
from prepared import contents

from fastvgan.data.clips import items_from_manifest
from fastvgan.data.folders.entry import Entry
from fastvgan.data.folders.manifest import read_manifest
from fastvgan.data.folders.survey import Found
from fastvgan.data.media.frames import probe
from fastvgan.data.media.types import Media
from fastvgan.data.preparation import PrepareConfig, prepare
from fastvgan.data.preparation.clip_files import write_clips
from fastvgan.data.preparation.journal import Journal
from fastvgan.errors import UserError
from fastvgan.prepare import main


def test_too_little_room_is_said_before_anything_is_written(few, tmp_path):
    for to in ("shards", "clips", "tars"):
        settings = PrepareConfig(to=to, height=16, width=16, keep_free=10**9)
        with pytest.raises(UserError, match=r"would take .*--keep-free.*another disk"):
            prepare(few, tmp_path / to, settings)
        assert not (tmp_path / to / "manifest.jsonl").exists()
        assert not [path for path in (tmp_path / to).rglob("*.*") if path.suffix in (".safetensors", ".tar", ".webm")]


def test_a_disk_that_is_full_is_one_sentence(few, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastvgan.data.preparation.shard_files.save_tensors", full)
    with pytest.raises(UserError, match=r"cannot write .*00000.safetensors: No space left on device"):
        prepare(few, tmp_path / "out", PrepareConfig(to="shards", height=16, width=16))
    monkeypatch.setattr("fastvgan.data.preparation.journal.Journal.add", full)
    with pytest.raises(UserError, match=r"cannot write to .*: No space left on device; .* run the same command again"):
        main([str(few), str(tmp_path / "other")])


@pytest.mark.parametrize("to", ["clips", "tars"])
def test_a_clip_that_the_encoder_refuses_is_left_out(few, tmp_path, to):
    for number in range(3):
        (few / "slim").mkdir(exist_ok=True)
        Image.new("RGB", (1000, 16), (number, 0, 0)).save(few / "slim" / f"{number}.png")
    settings = PrepareConfig(to=to, codec="h264", height=300, width=300)  # scaled to 18750x300, too wide for libx264
    made = prepare(few, tmp_path / "out", settings)
    assert len(made.records) == 3 and [item.name for item in made.rejected] == ["slim"]
    assert made.rejected[0].reason.startswith("cannot be encoded as h264 (")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--to", "shards"], "pass --height and --width"),
        (["--to", "clips", "--height", "16"], "pass --height and --width together"),
        (["--fps", "3"], "pass --to clips"),
        (["--to", "clips", "--fps", "0"], "--fps 0: must be at least 0.001"),
        (["--speed", "3"], "unknown flag --speed"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, flags, sentence):
    done = run("fastvgan.prepare", tmp_path, tmp_path / "out", *flags, cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_folder_itself_takes_a_manifest_and_nothing_else(few, tmp_path):
    with pytest.raises(UserError, match="choose another folder"):
        prepare(few, few, PrepareConfig(to="clips"))
    prepare(few, few, PrepareConfig())
    assert len(items_from_manifest(read_manifest(str(few / "manifest.jsonl")))[0]) == 3


@pytest.mark.parametrize("where", ["src/out", "src/link/out", "."])
def test_a_folder_to_write_to_is_no_part_of_the_clips(few, tmp_path, where):
    """Neither its clips nor its folders, from which classes and the common folder of a split file come."""
    shutil.copytree(few, tmp_path / "set")
    shutil.move(tmp_path / "set", few / "set")
    for folder in ("cat", "dog"):
        shutil.rmtree(few / folder)
    (few / "link").symlink_to(few)
    (tmp_path / "split.txt").write_text("cat/c.webm\ndog/ä.avi 1\n")
    settings = PrepareConfig(to="clips", split_file=tmp_path / "split.txt", follow_links=True)
    for _ in range(2):
        made = prepare(few, tmp_path / where, settings)
        assert [(r.source, r.label) for r in made.records] == [("set/cat/c.webm", "cat"), ("set/dog/ä.avi", "dog")]
        assert not made.rejected
    with pytest.raises(UserError, match=r"dog holds no clip outside .*/dog/out: "):
        shutil.move(few / "set" / "dog", tmp_path / "dog" / "out")
        prepare(tmp_path / "dog", tmp_path / "dog" / "out", PrepareConfig(to="clips"))


def test_two_processes_do_not_write_one_folder(few, tmp_path, monkeypatch):
    monkeypatch.setattr("fastvgan.files.lock._MOMENT", 0.0)
    prepare(few, tmp_path / "out", PrepareConfig())
    before = contents(tmp_path / "out")
    hold = "import fcntl, sys; file = open('.lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold], cwd=tmp_path / "out" / ".prepare", **pipes) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="is preparing clips into .*/out; wait until it has ended, or choose"):
            prepare(few, tmp_path / "out", PrepareConfig(to="clips"))
        assert contents(tmp_path / "out") == before
        other.communicate(b"\n")
    assert len(prepare(few, tmp_path / "out", PrepareConfig(to="clips")).records) == 3


def test_nothing_that_is_not_ours_is_touched(few, tmp_path):
    """Not even where the folder to write to holds the clips, or is somebody's own."""
    mine = tmp_path / "mine"
    shutil.copytree(few, mine / "clips")
    before = contents(mine)
    with pytest.raises(UserError, match="which contains .*; choose another folder"):
        prepare(mine / "clips", mine, PrepareConfig(to="clips"))
    with pytest.raises(UserError, match="which contains .*; choose another folder"):
        prepare(mine / "clips" / "cat", mine, PrepareConfig(to="clips"))
    with pytest.raises(UserError, match="not written by prepare"):
        prepare(few, mine, PrepareConfig(to="clips"))
    assert contents(mine) == before
    (mine / "manifest.jsonl").write_text('{"my": "own"}\n')
    with pytest.raises(UserError, match="was not written by prepare; move it"):
        prepare(few, mine, PrepareConfig())
    assert (mine / "manifest.jsonl").read_text() == '{"my": "own"}\n'
    # Notes that somebody puts among what was written stay, clips of earlier settings do not.
    prepare(few, tmp_path / "out", PrepareConfig(to="clips"))
    (tmp_path / "out" / "clips" / "notes.txt").write_text("x")
    prepare(few, tmp_path / "out", PrepareConfig(to="clips", codec="h264"))
    names = {path.name for path in (tmp_path / "out" / "clips").rglob("*.*")}
    assert names == {"notes.txt", "a b.mp4", "c.mp4", "ä.mp4"}


def test_archives_write_nothing_outside_of_the_folder(few, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    with tarfile.open(few / "t.tar", "w") as tar:
        tar.add(few / "cat" / "a b.mp4", "../../../../tar.mp4")
    with zipfile.ZipFile(few / "z.zip", "w") as file:
        for t in range(2):
            file.writestr(f"../../../../zip/{t}.png", picture.getvalue())
    out = tmp_path / "a" / "b" / "out"
    made = prepare(few, out, PrepareConfig(to="clips"))
    assert len(made.records) == 3 and len(made.rejected) == 2
    written = [path for path in tmp_path.rglob("*.webm") if not path.is_relative_to(few)]
    assert len(written) == 3 and all(path.is_relative_to(out / "clips") for path in written)


def test_names_that_lead_out_are_written_nowhere(few, tmp_path):
    clip = Found(
        Entry(Media("video", few / "cat" / "c.webm"), "../../c.webm"), probe(Media("video", few / "cat" / "c.webm"))
    )
    with pytest.raises(UserError, match="leads out"):
        write_clips(tmp_path / "out", [clip], {}, PrepareConfig(to="clips"), Journal(tmp_path / "journal"))
