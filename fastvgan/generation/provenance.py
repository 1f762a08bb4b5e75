"""What is known about the training of a stored generator, for its model card."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastvgan.errors import UserError
from fastvgan.generation.shipped import find_shipped_name
from fastvgan.runs.names import run_of

_EVALUATIONS = "evaluation.jsonl"
_STEP = re.compile(r"step-(\d+)")


class Provenance(NamedTuple):
    """Facts on a generator's training; each may be unknown.

    Attributes:
        training: values by name, such as the step and the settings of the run.
        scores: of the run's evaluation at this step, by name.
        license: the licence's identifier, or None.
    """

    training: dict[str, Any]
    scores: dict[str, float]
    license: str | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as metadata of a .safetensors file; `find_provenance` reads it."""
        texts = {
            "training": json.dumps(self.training),
            "scores": json.dumps(self.scores),
            "license": self.license or "",
        }
        return {name: text for name, text in texts.items() if text not in ("", "{}")}


def find_provenance(path: Path | None, facts: Mapping[str, str]) -> Provenance:
    """Find the facts in a generator's file, or in the run folder that has it.

    Args:
        path: file or checkpoint folder, or None.
        facts: the file's metadata.
    """
    training, scores = _parse(facts.get("training")), _parse(facts.get("scores"))
    is_ours = path is not None and find_shipped_name(path) is not None
    license = facts.get("license") or ("mit" if is_ours else None)
    if training or scores or path is None:
        return Provenance(training, scores, license)
    step = facts.get("step")
    if step is None and (checkpoint := _STEP.fullmatch(path.name)) is not None:
        step = checkpoint[1]
    run = run_of(path)
    settings = next((one for one in (run / "config.yaml", path.with_suffix(".yaml")) if one.is_file()), None)
    known: dict[str, Any] = {} if step is None else {"step": int(step) if step.isdecimal() else step}
    if "score" in facts:
        known["score that selected it"] = facts["score"]
    if settings is not None:
        known |= _settings(settings)
    return Provenance(known, {} if step is None else _scores(run / _EVALUATIONS, step), license)


def _parse(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}  # metadata of another program
    return found if isinstance(found, dict) else {}


def _settings(path: Path) -> dict[str, Any]:
    from fastvgan.runs.config import read_config  # lazily: it imports PyYAML

    try:
        run = read_config(path)
    except UserError:
        return {}  # of another program or version
    training = run.training
    return {
        "data": Path(run.data.data).name,  # the folders above it are nobody's business
        "objective": training.objective,
        "batch size": training.batch_size,
        "learning rates of G and D": f"{training.lr_generator:g}, {training.lr_discriminator:g}",
        "precision": training.precision,
        "seed": training.seed,
    }


def _scores(path: Path, step: str) -> dict[str, float]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}  # the run was not evaluated
    for line in reversed(lines):
        values = _parse(line)
        if str(values.get("step")) == step:
            return {
                name: float(value)
                for name, value in values.items()
                if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
            }
    return {}
