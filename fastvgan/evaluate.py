"""Evaluate a trained generator and compare its scores with those of real clips: `python -m fastvgan.evaluate`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field

from fastvgan.command_line import parse, run_command
from fastvgan.errors import UserError
from fastvgan.machine.neighbours import fit_threads
from fastvgan.machine.optional import check_installed
from fastvgan.metrics.detectors.flags import (
    PUBLISHED_CLIPS,
    PUBLISHED_FRAMES,
    DetectorFlags,
    classifier_view,
    detector_views,
)
from fastvgan.runs.names import DRAWN, are_same_data
from fastvgan.settings import Seed, Settings

if TYPE_CHECKING:
    import torch

    from fastvgan.data.source import Source
    from fastvgan.generation.generator import VideoGenerator
    from fastvgan.metrics.detectors.flags import View
    from fastvgan.metrics.evaluation import Evaluation, Generate
    from fastvgan.metrics.prompts import TrainingDraws
    from fastvgan.models import Condition, ModelConfig
    from fastvgan.runs.config import DataConfig, RunConfig


_CLIPS = 960
_REMARKS = 20  # on the data, at most: each clip may have one


class _OwnFlags(Settings):
    """Flags of every evaluation."""

    run: Path | None = None
    """Run folder, checkpoint folder, exported .safetensors file, `digits`, which ships with fastvgan, or USER/MODEL of
    the Hugging Face Hub; by default the newest run under runs/."""
    data: str | None = None
    """Data to compare with, as `train` takes it; by default what the run was trained on."""
    root: str | None = None
    """The folder of a manifest's files if it differs from the manifest's own, as for `train`."""
    split: str = "auto"
    """Part of the data that real clips come from: `train`, `test`, or `auto` (test if the data has that split)."""
    clips: int | None = Field(None, ge=16, le=10**6)
    """How many generated clips are compared with as many real ones; by default 960, or all clips of smaller data,
    and 2,048 with a detector or classifier."""
    frames: int | None = Field(None, ge=4, le=10_000)
    """Length in frames (recurrent family; by default the training length, and 16 with a detector or classifier)."""
    seed: Seed = 0
    """Seed of conditions, real clips and noise."""
    text_encoder: Path | None = None
    """Folder of the text model that the run was trained with, if it has moved since."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the generator runs."""
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """File to write the results to."""


class Arguments(DetectorFlags, _OwnFlags):
    """Evaluate a trained generator and compare its scores with those of real clips."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; see `Arguments`."""
    parsed = parse(Arguments, "python -m fastvgan.evaluate", arguments)
    check_installed("numpy", "evaluate", "an evaluation")
    views, classifier = detector_views(parsed), classifier_view(parsed)  # checks them before torch is imported
    from fastvgan.files.atomic import check_writable, whole
    from fastvgan.generation.loading import load
    from fastvgan.generation.shipped import find_generator
    from fastvgan.machine.device import pick_device, pick_implementations
    from fastvgan.metrics.table import json_values
    from fastvgan.runs.names import find_run

    pick_implementations()
    run = find_run(None) if parsed.run is None else find_generator(parsed.run)
    device = pick_device(parsed.device)
    generator = load(run, device, parsed.text_encoder)
    if parsed.json_path is not None:
        check_writable(parsed.json_path)
    model, config = _model(generator, parsed), _config(run)
    if parsed.has_detectors:
        evaluation, protocol = _detector_scores(parsed, generator, model, config, views, classifier)
    else:
        evaluation, protocol = _own_scores(parsed, generator, model, config)
    for sentence in evaluation.warnings:
        print(f"warning: {sentence}")
    if parsed.json_path is not None:
        values = {"protocol": protocol, **json_values(evaluation)}
        with whole(parsed.json_path) as results:
            results.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _own_scores(
    parsed: Arguments, generator: "VideoGenerator", model: "ModelConfig", config: "RunConfig | None"
) -> tuple["Evaluation", dict[str, Any]]:
    """Print the scores that need no file, and return them with their protocol."""
    from fastvgan.machine.memory import check_memory
    from fastvgan.metrics.evaluation import evaluation_bytes
    from fastvgan.metrics.oracle import ORACLE
    from fastvgan.metrics.prompts import fit_count
    from fastvgan.metrics.table import text_table

    clips = parsed.clips or _CLIPS
    check_memory(
        evaluation_bytes(model, clips),
        f"an evaluation with --clips {clips} of {model.frames} frames",
        "use fewer or shorter clips",
    )
    data, split, source, reference = _open(parsed, generator, model, config)
    source = _open_training_clips(config, data, model) or source
    clips = parsed.clips or fit_count(reference, clips)
    evaluation = _evaluate(generator, model, source, reference, _seen(config, source), clips, parsed.seed)
    protocol = _protocol(parsed.seed, clips, model, generator, data, split)
    protocol["oracle"] = _hash(ORACLE) if data.data == "digits" else "none"
    print(text_table(evaluation.rows))
    print(", ".join(f"{name} {value}" for name, value in protocol.items()))
    return evaluation, protocol


