"""Ship a run's generator with the package: `python -m fastvgan.generation.make_shipped RUN EVALUATION`."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from pydantic import Field

from fastvgan.command_line import parse, run_command
from fastvgan.errors import UserError
from fastvgan.files.atomic import check_writable, whole
from fastvgan.generation.shipped import DEFAULT, SHIPPED
from fastvgan.generation.shipped_card import Facts, model_card
from fastvgan.runs.config import RunConfig, read_config
from fastvgan.settings import Settings

if TYPE_CHECKING:
    from fastvgan.generation.generator import VideoGenerator

_MOST_BYTES = 6_000_000
_JOINT = ("joint", "held_out_joint", "paraphrased_joint")


class Arguments(Settings):
    """Copy the generator of a run of the digits into the package, which then makes clips without a run.

    Writes the weights, the run's settings and the model card, after checking that the evaluation is of these weights
    and that its scores are good.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    evaluation: tyro.conf.Positional[Path]
    """What `fastvgan evaluate --run RUN --json EVALUATION` wrote. With --half, the file that this command writes can be
    evaluated as well, to call this command again with its scores."""
    half: bool = False
    """Store the weights in half precision. They are read back as float32."""
    least: float = Field(0.8, ge=0, le=1)
    """Least share of clips that show digit, colour and motion of their captions, also of held-out captions and
    paraphrases."""
    machine: str | None = None
    """The machine that trained, for the model card; by default the GPU, or the number of threads."""
    out: Path = SHIPPED[DEFAULT].parent
    """Folder to write to; by default that of the package."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.generation.make_shipped", arguments)
    config = read_config(parsed.run / "config.yaml")
    if config.data.data != DEFAULT:
        raise UserError(f"{parsed.run} was trained on {config.data.data}; pass a run of the digits")
    evaluation = _read_json(parsed.evaluation, "what `evaluate --json` wrote")
    environment = _read_json(parsed.run / "env.json", "a whole run folder")
    _check_scores(parsed, evaluation)
    target = parsed.out / SHIPPED[DEFAULT].name
    check_writable(target)

    from fastvgan.generation.loading import load

    generator = load(parsed.run)
    data = _file_of(generator, parsed.half)
    evaluated = _check_evaluated(parsed, evaluation, generator, data)
    facts = Facts(config, environment, _minutes(parsed.run, config), parsed.machine, evaluated)
    card = model_card(facts, data, evaluation)
    for path, content in ((target.with_suffix(".yaml"), config.to_yaml()), (target.with_suffix(".md"), card)):
        with whole(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    with whole(target) as temporary:
        temporary.write_bytes(data)
    print(f"{target}: {len(data) / 1e6:.1f} MB")


def _read_json(path: Path, wanted: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error}); pass {wanted}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; pass {wanted}")
    return found


def _check_scores(parsed: Arguments, evaluation: dict[str, Any]) -> None:
    """Check that the captions are matched, and that nothing warns."""
    scores = evaluation.get("scores")
    if not isinstance(scores, dict) or "joint" not in scores:
        raise UserError(f"{parsed.evaluation} has no score `joint`; pass what `evaluate --json` wrote for the digits")
    low = [f"{name} {scores[name]:.1%}" for name in _JOINT if name in scores and scores[name] < parsed.least]
    if low:
        raise UserError(
            f"{parsed.evaluation}: {', '.join(low)} below {parsed.least:.1%}; train longer, or pass a lower --least"
        )
    if evaluation.get("warnings"):
        raise UserError(f"{parsed.evaluation} has a warning: {evaluation['warnings'][0]}; ship a better run")


def _file_of(generator: "VideoGenerator", half: bool) -> bytes:
    """Return the content of the .safetensors file of a generator."""
    from fastvgan.files.tensor_file import tensor_bytes

    tensors = generator.network.state_dict()
    if half:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
        if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise UserError(f"--half: {bad[0]} has values beyond half precision; leave --half out")
    data = tensor_bytes(tensors, {"fastvgan": generator.config.model_dump_json()})
    if len(data) > _MOST_BYTES:
        raise UserError(
            f"the generator takes {len(data) / 1e6:.1f} MB, and the package at most {_MOST_BYTES / 1e6:.0f}; pass "
            "--half, or train a smaller one"
        )
    return data


def _check_evaluated(parsed: Arguments, evaluation: dict[str, Any], generator: "VideoGenerator", data: bytes) -> str:
    """Return which weights were evaluated: those to be written, or those before rounding to half precision."""
    assert generator.path is not None  # `load` sets it
    hashed = str(evaluation.get("protocol", {}).get("sha256"))
    if hashlib.sha256(data).hexdigest().startswith(hashed):
        return "these weights"
    if not hashlib.sha256(generator.path.read_bytes()).hexdigest().startswith(hashed):
        raise UserError(
            f"{parsed.evaluation} is not of {generator.path} (its sha256 is {hashed}); evaluate the run again with "
            f"`fastvgan evaluate --run {parsed.run} --json {parsed.evaluation}`"
        )
    return "the weights before rounding to half precision" if parsed.half else "these weights"


def _minutes(run: Path, config: RunConfig) -> float:
    """Return how long the training steps took, also those of earlier parts of a resumed run."""
    path = run / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        steps = [0, *(line["step"] for line in lines)]
        per_second = [line["videos_per_second"] for line in lines]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; pass a whole run folder") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} does not say how fast the steps were ({error}); pass a whole run folder") from error
    clips = [config.training.batch_size * (end - begin) for begin, end in zip(steps, steps[1:], strict=False)]
    return sum(count / speed for count, speed in zip(clips, per_second, strict=True)) / 60


if __name__ == "__main__":
    run_command(main)
