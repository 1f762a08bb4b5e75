"""Where a run starts: in a new folder, or from the newest undamaged checkpoint of an old one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.files.lock import wait_until_unlocked
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import RunConfig, describe_change, find_differences, read_config
from fastvgan.runs.names import new_run, newest_run


class Start(NamedTuple):
    """Where a run starts.

    Attributes:
        folder: the run folder to write.
        checkpoint: the checkpoint to resume from, or None.
        saved: the configuration of the checkpoint's run, or of the run in the folder that was killed before its first
            checkpoint; or None.
        remarks: sentences for the user, one for each newer checkpoint that is damaged and skipped among them.
        changed_data: whether to resume even if the data differ from those that the checkpoint was trained on.
        is_new: whether no run was in the folder; another may begin there before this one does.
        name: stem of the folder's name, if it was chosen under runs/; None if the user named it.
    """

    folder: Path
    checkpoint: Path | None = None
    saved: RunConfig | None = None
    remarks: tuple[str, ...] = ()
    changed_data: bool = False
    is_new: bool = False
    name: str | None = None

    def next_folder(self) -> Path:
        """Return a folder in place of `folder`, which holds a run by now.

        Raises:
            UserError: the user named the folder.
        """
        if self.name is None:
            raise _holds_run(self.folder)
        return new_run(self.name)


def find_start(name: str, run_dir: Path | None, resume: str | None, may_write: bool = True) -> Start:
    """Find the folder and the checkpoint that --run-dir and --resume stand for.

    Args:
        name: stem of a new folder's name under runs/.
        run_dir: the folder to write, or None for one under runs/.
        resume: None to start from step 0; "auto" for the newest undamaged checkpoint of the folder (without `run_dir`,
            of the newest run under runs/), or for step 0 if no checkpoint exists; or the path of a checkpoint or run
            folder.
        may_write: whether the run may train; else nothing waits for another training into the folder.

    Raises:
        UserError: the folder already holds a run that would be overwritten, another process writes it, `resume` names
            no checkpoint, or all checkpoints are damaged. A single checkpoint that `resume` names is not read here.
    """
    if resume is None or resume == "auto":
        return _start_or_continue(
            name, run_dir or (None if resume is None else newest_run()), resume is not None, may_write
        )
    path, remarks = Path(resume), ()
    if not path.is_dir():
        raise UserError(f"--resume {resume}: this folder does not exist; pass `auto`, a run folder or a checkpoint")
    is_run = (path / "config.yaml").is_file()
    old = path.resolve() if is_run else path.resolve().parent.parent  # that of / is /
    if not (old / "config.yaml").is_file():
        raise UserError(
            f"--resume {resume}: this is neither a run folder (config.yaml is missing) nor a checkpoint of one; give "
            "`auto`, a run folder or a checkpoint"
        )
    is_new = run_dir is not None and run_dir.resolve() != old
    if may_write and not is_new:
        wait_until_unlocked(old)
    if is_run:
        found, remarks = _newest_good(path)
        if found is None:
            raise UserError(f"{resume} has no complete checkpoint to resume from; train into another --run-dir")
        path = found
    if is_new and (run_dir / "config.yaml").exists():
        raise _holds_run(run_dir)
    return Start(run_dir or old, path, read_config(old / "config.yaml"), remarks, is_new=is_new)


def _start_or_continue(name: str, folder: Path | None, may_continue: bool, may_write: bool) -> Start:
    """Start in a folder, or in a new one for None; continue the run that the folder holds if that is allowed."""
    if folder is None:
        return Start(new_run(name), is_new=True, name=name)
    is_new = not (folder / "config.yaml").exists()
    if not (is_new or may_continue):
        raise _holds_run(folder)
    if may_write:
        wait_until_unlocked(folder)
    found, remarks = _newest_good(folder) if may_continue else (None, ())
    # A kill may leave an empty file.
    is_empty = is_new or (folder / "config.yaml").stat().st_size == 0
    saved = None if is_empty and found is None else read_config(folder / "config.yaml")
    return Start(folder, found, saved, remarks, is_new=is_new)


def _holds_run(folder: Path) -> UserError:
    return UserError(f"{folder} already holds a run; resume it with --resume auto, or use another --run-dir")


def fit_to_checkpoint(start: Start, config: RunConfig, data: Fingerprint) -> tuple[RunConfig, tuple[str, ...]]:
    """Fit a configuration to the checkpoint that a run resumes from.

    Words and classes stay those that the networks were built for.

    Args:
        start: where the run starts.
        config: the settings, with the words and classes of the current data.
        data: fingerprint of the current data.

    Returns:
        The configuration, and sentences for the user about what changed.

    Raises:
        UserError: settings differ from the checkpoint's; or the data differ, and `start` does not allow that or the
            networks cannot take them.
    """
    if start.checkpoint is None or start.saved is None:
        return config, ()
    from fastvgan.runs.checkpoint import read_record  # lazily: it imports torch

    if found := find_differences(start.saved, config):
        raise UserError(
            f"{start.checkpoint} has another configuration ({'; '.join(found)}); "
            "resume with the same settings, or train into another --run-dir"
        )
    name, model = config.data.data, start.saved.model
    if model.text_fingerprint != config.model.text_fingerprint:
        raise UserError(
            f"{start.checkpoint} was trained {_describe_text(model)}, not {_describe_text(config.model)}; resume with "
            "the same text model, or train into another --run-dir"
        )
    if misfit := _misfit(model, config.model, f"the networks of {start.checkpoint} were built for"):
        raise UserError(f"--data {name} has {misfit}; resume with the previous data, or train into another --run-dir")
    change = _change(start, read_record(start.checkpoint).data, name, data)
    model = model.model_copy(update={"text_encoder": config.model.text_encoder})  # the folder may have moved
    return config.model_copy(update={"model": model}), (*describe_change(start.saved, config), *change)


def _describe_text(model: ModelConfig) -> str:
    if model.text_encoder is None:
        return "without --text-encoder"
    return f"with --text-encoder {model.text_encoder} (checksum {model.text_fingerprint[:8]})"


def _misfit(model: ModelConfig, found: ModelConfig, built_for: str) -> str | None:
    """Describe words or classes of the data that a model's networks cannot take.

    Args:
        model: the networks' configuration.
        found: a configuration with the words and classes of the data.
        built_for: "the networks of … were built for".

    Returns:
        A clause; None if all words and classes fit.
    """
    if words := sorted(set(found.vocabulary) - set(model.vocabulary)):
        return f"words in its captions ({_shorten(words)}) other than those that {built_for}"
    if found.caption_length > model.caption_length:
        return f"captions of {found.caption_length} words, longer than the {model.caption_length} that {built_for}"
    if found.class_names != model.class_names:
        return f"the classes {_shorten(found.class_names)}, not {_shorten(model.class_names)}, which {built_for}"
    return None


def _change(start: Start, before: Fingerprint | None, name: str, now: Fingerprint) -> tuple[str, ...]:
    """Describe how the data changed since the checkpoint, in one sentence or none.

    Raises:
        UserError: they changed, and `start` does not allow it.
    """
    remedy = "pass --changed-data to use them anyway, or train into another --run-dir"
    if before is None:
        was = None if start.saved is None else start.saved.data.data
        if was != name and not start.changed_data:
            raise UserError(f"{start.checkpoint} was trained on --data {was}, and --data is {name} now; {remedy}")
        return (
            f"{start.checkpoint} was written by an earlier version, which stored no fingerprint of the data: cannot "
            f"check whether {name} is unchanged",
        )
    if before.checksum == now.checksum:
        return ()
    counts = f"holds {now} now" if str(before) != str(now) else "holds as many, but other or changed ones"
    change = f"{start.checkpoint} was trained on other data: on {before}, and {name} {counts}"
    if not start.changed_data:
        raise UserError(f"{change}; {remedy}")
    return (f"{change}; continuing with them because of --changed-data",)


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


def _newest_good(run: Path) -> tuple[Path | None, tuple[str, ...]]:
    # Lazily: both import torch.
    from fastvgan.runs.checkpoint import find_newest_good
    from fastvgan.training.run.checkpoint import put_back

    folder = run / "checkpoints"
    try:
        put_back(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror} ({error.filename}); fix that first") from error
    found, remarks = find_newest_good(folder)
    if found is None and remarks:
        raise UserError(f"all checkpoints of {run} are damaged: {'; '.join(remarks)}; train into another --run-dir")
    return found, tuple(remarks)