def _detector_scores(
    parsed: Arguments,
    generator: "VideoGenerator",
    model: "ModelConfig",
    config: "RunConfig | None",
    views: "list[View]",
    classifier: "View | None",
) -> tuple["Evaluation", dict[str, Any]]:
    """Print the scores of detectors and of the classifier, and return them with their protocol."""
    from fastvgan.machine.device import use_precision
    from fastvgan.metrics.detectors.cache import FeatureCache
    from fastvgan.metrics.detectors.comparison import compare, probe
    from fastvgan.metrics.detectors.detector import Detector
    from fastvgan.metrics.detectors.streams import Streams
    from fastvgan.metrics.prompts import check_count
    from fastvgan.metrics.table import significant, text_table

    use_precision("fp32")  # features in TF32 would differ from published ones
    device = next(generator.network.parameters()).device
    detectors = [Detector(view, device) for view in views]
    judge = None if classifier is None else Detector(classifier, device)
    networks = [*detectors, *([judge] if judge else [])]
    clips = parsed.clips or PUBLISHED_CLIPS
    data, split, _, reference = _open(parsed, generator, model, config)
    check_count(reference, clips, parsed.clips is None)
    streams = Streams(model, reference, clips, parsed.seed, parsed.detector_batch)
    probe(networks, streams)
    facts = _real_facts(model, data, split, reference, device)
    comparison = compare(
        detectors,
        judge,
        streams,
        (_generate_by(generator), lambda numbers, seed: generator.network.noise(numbers, seed, model.frames)),
        FeatureCache(parsed.cache),
        {**facts, "clips": clips, "seed": parsed.seed},
        parsed.resamples,
    )
    protocol = _protocol(parsed.seed, clips, model, generator, data, split)
    protocol |= {"fingerprint": reference.fingerprint.checksum[:12], "resamples": parsed.resamples}
    print(text_table(comparison.evaluation.rows, significant))
    if detectors:
        print(f"distances of real clips: of {clips // 2:,} from {clips // 2:,} others")
    print(", ".join(f"{name} {value}" for name, value in protocol.items()))
    for network in networks:
        name = network.view.name
        print(f"{name}: {network.describe()}; real features {comparison.sources[name]}")
    protocol["real clips"] = facts
    protocol["detectors"] = {network.view.name: network.protocol for network in detectors}
    protocol["classifier"] = None if judge is None else {judge.view.name: judge.protocol}
    return comparison.evaluation, protocol


def _open(
    parsed: Arguments, generator: "VideoGenerator", model: "ModelConfig", config: "RunConfig | None"
) -> tuple["DataConfig", str, "Source", "Source"]:
    """Return the data, the split, the source of training clips and the source of real clips to compare with."""
    assert generator.path is not None  # `load` sets it
    data = _data(generator.path, config, model, parsed.data, parsed.root)
    if parsed.root is not None and data.data in DRAWN:
        raise UserError(f"--root {parsed.root} has no effect on {data.data}, which are drawn; leave it out")
    split = _split(parsed.split, data)
    source, reference = _sources(data, model, split)
    _print_remarks(list(dict.fromkeys([*source.remarks, *reference.remarks])))
    if next(generator.network.parameters()).device.type == "cpu" and (sentence := fit_threads()):
        print(sentence, file=sys.stderr)
    return data, split, source, reference


def _print_remarks(remarks: list[str]) -> None:
    for remark in remarks[:_REMARKS]:
        print(remark, file=sys.stderr)
    if len(remarks) > _REMARKS:
        print(f"remarks on the data that are not shown: {len(remarks) - _REMARKS}", file=sys.stderr)


def _model(generator: "VideoGenerator", parsed: Arguments) -> "ModelConfig":
    """Return the generator's configuration with the requested clip length."""
    model, frames = generator.config, parsed.frames
    if frames not in (None, model.frames) and model.family != "recurrent":
        raise UserError(
            f"--frames {frames}: a {model.family} model makes clips of {model.frames} frames only; leave --frames out"
        )
    if frames is None and parsed.has_detectors and model.family == "recurrent":
        frames = PUBLISHED_FRAMES
    return model.model_copy(update={"frames": frames or model.frames})


def _config(run: Path) -> "RunConfig | None":
    """Return the configuration of the run that a path belongs to, or None without a config.yaml."""
    from fastvgan.generation.shipped import find_shipped_name
    from fastvgan.runs.config import read_config
    from fastvgan.runs.names import run_of

    path = run.with_suffix(".yaml") if find_shipped_name(run) else run_of(run) / "config.yaml"
    return read_config(path) if path.is_file() else None


