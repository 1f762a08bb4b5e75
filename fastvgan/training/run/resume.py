"""Where a run begins: in a new folder, or after the newest checkpoint of an old one that is good, and on which data."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastvgan.data.fingerprint import Fingerprint
from fastvgan.errors import UserError
from fastvgan.models.config import ModelConfig
from fastvgan.runs.config import RunConfig, differences, read_config
from fastvgan.runs.names import new_run, newest_run


class Start(NamedTuple):
    """folder: the run folder to write. checkpoint: what to go on from, or None. saved: its configuration, or None.

    remarks: sentences to tell the user, one for each newer checkpoint that is damaged and passed over.
    changed_data: whether to go on even if the data are not those that the checkpoint was trained on.
    """

    folder: Path
    checkpoint: Path | None = None
    saved: RunConfig | None = None
    remarks: tuple[str, ...] = ()
    changed_data: bool = False


def find_start(name: str, run_dir: Path | None, resume: str | None) -> Start:
    """What --run-dir and --resume mean.

    Args:
        name: what a new folder under runs/ is called after.
        run_dir: the folder to write, or None for one under runs/.
        resume: None to begin anew, "auto" for the newest good checkpoint of the folder (without `run_dir`, of the
            newest run under runs/) or a beginning if there is none, or the path of a checkpoint or run folder.

    Raises:
        UserError: the folder already holds a run that would be overwritten, `resume` names no checkpoint, or all
            checkpoints are damaged. Of one checkpoint that `resume` names, that is not looked at here.
    """
    if resume is None:
        if run_dir is not None and (run_dir / "config.yaml").exists():
            raise UserError(f"{run_dir} already holds a run; go on with it by --resume auto, or name another --run-dir")
        return Start(run_dir or new_run(name))
    if resume == "auto":
        folder = run_dir or newest_run() or new_run(name)
        found, remarks = _newest_good(folder)
        return Start(folder, found, read_config(folder / "config.yaml"), remarks) if found else Start(folder)
    path, remarks = Path(resume), ()
    if (path / "config.yaml").is_file():
        path, remarks = _newest_good(path)
        if path is None:
            raise UserError(f"{resume} has no complete checkpoint to go on from; train into another --run-dir")
    elif not path.is_dir():
        raise UserError(f"--resume {resume}: there is no such folder; give `auto`, a run folder or a checkpoint folder")
    old = path.resolve().parents[1]
    if not (old / "config.yaml").is_file():
        raise UserError(
            f"--resume {resume}: it is neither a run folder (it holds no config.yaml) nor a checkpoint of one; give "
            "`auto`, a run folder or a checkpoint folder"
        )
    return Start(run_dir or old, path, read_config(old / "config.yaml"), remarks)


def fit_to_checkpoint(start: Start, config: RunConfig, data: Fingerprint) -> tuple[RunConfig, tuple[str, ...]]:
    """The configuration with which a run goes on from its checkpoint, and sentences to tell the user about its data.

    The words and classes stay those that the networks were made for.

    Args:
        config: with the words and classes of today's data. data: the fingerprint of these.

    Raises:
        UserError: the settings are others; or the data are, and `start` does not allow that, or they do not fit.
    """
    if start.checkpoint is None or start.saved is None:
        return config, ()
    from fastvgan.training.run import checkpoint  # which imports torch

    if found := differences(start.saved, config):
        raise UserError(
            f"{start.checkpoint} is of another configuration ({'; '.join(found)}); "
            "resume with the same settings, or start anew in another --run-dir"
        )
    name, model = config.data.data, start.saved.model
    if misfit := _misfit(model, config.model, f"the networks of {start.checkpoint} were made for"):
        raise UserError(f"--data {name} has {misfit}; resume with the data of before, or train into another --run-dir")
    change = _change(start, checkpoint.read_record(start.checkpoint).data, name, data)
    return config.model_copy(update={"model": model}), change


def _misfit(model: ModelConfig, found: ModelConfig, made_for: str) -> str | None:
    """Which words or classes of data the networks of a model have no place for; None where all fit.

    Args:
        found: a configuration with the words and classes of the data. made_for: "the networks of … were made for".
    """
    if words := sorted(set(found.vocabulary) - set(model.vocabulary)):
        return f"words in its captions ({_some(words)}) that are not among those that {made_for}"
    if found.caption_length > model.caption_length:
        return f"captions of {found.caption_length} words, longer than the {model.caption_length} that {made_for}"
    if found.class_names != model.class_names:
        return f"the classes {_some(found.class_names)}, not {_some(model.class_names)}, which {made_for}"
    return None


def _change(start: Start, before: Fingerprint | None, name: str, now: Fingerprint) -> tuple[str, ...]:
    """A sentence on data that have changed, or of which that cannot be known.

    Raises:
        UserError: they have, and `start` does not allow it.
    """
    remedy = "give --changed-data to go on with them, or train into another --run-dir"
    if before is None:
        was = start.saved.data.data
        if was != name and not start.changed_data:
            raise UserError(f"{start.checkpoint} was trained on --data {was}, and --data is {name} now; {remedy}")
        return (
            f"{start.checkpoint} does not note what its data were, being of an earlier version: whether {name} holds "
            "the same cannot be known",
        )
    if before.checksum == now.checksum:
        return ()
    counts = f"holds {now} now" if str(before) != str(now) else "holds as many, but not the same, or not as they were"
    change = f"{start.checkpoint} was trained on other data: on {before}, and {name} {counts}"
    if not start.changed_data:
        raise UserError(f"{change}; {remedy}")
    return (f"{change}; going on with them, as --changed-data says",)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


def _newest_good(run: Path) -> tuple[Path | None, tuple[str, ...]]:
    from fastvgan.training.run import checkpoint  # which imports torch

    folder = run / "checkpoints"
    try:
        checkpoint.put_back(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror} ({error.filename}); mend that first") from error
    found, remarks = checkpoint.newest_good(folder)
    if found is None and remarks:
        raise UserError(f"{run} has no checkpoint that is good: {'; '.join(remarks)}; train into another --run-dir")
    return found, tuple(remarks)
