"""Model cards: the README.md of a saved generator, in the form that the Hugging Face Hub reads."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastvgan.models import ModelConfig

_TASKS = {"image": "image-to-video", "text": "text-to-video"}
_FAMILIES = {"conv3d": "3D convolutions", "recurrent": "a ConvLSTM over frames"}
_MOST_WORDS = 60
_DIGITS = "a green 3 moving left and right"


class CardFacts(NamedTuple):
    """What a model card says besides the configuration.

    Attributes:
        name: how `fastvgan.from_pretrained` finds the generator, such as "user/model".
        weights: number of weights.
        training: facts of the training by name; empty if they are not known.
        scores: results of the training's last evaluation of these weights, by name; empty if they are not known.
        license: the licence's identifier on the Hub, such as "mit", or None.
    """

    name: str
    weights: int
    training: Mapping[str, Any] = {}
    scores: Mapping[str, float] = {}
    license: str | None = None


def model_card(config: ModelConfig, facts: CardFacts) -> str:
    """Return the text of a model card: metadata for the Hub, then Markdown."""
    sections = [_metadata(config, facts), _summary(config, facts), _use(config, facts), _configuration(config)]
    sections += [_training(facts), _licence(facts)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(config: ModelConfig, facts: CardFacts) -> str:
    tasks = [task for part, task in _TASKS.items() if part in config.condition]
    values: dict[str, Any] = {"library_name": "fastvgan", "tags": ["video-generation", "gan", config.family]}
    if facts.license is not None:
        values = {"license": facts.license, **values}
    if tasks:
        values["pipeline_tag"] = tasks[0]
    # A JSON value is a YAML value, too.
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _summary(config: ModelConfig, facts: CardFacts) -> str:
    follows = {"text": "a sentence", "class": "a class", "image": "a first frame"}
    source = " and ".join(follows[part] for part in config.condition) or "noise"
    size = f"{config.frames} frames of {config.height}x{config.width} pixels"
    colours = "grey" if config.channels == 1 else "RGB"
    longer = ", or of another length" if config.family == "recurrent" else ""
    return (
        f"# {facts.name}\n\nA generator of short videos from {source}: {size}, {colours}{longer}. It was trained as a "
        f"generative adversarial network by the library fastvgan, consists of {_FAMILIES[config.family]}, and has "
        f"{facts.weights:,} weights."
    )


def _use(config: ModelConfig, facts: CardFacts) -> str:
    arguments = []
    if "text" in config.condition:
        # Which words make a sentence is known for the digits alone.
        is_of_digits = set(_DIGITS.split()) <= set(config.vocabulary)
        arguments.append(json.dumps(_DIGITS if is_of_digits else "a sentence", ensure_ascii=False))
    arguments.append("seed=range(4)")
    if "image" in config.condition:
        arguments.append('image="first.png"')
    if "class" in config.condition:
        arguments.append(f"label={json.dumps(config.class_names[0], ensure_ascii=False)}")
    encoder = "" if config.text_encoder is None else ', text_encoder="FOLDER"'
    lines = [
        "## How to use it",
        "",
        "```python",
        "import fastvgan",
        "",
        f'generator = fastvgan.from_pretrained("{facts.name}"{encoder})',
        f"videos = generator({', '.join(arguments)})",
        'videos.save("clips.gif")',
        "```",
    ]
    if "text" in config.condition and config.vocabulary and config.text_encoder is None:
        more = f" and {len(config.vocabulary) - _MOST_WORDS} more" if len(config.vocabulary) > _MOST_WORDS else ""
        words = ", ".join(config.vocabulary[:_MOST_WORDS])
        lines += ["", f"Sentences consist of the words of the training captions: {words}{more}."]
    if config.text_encoder is not None:
        lines += [
            "",
            f"It reads sentences by the frozen text model `{config.text_encoder}` (SHA-256 "
            f"`{config.text_fingerprint}`), which is not in this repository: FOLDER is the folder that has it.",
        ]
    if config.class_names:
        lines += ["", f"Classes: {', '.join(config.class_names)}."]
    return "\n".join(lines)


def _configuration(config: ModelConfig) -> str:
    hidden = {"vocabulary", "class_names", "text_fingerprint"}
    defaults = ModelConfig().model_dump(mode="json")
    rows = [
        f"| {name} | {_cell(value)} |"
        for name, value in config.model_dump(mode="json").items()
        if name not in hidden and (value != defaults[name] or name in ("family", "condition", "frames"))
    ]
    return "\n".join(
        ["## Configuration", "", "Settings that differ from fastvgan's defaults; `config.json` has all.", ""]
        + ["| setting | value |", "| --- | --- |", *rows]
    )


def _training(facts: CardFacts) -> str:
    lines = []
    if facts.training:
        lines += ["## Training", "", "| fact | value |", "| --- | --- |"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in facts.training.items()]
    if facts.scores:
        lines += [
            *([""] if lines else []),
            "## Evaluation",
            "",
            "By the training's own evaluation of these weights:",
            "",
        ]
        lines += ["| score | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.4g} |" for name, value in facts.scores.items()]
    return "\n".join(lines)


def _licence(facts: CardFacts) -> str:
    text = f"`{facts.license}`" if facts.license is not None else "Not stated; ask the person who published it."
    return f"## Licence\n\n{text}"


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|") or "none"