def _data(
    run: Path, config: "RunConfig | None", model: "ModelConfig", name: str | None, root: str | None
) -> "DataConfig":
    """Return the data of that name and root, by default the training data of the run."""
    from fastvgan.runs.config import DataConfig

    if config is not None and (name is None or are_same_data(name, config.data.data)):
        return config.data if root is None else config.data.model_copy(update={"root": root})
    if name is None and not _fits_digits(model):
        raise UserError(f"the training data of {run} are unknown without its config.yaml; pass them with --data")
    if name is None or name in DRAWN or config is None or config.data.data in DRAWN:
        return DataConfig(data=name or "digits", root=root)
    # Other clips are cut as those of the run are, and all of their frames are compared with.
    changes = {"data": name, "decoder": "auto", "root": root, "share": 1.0, "test_share": 0.0}
    return config.data.model_copy(update=changes)


def _open_training_clips(config: "RunConfig | None", data: "DataConfig", model: "ModelConfig") -> "Source | None":
    """Open the run's training clips, if `data` are other clips; return None if they are unknown or cannot be read."""
    from fastvgan.data import open_source

    if config is None or config.data.data == data.data or {config.data.data, data.data} & set(DRAWN):
        return None
    try:
        return open_source(config.data, model)
    except UserError as error:
        print(
            f"warning: copies are searched among the clips of {data.data}, since the run's training data cannot be "
            f"used: {error}",
            file=sys.stderr,
        )
        return None


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
        return "test" if data.data in DRAWN or data.test_share else "train"
    return name


def _sources(data: "DataConfig", model: "ModelConfig", split: str) -> tuple["Source", "Source"]:
    """Return the source of the training data, and the source of the real clips to compare with."""
    from fastvgan.data import open_source

    if data.data != "digits":
        from fastvgan.data.clips import ClipSource

        source = open_source(data, model)
        if split == "train":
            return source, source
        if split == "test" and isinstance(source, ClipSource) and source.open_test is not None:
            return source, source.open_test()  # opening the data again would decode a whole folder again
        return source, open_source(data, model, split=split)
    # The real clips include those of held-out captions.
    every = data.model_copy(update={"hold_out": 0.0})
    return open_source(data, model), open_source(every, model, split=split)


def _evaluate(
    generator: "VideoGenerator",
    model: "ModelConfig",
    source: "Source",
    reference: "Source",
    seen: "TrainingDraws | None",
    clips: int,
    seed: int,
) -> "Evaluation":
    from tqdm import tqdm

    from fastvgan.metrics.evaluation import Evaluator

    evaluator = Evaluator(model, source, reference, clips, seed, seen)
    generate = _generate_by(generator)
    with tqdm(desc="generating", unit=" clips", disable=None, leave=False) as bar:

        def generate_and_count(z: "torch.Tensor", condition: "Condition | None") -> "torch.Tensor":
            bar.update(len(z))
            return generate(z, condition)

        return evaluator.full(generate_and_count, lambda n, seed: generator.network.noise(n, seed, model.frames))


def _generate_by(generator: "VideoGenerator") -> "Generate":
    """Return the function that generates clips, uint8 (n, T, H, W, C) on the CPU."""
    import torch

    from fastvgan.files.pixels import to_uint8
    from fastvgan.models import Condition

    device = next(generator.network.parameters()).device

    @torch.no_grad()
    def generate(z: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        if condition is not None:
            condition = Condition(*(None if part is None else part.to(device) for part in condition))
        clips = generator.network(z.to(device), condition)
        if not clips.isfinite().all():
            raise UserError(f"{generator.path} makes NaN or infinite values; pass another checkpoint with --run")
        return to_uint8(clips)

    return generate


def _protocol(
    seed: int, clips: int, model: "ModelConfig", generator: "VideoGenerator", data: "DataConfig", split: str
) -> dict[str, Any]:
    """Return the settings that must agree for two tables to be comparable, and the hashes of the files used."""
    assert generator.path is not None  # `load` sets it
    return {
        "clips": clips,
        "frames": model.frames,
        "seed": seed,
        "data": data.data,
        "split": split,
        **({"held out": data.hold_out, "by seed": data.hold_out_seed} if data.data == "digits" else {}),
        "averaged weights of": str(generator.path),
        "sha256": _hash(generator.path),
    }


def _real_facts(
    model: "ModelConfig", data: "DataConfig", split: str, reference: "Source", device: "torch.device"
) -> dict[str, Any]:
    """Return what features of real clips depend on besides the number of clips, the seed and the detector."""
    import torch

    return {
        "fingerprint": reference.fingerprint.checksum,
        "split": split,
        "shape": [model.frames, model.height, model.width, model.channels],
        "decoder": reference.decoder.replace(":", " ").split()[0],
        **{name: getattr(data, name) for name in ("stride", "max_stride", "crop", "mirror", "reverse")},
        "device": device.type,
        "torch": torch.__version__,
    }


def _hash(path: Path) -> str:
    """Return the first 12 hexadecimal digits of the sha256 of a file, or of a checkpoint's tensors."""
    file = next(iter(sorted(path.glob("*.safetensors")))) if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    run_command(main)
