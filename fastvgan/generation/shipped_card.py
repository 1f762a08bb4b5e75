"""The model card of a generator that ships with fastvgan."""

import hashlib
import shlex
from typing import Any, NamedTuple

from fastvgan.data.digits.words import describe_captions
from fastvgan.runs.config import RunConfig

_VERSIONS = ("fastvgan", "python", "torch", "cuda", "triton")


class Facts(NamedTuple):
    """What a model card says about the training.

    Attributes:
        config: settings of the run.
        environment: content of the run's env.json.
        minutes: how long the training steps took.
        machine: the machine; None for what env.json says.
        evaluated: the weights that the scores are of.
    """

    config: RunConfig
    environment: dict[str, Any]
    minutes: float
    machine: str | None
    evaluated: str


def model_card(facts: Facts, data: bytes, evaluation: dict[str, Any]) -> str:
    """Return a model card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        facts: the training.
        data: content of the .safetensors file.
        evaluation: what `evaluate --json` wrote.
    """
    model, training = facts.config.model, facts.config.training
    words = describe_captions(model.vocabulary)
    protocol = [f"{name} {value}" for name, value in evaluation["protocol"].items() if name != "averaged weights of"]
    rows = {
        "command": f"`{_command(facts.environment)}`",
        "seed": training.seed,
        "steps": f"{training.steps:,} of {training.batch_size} clips, {facts.minutes:.0f} minutes",
        "machine": facts.machine or _machine(facts.environment),
        "versions": ", ".join(f"{name} {facts.environment[name]}" for name in _VERSIONS if facts.environment.get(name)),
        "file": f"{len(data) / 1e6:.1f} MB, sha256 {hashlib.sha256(data).hexdigest()}",
    }
    return f"""\
---
library_name: fastvgan
license: mit
pipeline_tag: text-to-video
---

# digits

A {model.family} generator of short videos of moving handwritten digits from a sentence: {model.frames} frames of \
{model.height}x{model.width} pixels. It ships with fastvgan.

```sh
fastvgan generate --run digits --text "a blue 5 moving left and right" --out five.gif
```

## Training

| | |
| --- | --- |
{chr(10).join(f"| {name} | {value} |" for name, value in rows.items())}

The settings are in digits.yaml beside this file. The data are the captioned digits of fastvgan, drawn from the \
handwriting of some writers; the scores compare with clips of the handwriting of others.

## Scores

By `fastvgan evaluate`, of {facts.evaluated} ({", ".join(protocol)}):

```
{_table(evaluation["table"])}
```

## Limits

- A sentence has to {words}. Other words are refused.
- The model knows one digit per clip, on a black background. {_length(facts.config)}
- Held-out captions are combinations of words that training never showed; paraphrases have other phrasings.

## Licence

MIT, as fastvgan. The handwriting is that of the Optical Recognition of Handwritten Digits data set (Alpaydin and
Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0).
"""


def _command(environment: dict[str, Any]) -> str:
    """Return the command of a run as a user types it, without the folder that it wrote to."""
    arguments = list(map(str, environment["command"][1:]))  # the first is a path of the machine
    if arguments[:1] == ["train"]:
        del arguments[0]
    kept: list[str] = []
    for place, argument in enumerate(arguments):
        if argument.partition("=")[0] != "--run-dir" and arguments[place - 1 : place] != ["--run-dir"]:
            kept.append(argument)
    return f"fastvgan train {shlex.join(kept)}".strip()


def _machine(environment: dict[str, Any]) -> str:
    threads = environment.get("threads")
    return environment.get("gpu") or f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def _length(config: RunConfig) -> str:
    frames = config.model.frames
    if config.model.family == "recurrent":
        return f"`--frames` makes clips of other lengths than the {frames} frames of training, without a score."
    return f"Clips have {frames} frames."


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the table of an evaluation as text."""
    from fastvgan.metrics.evaluation import Row
    from fastvgan.metrics.intervals import Interval
    from fastvgan.metrics.table import text_table

    def cell(value: Any) -> Any:
        return Interval(**value) if isinstance(value, dict) else value

    return text_table([Row(**{name: cell(value) for name, value in row.items()}) for row in rows])
