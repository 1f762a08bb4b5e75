"""Trained generators that ship with fastvgan, by name.

Each is three files in the folder shipped/: NAME.safetensors, the generator; NAME.yaml, the settings of its run; and
NAME.md, its model card. `python -m fastvgan.generation.make_shipped` writes them.
"""

import re
from pathlib import Path

from fastvgan.errors import UserError
from fastvgan.runs.names import RUNS, newest_run

FOLDER = Path(__file__).with_name("shipped")
DEFAULT = "digits"
SHIPPED = {DEFAULT: FOLDER / "digits.safetensors"}
"""The file of each generator, by its name."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_generator(named: Path | None) -> Path:
    """Return the generator named by --run: a path, the name of a shipped generator, or a model on the Hub.

    A path that exists comes before a shipped generator of the same name, and a folder before a user of the Hub.

    Args:
        named: what the user passed; None for the newest run under ./runs, or the shipped generator without a run.

    Raises:
        UserError: nothing has this name, or it cannot be downloaded.
    """
    if named is None:
        return newest_run() or SHIPPED[DEFAULT]
    if named.exists():
        return named
    if str(named) in SHIPPED:
        return SHIPPED[str(named)]
    # A run that is missing, perhaps because of the current folder, is not looked for on the Hub.
    is_file = named.is_relative_to(RUNS) or named.suffix == ".safetensors" or named.parent.exists()
    if is_hub_id(str(named)) and not is_file:
        from fastvgan.generation.hub import download  # lazily: it imports torch

        return download(str(named))
    raise UserError(
        f"--run {named} does not exist; pass a run folder, a checkpoint folder, an exported .safetensors file, the "
        f"name of a generator that ships with fastvgan ({', '.join(SHIPPED)}), or a model on the Hugging Face Hub, "
        "as user/model"
    )


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a model on the Hub, "user/model"."""
    return _HUB_ID.fullmatch(name) is not None


def find_shipped_name(path: Path) -> str | None:
    """Return the name of the shipped generator in this file, or None."""
    return next((name for name, file in SHIPPED.items() if file == path), None)
