"""What a run writes beside checkpoints: nothing stops it that need not, and nothing is lost that need not."""

import errno
import json
import logging
import os
import shutil
import threading
import time

import pytest
import torch
from opened import open_folder, warnings
from PIL import Image
from small_disk import fill, small_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny

from fastvgan.errors import UserError
from fastvgan.training.report.collect import collect_progress
from fastvgan.training.run import backlog
from fastvgan.training.run.folder import RunFolder

logger = logging.getLogger("fastvgan")


@pytest.fixture(autouse=True)
def _level():
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(path):
    return [line["step"] for line in lines(path)]


def points(folder):
    """The steps of every curve that TensorBoard shows."""
    shown = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0}).Reload()
    return {tag: [event.step for event in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def test_metrics_and_scores_go_to_files_and_curves(tmp_path):
    with open_folder(tmp_path / "r") as folder:
        folder.add_metrics({"step": 2, "d_loss": 0.5, "g_loss": 1})
        folder.add_evaluation({"step": 2, "coarse_frechet": 3.5})
        folder.add_metrics({"step": 4, "d_loss": 0.25, "g_loss": None})
        logger.info("something %d", 7)
    assert lines(tmp_path / "r" / "metrics.jsonl") == [
        {"step": 2, "d_loss": 0.5, "g_loss": 1},
        {"step": 4, "d_loss": 0.25, "g_loss": None},
    ]
    assert lines(tmp_path / "r" / "evaluation.jsonl") == [{"step": 2, "coarse_frechet": 3.5}]
    assert points(tmp_path / "r") == {"d_loss": [2, 4], "g_loss": [2], "evaluation/coarse_frechet": [2]}
    assert (tmp_path / "r" / "log.txt").read_text().endswith("INFO something 7\n")


def images(folder):
    """(step, width, height) of every picture that TensorBoard shows as "samples"."""
    shown = EventAccumulator(str(folder / "tb"), size_guidance={"images": 0}).Reload()
    return [(event.step, event.width, event.height) for event in shown.Images("samples")]


def picture(path, width):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, 6)).save(path)
    return path


def test_samples_go_to_tensorboard_as_pictures(tmp_path, caplog):
    with open_folder(tmp_path / "r") as folder:
        for step, width in ((2, 20), (4, 40), (6, 60)):
            path = picture(tmp_path / "r" / "samples" / f"step-{step}.gif", width)
            folder.add_samples(step, path)
        assert images(tmp_path / "r") == [(2, 20, 6), (4, 40, 6), (6, 60, 6)]
        event = EventAccumulator(str(tmp_path / "r" / "tb")).Reload().Images("samples")[-1]
        assert event.encoded_image_string == path.read_bytes()
        path.unlink()
        shutil.rmtree(tmp_path / "r" / "tb")
        folder.add_metrics({"step": 8, "x": 1.0})  # rewrites everything but the removed picture
        assert images(tmp_path / "r") == [(2, 20, 6), (4, 40, 6)] and points(tmp_path / "r") == {"x": [8]}
        folder.rewind(2)
        folder.add_metrics({"step": 3, "x": 1.0})
        assert images(tmp_path / "r") == [(2, 20, 6)]
    assert not [record for record in caplog.records if record.name == "fastvgan"]


def block(path, by):
    if by == "a full device":
        path.symlink_to("/dev/full")
    else:
        path.mkdir()
    return {"a full device": "No space left on device", "a folder": "Is a directory"}[by]


def unblock(path):
    path.unlink() if path.is_symlink() else path.rmdir()


