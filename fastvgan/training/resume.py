"""Where a run begins: in a new folder, or after the newest checkpoint of an old one that is good."""

from pathlib import Path
from typing import NamedTuple

from fastvgan.errors import UserError
from fastvgan.training.config import RunConfig, read_config
from fastvgan.training.run_names import new_run, newest_run


class Start(NamedTuple):
    """folder: the run folder to write. checkpoint: what to go on from, or None. saved: its configuration, or None.

    remarks: sentences to tell the user, one for each newer checkpoint that is damaged and passed over.
    """

    folder: Path
    checkpoint: Path | None = None
    saved: RunConfig | None = None
    remarks: tuple[str, ...] = ()


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


def _newest_good(run: Path) -> tuple[Path | None, tuple[str, ...]]:
    from fastvgan.training import checkpoint  # which imports torch

    folder = run / "checkpoints"
    try:
        checkpoint.put_back(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror} ({error.filename}); mend that first") from error
    found, remarks = checkpoint.newest_good(folder)
    if found is None and remarks:
        raise UserError(f"{run} has no checkpoint that is good: {'; '.join(remarks)}; train into another --run-dir")
    return found, tuple(remarks)
