"""Check a folder of clips once, and write what training needs of it: `python -m fastvgan.prepare SRC OUT`."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fastvgan.command_line import as_typed, log_to_terminal, parse, run_command
from fastvgan.data.fitting import fit_size_of_shards
from fastvgan.data.folders.manifest import MANIFEST, REJECTS
from fastvgan.data.preparation.settings import PrepareConfig
from fastvgan.errors import UserError
from fastvgan.machine.optional import check_installed
from fastvgan.models.config import SIDES
from fastvgan.settings import Settings

if TYPE_CHECKING:
    from fastvgan.data.preparation import Prepared


class Arguments(Settings):
    """Check a folder of clips once, and write what training needs of it."""

    source: tyro.conf.Positional[Path]
    """The folder of clips (video files, animated pictures, folders or zip files of pictures, strips of frames), or one
    zip or tar file of them; it is not changed."""
    out: tyro.conf.Positional[Path]
    """The folder to write manifest.jsonl, rejects.jsonl and the files of --to to; run the same command again to resume
    after an interruption."""
    settings: tyro.conf.OmitArgPrefixes[PrepareConfig] = PrepareConfig()


_RESUME = "finished work is kept; run the same command again to resume"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.prepare", arguments)
    if not parsed.source.exists():
        digits = "; the digits need no preparation, train on them with --data digits"
        hint = digits if str(parsed.source) == "digits" else "; pass an existing folder or archive"
        raise UserError(f"SOURCE {parsed.source} does not exist{hint}")
    for module in ("av", "numpy"):
        check_installed(module, "video", "prepare")
    from tqdm.contrib.logging import logging_redirect_tqdm

    from fastvgan.data.preparation import prepare

    log_to_terminal()
    try:
        with logging_redirect_tqdm():
            made = prepare(parsed.source, parsed.out, parsed.settings)
    except KeyboardInterrupt:
        print(f"stopped; {_RESUME}", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        raise UserError(f"cannot write to {parsed.out}: {error.strerror or error}; {_RESUME}") from error
    for remark in made.remarks:
        print(remark, file=sys.stderr)
    for item in made.rejected:
        print(f"{item.name}: {item.reason}; left out", file=sys.stderr)
    print(_summary(parsed.out, made, parsed.settings))
    return 0


def _summary(out: Path, made: "Prepared", settings: PrepareConfig) -> str:
    frames = sum(record.frames for record in made.records)
    seconds = sum(record.frames / record.fps for record in made.records if record.fps)
    captions = {caption for record in made.records for caption in record.captions}
    classes = {record.label for record in made.records if record.label is not None}
    conditions = f", {len(captions)} captions" if captions else ""
    conditions += f", {len(classes)} classes" if classes else ""
    return (
        f"clips:    {len(made.records)} ({frames} frames, {seconds / 60:.1f} minutes){conditions}\n"
        f"manifest: {out / MANIFEST}\n"
        f"rejected: {len(made.rejected)} ({out / REJECTS})\n"
        f"train on: {_command(out, made, settings)}"
    )


def _command(out: Path, made: "Prepared", settings: PrepareConfig) -> str:
    """Return the command that trains on the prepared clips, or the reason why they cannot be trained on."""
    size = []
    if settings.to == "shards":
        asked = settings.height, settings.width
        try:
            found = fit_size_of_shards([(record.height, record.width) for record in made.records])
        except UserError as error:
            return f"nothing yet: {error}"
        # Frames that just cover a slim size may cover a larger one as well.
        if found != asked and set(asked) <= set(SIDES):
            size = ["--height", str(asked[0]), "--width", str(asked[1])]
    # Such a folder name would be read as the digits, a manifest, or a flag.
    where = str(out / MANIFEST if str(out) == "digits" or out.suffix == ".jsonl" else out)
    flags = ["--data", f"./{where}" if where.startswith("-") else where]
    flags += [] if made.root == "." else ["--root", made.root]
    flags += ["--follow-links"] if settings.follow_links and settings.to == "manifest" else []
    return as_typed(f"python -m fastvgan.train {shlex.join([*flags, *size])}")


if __name__ == "__main__":
    run_command(main)