@pytest.mark.parametrize("by", ["a full device", "a folder"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.jsonl", "log.txt"])
def test_a_file_that_cannot_be_written_is_reported_once_and_complete_later(tmp_path, caplog, capfd, name, by):
    path = tmp_path / "r" / name
    with open_folder(tmp_path / "r") as folder:

        def write(step):
            folder.add_metrics({"step": step, "x": 1.0})
            folder.add_evaluation({"step": step, "y": 1.0})
            logger.info("step %d", step)

        write(1)
        before = path.read_bytes()
        path.unlink()
        reason = block(path, by)
        for step in (2, 3, 4):
            write(step)
        (message,) = warnings(caplog)
        assert str(path) in message and reason in message
        unblock(path)
        write(5)
        write(6)
        (_, recovered) = warnings(caplog)
        assert str(path) in recovered and "written again" in recovered
    assert path.read_bytes().startswith(before)
    if name == "log.txt":
        shown = [line.split("INFO ")[1] for line in path.read_text().splitlines() if "INFO" in line]
        assert shown == [f"step {step}" for step in range(1, 7)] and message in path.read_text()
    else:
        assert steps(path) == [1, 2, 3, 4, 5, 6]
    assert "Logging error" not in capfd.readouterr().err


def test_a_file_put_back_gets_only_what_it_lacks(tmp_path):
    path = tmp_path / "r" / "metrics.jsonl"
    with open_folder(tmp_path / "r") as folder:
        folder.add_metrics({"step": 1, "x": 1.0})
        path.rename(tmp_path / "kept")
        path.mkdir()
        folder.add_metrics({"step": 2, "x": 1.0})
        path.rmdir()
        (tmp_path / "kept").rename(path)
        folder.add_metrics({"step": 3, "x": 1.0})
    assert steps(path) == [1, 2, 3]


def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path, caplog):
    with small_disk(tmp_path / "disk", "1m") as disk, open_folder(disk / "r") as folder:
        values = {f"a rather long name {i}": 0.123456789 for i in range(10)}
        for step in range(200):
            if step == 20:
                filler = fill(disk)
            if step == 150:
                assert len(warnings(caplog)) == 3  # metrics, TensorBoard, log
                filler.unlink()
            folder.add_metrics({"step": step, **values})
            logger.info("%d %s", step, "x" * 200)
        assert len(warnings(caplog)) == 6
        assert steps(disk / "r" / "metrics.jsonl") == list(range(200))
        assert set(map(tuple, points(disk / "r").values())) == {tuple(range(200))}
        logged = [line.split()[3] for line in (disk / "r" / "log.txt").read_text().splitlines() if "INFO" in line]
        assert logged == [str(step) for step in range(200)]


def test_a_full_disk_leaves_whole_entries_and_closing_is_quick(tmp_path, caplog):
    with small_disk(tmp_path / "disk", "1m") as disk:
        folder = RunFolder(disk / "r", tiny(), 0)
        for step in range(100):
            if step == 5:
                fill(disk)
            folder.add_metrics({"step": step, "x": 1 / 3, "name": 1 / 7})
            logger.info("%s", "x" * 200)
        begin = time.monotonic()
        folder.close()
        assert time.monotonic() - begin < 1
        kept = steps(disk / "r" / "metrics.jsonl")
        assert len(kept) > 5 and kept == list(range(len(kept)))
        (lost,) = [line for line in warnings(caplog) if "are lost" in line and "metrics.jsonl" in line]
        assert lost.startswith(f"{100 - len(kept)} entries of ")
        assert (disk / "r" / "log.txt").read_text().endswith("\n")
    assert logger.handlers == []


def test_of_too_many_entries_the_oldest_are_lost_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(backlog, "MOST", 3)
    path = tmp_path / "r" / "metrics.jsonl"
    with open_folder(tmp_path / "r") as folder:
        path.unlink()
        path.mkdir()
        for step in range(1, 6):
            folder.add_metrics({"step": step, "x": 1.0})
        path.rmdir()
        folder.add_metrics({"step": 6, "x": 1.0})
    assert steps(path) == [4, 5, 6]
    assert "; 3 older ones are lost" in warnings(caplog)[-1]


def test_a_vanished_folder_is_rebuilt(tmp_path, caplog):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        before = (path / "config.yaml").read_text()
        folder.add_metrics({"step": 1, "x": 1.0})
        folder.add_evaluation({"step": 1, "y": 1.0})
        logger.info("something")
        shutil.rmtree(path)
        folder.add_metrics({"step": 2, "x": 1.0})
        assert warnings(caplog) == [f"the run folder {path} has vanished: rebuilt it"]
        folder.add_evaluation({"step": 2, "y": 1.0})
        shutil.rmtree(path / "samples")
        assert folder.ensure()
        assert warnings(caplog)[1:] == [f"the run folder {path} lacks samples: rebuilt it"]
    assert steps(path / "metrics.jsonl") == steps(path / "evaluation.jsonl") == [1, 2]
    assert points(path) == {"x": [1, 2], "evaluation/y": [1, 2]}
    assert (path / "config.yaml").read_text() == before and (path / "env.json").is_file()
    assert "INFO something" in (path / "log.txt").read_text()
    assert all((path / name).is_dir() for name in ("samples", "checkpoints", "export"))


def test_the_log_is_not_rewritten_while_another_thread_writes_to_it(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        (handler,) = logger.handlers
        shutil.rmtree(path)
        other = threading.Thread(target=folder.ensure)
        with handler.lock:
            other.start()
            other.join(0.1)
            assert other.is_alive() and not (path / "log.txt").exists()
        other.join()
        assert (path / "log.txt").exists()


def test_a_folder_that_cannot_be_rebuilt_is_reported_once(tmp_path, caplog):
    parent, path = tmp_path / "runs", tmp_path / "runs" / "r"
    with open_folder(path) as folder:
        folder.add_metrics({"step": 1, "x": 1.0})
        shutil.rmtree(parent)
        parent.write_text("in the way")
        for step in (2, 3):
            folder.add_metrics({"step": step, "x": 1.0})
            assert not folder.ensure()
            logger.info("step %d", step)
        (message,) = warnings(caplog)
        assert str(path) in message and "has vanished and cannot be rebuilt" in message
        parent.unlink()
        folder.add_metrics({"step": 4, "x": 1.0})
        assert warnings(caplog)[1:] == [f"the run folder {path} has vanished: rebuilt it"]
    assert steps(path / "metrics.jsonl") == [1, 2, 3, 4] and points(path) == {"x": [1, 2, 3, 4]}
    assert message in (path / "log.txt").read_text() and "step 2" in (path / "log.txt").read_text()


def test_after_a_folder_is_rebuilt_other_faults_are_reported(tmp_path, caplog):
    path = tmp_path / "runs" / "r"
    with open_folder(path) as folder:
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        folder.add_metrics({"step": 1, "x": 1.0})
        path.parent.unlink()
        (path / "metrics.jsonl").mkdir(parents=True)
        folder.add_metrics({"step": 2, "x": 1.0})
        assert any("cannot write" in line and "metrics.jsonl" in line for line in warnings(caplog))


def test_an_older_step_drops_what_came_later(tmp_path):
    path = tmp_path / "r"
    with open_folder(path) as folder:
        for step in (2, 4, 6, 8):
            folder.add_metrics({"step": step, "x": 1.0})
            folder.add_evaluation({"step": step, "y": 1.0})
        folder.rewind(6)
        assert steps(path / "metrics.jsonl") == steps(path / "evaluation.jsonl") == [2, 4, 6]
        folder.add_metrics({"step": 7, "x": 1.0})
        assert points(path) == {"x": [2, 4, 6, 7], "evaluation/y": [2, 4, 6]}
        shutil.rmtree(path)
        assert folder.ensure()  # which does not wait for the next line
        assert steps(path / "metrics.jsonl") == [2, 4, 6, 7] and steps(path / "evaluation.jsonl") == [2, 4, 6]
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "x": 1}\n{"step": 1')  # what a kill leaves
    with open_folder(path, step=4) as folder:
        assert steps(path / "metrics.jsonl") == steps(path / "evaluation.jsonl") == [2, 4]
        folder.add_metrics({"step": 6, "x": 1.0})
        assert points(path) == {"x": [2, 4, 6], "evaluation/y": [2, 4]}
        shutil.rmtree(path)
        folder.add_metrics({"step": 8, "x": 1.0})
    assert steps(path / "metrics.jsonl") == [2, 4, 6, 8]
    assert points(path) == {"x": [2, 4, 6, 8], "evaluation/y": [2, 4]}


def test_samples_of_an_abandoned_branch_are_not_those_of_the_run(tmp_path):
    path = tmp_path / "r" / "samples"
    with open_folder(tmp_path / "r"):
        for step in (4, 8, 12):
            picture(path / f"step-{step:06d}.png", step)
    with open_folder(tmp_path / "r", step=8):
        picture(path / "step-000010.png", 10)
    shown = collect_progress(tmp_path / "r")["samples"].content
    assert [step for step, _ in shown["stills"]] == [4, 8, 10] and shown["last"] == 10
    assert Image.open(path / "abandoned-step-000012.png").width == 12


def test_a_line_cut_off_in_the_middle_is_dropped_alone(tmp_path, caplog):
    with open_folder(tmp_path / "r") as folder:
        folder.add_metrics({"step": 2, "x": 1.0})
    path = tmp_path / "r" / "metrics.jsonl"
    path.write_text('{"step": 1, "x"\n' + path.read_text() + '{"step": 4, "x": 1.0}')
    with open_folder(tmp_path / "r", step=4) as folder:
        folder.add_metrics({"step": 6, "x": 1.0})
    assert steps(path) == [2, 4, 6] and 'truncated line: {"step": 1, "x"' in warnings(caplog)[0]


def test_an_older_step_on_a_full_disk_drops_lines_too(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk, open_folder(disk / "r") as folder:
        for step in range(10):
            folder.add_metrics({"step": step, "x": 1.0})
        fill(disk)
        folder.rewind(4)
        assert steps(disk / "r" / "metrics.jsonl") == [0, 1, 2, 3, 4]


def test_an_older_step_is_remembered_while_the_file_cannot_be_written(tmp_path):
    path = tmp_path / "r" / "metrics.jsonl"
    with open_folder(tmp_path / "r") as folder:
        for step in (1, 2, 3):
            folder.add_metrics({"step": step, "x": 1.0})
        path.rename(tmp_path / "kept")
        path.mkdir()
        folder.add_metrics({"step": 4, "x": 1.0})
        folder.rewind(2)
        folder.add_metrics({"step": 3, "x": 2.0})
        path.rmdir()
        (tmp_path / "kept").rename(path)
        folder.add_metrics({"step": 4, "x": 2.0})
    assert [(line["step"], line["x"]) for line in lines(path)] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_half_an_entry_that_cannot_be_cut_off_at_once_is_later(tmp_path, monkeypatch):
    file = backlog.AppendedFile(tmp_path / "x")
    file.append(b"one\n")

    def write_half(open_folder, data):
        os.write(open_folder.fileno(), data[:3])
        os.close(open_folder.fileno())
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(backlog, "_write_all", write_half)
        with pytest.raises(OSError):
            file.append(b"two\n")
    assert file.path.read_bytes() == b"one\ntwo"
    file.append(b"three\n")
    assert file.path.read_bytes() == b"one\nthree\n"


def test_what_a_kill_left_of_a_checkpoint_is_removed(tmp_path):
    (tmp_path / "r" / "checkpoints" / ".unfinished-4").mkdir(parents=True)
    with open_folder(tmp_path / "r"):
        assert list((tmp_path / "r" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt", "tb", "config.yaml", "checkpoints"])
def test_what_cannot_be_opened_at_the_start_is_bad_input(tmp_path, name):
    path = tmp_path / "r"
    path.mkdir()
    (path / name).write_text("in the way") if name in ("tb", "checkpoints") else (path / name).mkdir()
    with pytest.raises(UserError, match=f"cannot write the run folder {path}"):
        RunFolder(path, tiny(), 0)
    assert logger.handlers == []


def test_the_environment_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with open_folder(tmp_path / "r"):
        pass
    facts = json.loads((tmp_path / "r" / "env.json").read_text())
    assert facts["processes"] == 4 and facts["torch"] == torch.__version__ and facts["cuda"] == torch.version.cuda
    assert {"cudnn", "triton", "dali"} <= facts.keys()
