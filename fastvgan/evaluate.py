"""Evaluate a trained generator and compare its scores with those of real clips: `python -m fastvgan.evaluate`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import Field

from fastvgan.command_line import parse, run_command
from fastvgan.errors import UserError
from fastvgan.machine.neighbours import fit_threads
from fastvgan.settings import Seed, Settings

if TYPE_CHECKING:
    import torch

    from fastvgan.data.source import Source
    from fastvgan.export import VideoGenerator
    from fastvgan.metrics.evaluation import Evaluation
    from fastvgan.metrics.prompts import TrainingDraws
    from fastvgan.models import Condition, ModelConfig
    from fastvgan.runs.config import DataConfig, RunConfig


class Arguments(Settings):
    """Evaluate a trained generator and compare its scores with those of real clips."""

    run: Path | None = None
    """Run folder, checkpoint folder or exported .safetensors file; by default the newest run under runs/."""
    data: str | None = None
    """Data to compare with, as `train` takes it; by default what the run was trained on."""
    split: str = "auto"
    """Part of the data that real clips come from: `train`, `test`, or `auto` (test if the data has that split)."""
    clips: int = Field(960, ge=16, le=10**6)
    """How many generated clips are compared with as many real ones."""
    frames: int | None = Field(None, ge=4, le=10_000)
    """Length in frames (recurrent family; by default the training length)."""
    seed: Seed = 0
    """Seed of conditions, real clips and noise."""
    text_encoder: Path | None = None
    """Folder of the text model that the run was trained with, if it has moved since."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the generator runs."""
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """File to write the results to."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.evaluate", arguments)
    from fastvgan.export import load
    from fastvgan.files.atomic import check_writable, whole
    from fastvgan.machine.device import pick_device, pick_implementations
    from fastvgan.machine.memory import check_memory
    from fastvgan.metrics.evaluation import evaluation_bytes
    from fastvgan.metrics.table import json_values, text_table
    from fastvgan.runs.names import find_run

    pick_implementations()
    run = find_run(parsed.run)
    device = pick_device(parsed.device)
    generator = load(run, device, parsed.text_encoder)
    if parsed.json_path is not None:
        check_writable(parsed.json_path)
    model, config = _model(generator, parsed.frames), _config(run)
    check_memory(
        evaluation_bytes(model, parsed.clips),
        f"an evaluation with --clips {parsed.clips} of {model.frames} frames",
        "use fewer or shorter clips",
    )
    data = _data(run, config, model, parsed.data)
    split = _split(parsed.split, data)
    source, reference = _sources(data, model, split)
    if device.type == "cpu" and (sentence := fit_threads()):
        print(sentence, file=sys.stderr)
    evaluation = _evaluate(generator, model, source, reference, _seen(config, source), parsed)
    protocol = _protocol(parsed, model, generator, data, split)
    print(text_table(evaluation.rows))
    print(", ".join(f"{name} {value}" for name, value in protocol.items()))
    for sentence in evaluation.warnings:
        print(f"warning: {sentence}")
    if parsed.json_path is not None:
        values = {"protocol": protocol, **json_values(evaluation)}
        with whole(parsed.json_path) as results:
            results.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _model(generator: "VideoGenerator", frames: int | None) -> "ModelConfig":
    """Return the generator's configuration with the requested clip length."""
    model = generator.config
    if frames not in (None, model.frames) and model.family != "recurrent":
        raise UserError(
            f"--frames {frames}: a {model.family} model makes clips of {model.frames} frames only; leave --frames out"
        )
    return model.model_copy(update={"frames": frames or model.frames})


def _config(run: Path) -> "RunConfig | None":
    """Return the configuration of the run that a path belongs to, or None without a config.yaml."""
    from fastvgan.runs.config import read_config

    run = run.resolve()
    inside = run.parent.name in ("export", "checkpoints")  # export/best.safetensors, checkpoints/step-N
    path = (run.parent.parent if inside else run) / "config.yaml"
    return read_config(path) if path.is_file() else None


