"""A folder that one process writes is not written by another; the judge is the operating system, by real processes."""

import os
import platform
import signal
import threading

import pytest
from forks import context
from tiny import tiny

import fastvgan.files.lock as lock
from fastvgan.errors import UserError
from fastvgan.files.lock import FolderLock, wait_until_unlocked
from fastvgan.training.run.folder import RunFolder
from fastvgan.training.run.resume import find_start


def _hold(folder, held, leave):
    lock = FolderLock(folder)
    held.set()
    leave.wait()
    lock.release()
    held.clear()
    leave.clear()
    leave.wait()  # it has released the lock and lives on


def _take(folder):
    FolderLock(folder).release()


@pytest.fixture
def other(tmp_path):
    """Returns a process that holds the lock of the folder, and the event that makes it release it."""
    held, leave = context().Event(), context().Event()
    process = context().Process(target=_hold, args=(tmp_path, held, leave), daemon=True)
    process.start()
    assert held.wait(60)
    yield process, leave
    process.kill()
    process.join()


def _names(process, folder):
    return f"^process {process.pid} on {platform.node()} is training into {folder}; wait until it has ended, or "


def test_a_folder_in_use_is_refused_and_the_process_is_named(tmp_path, other, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    process, _ = other
    with pytest.raises(UserError, match=_names(process, tmp_path)):
        FolderLock(tmp_path)
    with pytest.raises(UserError, match=_names(process, tmp_path)):
        wait_until_unlocked(tmp_path)
    with pytest.raises(UserError, match=_names(process, tmp_path)):
        FolderLock(tmp_path)  # looking at the lock did not take it


def test_who_waits_goes_on_as_soon_as_the_lock_is_released(tmp_path, other, caplog):
    process, leave = other
    threading.Timer(0.3, leave.set).start()
    wait_until_unlocked(tmp_path)
    assert f"waiting for process {process.pid} on " in caplog.text and str(tmp_path) in caplog.text
    FolderLock(tmp_path).release()


def test_a_killed_process_leaves_no_lock(tmp_path, other):
    process, _ = other
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until_unlocked(tmp_path)
    FolderLock(tmp_path).release()


def test_a_folder_without_a_lock_is_free(tmp_path):
    wait_until_unlocked(tmp_path / "missing")
    wait_until_unlocked(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", ["auto", "folder"])
def test_a_run_in_use_is_not_continued_and_nothing_in_it_changes(tmp_path, other, monkeypatch, resume):
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    (tmp_path / "config.yaml").write_text(tiny().to_yaml())
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="is training into"):
        find_start("t", tmp_path, resume if resume == "auto" else str(tmp_path))
    with pytest.raises(UserError, match="is training into"):
        RunFolder(tmp_path, tiny(), 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_that_is_written_can_be_read_to_train_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("fastvgan.training.run.resume.wait_until_unlocked", lambda folder: pytest.fail("waits"))
    (tmp_path / "config.yaml").write_text(tiny().to_yaml())
    with pytest.raises(UserError, match="has no complete checkpoint to resume from"):
        find_start("t", tmp_path / "other", str(tmp_path))


def test_a_run_can_be_opened_again_once_it_is_closed(tmp_path, other):
    _, leave = other
    leave.set()
    wait_until_unlocked(tmp_path)
    closed = []  # kept, since a file that nothing refers to is closed in any case
    for _ in range(2):
        closed.append(RunFolder(tmp_path / "r", tiny(), 0))
        closed[-1].close()
        process = context().Process(target=_take, args=(tmp_path / "r",))
        process.start()
        process.join()
        assert process.exitcode == 0