def _data(run: Path, config: "RunConfig | None", model: "ModelConfig", name: str | None) -> "DataConfig":
    """Return the data of that name, by default the training data of the run."""
    from fastvgan.runs.config import DataConfig

    if config is not None and name in (None, config.data.data):
        return config.data
    if name is None and not _fits_digits(model):
        raise UserError(f"the training data of {run} are unknown without its config.yaml; pass them with --data")
    return DataConfig(data=name or "digits")


def _seen(config: "RunConfig | None", source: "Source") -> "TrainingDraws | None":
    """Return which clips of the digits the run was trained on, or None if its configuration is missing."""
    from fastvgan.metrics.prompts import TrainingDraws

    return None if config is None else TrainingDraws(config.training.seed, config.training.count_clips(source.size))


def _fits_digits(model: "ModelConfig") -> bool:
    """Return whether a model's words and classes are those of the digits; False if it has neither."""
    from fastvgan.data.digits import DigitsSource
    from fastvgan.models.vocabulary import Vocabulary

    words = Vocabulary.of(DigitsSource(channels=model.channels).captions).words
    fits = {"text": list(model.vocabulary) == words, "class": model.class_names == DigitsSource.classes}
    known = [fits[part] for part in model.condition if part in fits]
    return bool(known) and all(known)


def _split(name: str, data: "DataConfig") -> str:
    if name == "auto":
        return "test" if data.data in ("digits", "stacked-digits") or data.test_share else "train"
    return name


def _sources(data: "DataConfig", model: "ModelConfig", split: str) -> tuple["Source", "Source"]:
    """Return the source of the training data, and the source of the real clips to compare with."""
    from fastvgan.data import open_source

    if data.data != "digits":
        source = open_source(data, model)
        return source, source if split == "train" else open_source(data, model, split=split)
    # The real clips include those of held-out captions.
    every = data.model_copy(update={"hold_out": 0.0})
    return open_source(data, model), open_source(every, model, split=split)


def _evaluate(
    generator: "VideoGenerator",
    model: "ModelConfig",
    source: "Source",
    reference: "Source",
    seen: "TrainingDraws | None",
    parsed: Arguments,
) -> "Evaluation":
    from tqdm import tqdm

    from fastvgan.metrics.evaluation import Evaluator
    from fastvgan.models import Condition
    from fastvgan.pixels import to_uint8

    device = next(generator.network.parameters()).device
    evaluator = Evaluator(model, source, reference, parsed.clips, parsed.seed, seen)
    with tqdm(desc="generating", unit=" clips", disable=None, leave=False) as bar:

        def generate(z: "torch.Tensor", condition: "Condition | None") -> "torch.Tensor":
            bar.update(len(z))
            if condition is not None:
                condition = Condition(*(None if part is None else part.to(device) for part in condition))
            clips = generator.network(z.to(device), condition)
            if not clips.isfinite().all():
                raise UserError(f"{generator.path} makes NaN or infinite values; pass another checkpoint with --run")
            return to_uint8(clips)

        return evaluator.full(generate, lambda n, seed: generator.network.noise(n, seed, model.frames))


def _protocol(
    parsed: Arguments, model: "ModelConfig", generator: "VideoGenerator", data: "DataConfig", split: str
) -> dict[str, str | float]:
    """Return the settings that must agree for two tables to be comparable, and the hashes of the files used."""
    from fastvgan.metrics.oracle import ORACLE

    assert generator.path is not None  # `load` sets it
    return {
        "clips": parsed.clips,
        "frames": model.frames,
        "seed": parsed.seed,
        "data": data.data,
        "split": split,
        **({"held out": data.hold_out, "by seed": data.hold_out_seed} if data.data == "digits" else {}),
        "averaged weights of": str(generator.path),
        "sha256": _hash(generator.path),
        "oracle": _hash(ORACLE) if data.data == "digits" else "none",
    }


def _hash(path: Path) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of a file, or of a checkpoint's tensors."""
    file = next(iter(sorted(path.glob("*.safetensors")))) if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    run_command(main)
