"""The comparison of generated with real clips by detectors: features, scores with intervals, and warnings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from fastvgan.errors import UserError
from fastvgan.machine.memory import check_memory
from fastvgan.metrics.detectors.cache import FeatureCache
from fastvgan.metrics.detectors.detector import Detector
from fastvgan.metrics.detectors.distances import (
    frechet_interval,
    inception_interval,
    jedi_interval,
    kernel_interval,
)
from fastvgan.metrics.detectors.flags import PUBLISHED_CLIPS, PUBLISHED_FRAMES
from fastvgan.metrics.detectors.streams import Noise, Streams
from fastvgan.metrics.evaluation import Evaluation, Generate, Row
from fastvgan.metrics.intervals import Interval


@dataclass(frozen=True)
class Comparison:
    """The scores, and what was read from the cache.

    Attributes:
        evaluation: the table, the scores by name, and warnings.
        sources: for each detector, whether its features of real clips were computed, or the file with them.
    """

    evaluation: Evaluation
    sources: dict[str, str]


def probe(networks: Sequence[Detector], streams: Streams) -> None:
    """Check that networks take the clips, and that memory suffices, before `compare` starts.

    Raises:
        UserError: a network does not fit, or memory does not suffice.
    """
    model = streams.model
    for network in networks:
        network.probe((model.frames, model.height, model.width, model.channels), streams.batch_sizes())
    features = sum(network.features for network in networks)
    check_memory(
        2 * 4 * streams.clips * features + 5 * 8 * streams.clips**2,  # features of both sets, five kernel matrices
        f"a comparison of {streams.clips:,} clips",
        "use fewer --clips",
    )


def compare(
    detectors: Sequence[Detector],
    classifier: Detector | None,
    streams: Streams,
    generators: tuple[Generate, Noise],
    cache: FeatureCache,
    facts: Mapping[str, Any],
    resamples: int,
) -> Comparison:
    """Compare generated with real clips.

    Args:
        detectors: for distances; `probe` has accepted them.
        classifier: for the inception score; the same.
        streams: the clips.
        generators: the generator, and its noise.
        cache: holds features of real clips.
        facts: what the real clips depend on besides `streams`, as JSON values: the data, and how clips are cut.
        resamples: number of bootstrap resamples.

    Raises:
        UserError: a detector does not fit, or the data lacks the model's condition.
    """
    networks = [*detectors, *([classifier] if classifier else [])]
    # Generated clips come first, so that a condition that does not fit the model is noticed at once.
    made = _features(networks, streams.generate(*generators), streams.clips, "generated")
    if classifier is not None:
        _check_logits(classifier, made[classifier.view.name])
    real, sources = _real_features(networks, streams, cache, facts)
    rows, scores = [], {}
    for detector in detectors:
        own, other = (part[detector.view.name] for part in (made, real))
        found, values = _distances(detector, own, other, streams.seed, resamples)
        rows += found
        scores |= values
    if classifier is not None:
        name = classifier.view.name
        own, other = (inception_interval(part[name], streams.seed, resamples) for part in (made, real))
        rows.append(Row(f"{name}: inception score", own, other))
        scores[f"{name}.inception"] = own.value
    sentences = [*dict.fromkeys(cache.warnings), *_count_warnings(detectors, streams)]
    return Comparison(Evaluation(rows, scores, sentences), sources)


def _real_features(
    networks: Sequence[Detector], streams: Streams, cache: FeatureCache, facts: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the features of real clips by name, from the cache where it has them, and where each is from."""
    keys = {network.view.name: {**facts, "detector": network.facts} for network in networks}
    features, sources = {}, {}
    for name, key in keys.items():
        found = cache.read(key, streams.clips)
        if found is not None:
            features[name], sources[name] = found, f"read from {cache.path(key)}"
    missing = [network for network in networks if network.view.name not in features]
    if missing:
        made = _features(missing, streams.draw_real(), streams.clips, "real")
        for name, part in made.items():
            cache.write(keys[name], part)
            features[name], sources[name] = part, "computed"
    return features, sources


def _features(
    networks: Sequence[Detector], batches: Iterable[torch.Tensor], clips: int, kind: str
) -> dict[str, torch.Tensor]:
    """Return the features of all batches, float32 (clips, F), by the name of the network."""
    parts: dict[str, list[torch.Tensor]] = {network.view.name: [] for network in networks}
    with tqdm(total=clips, desc=f"{kind} clips", unit=" clips", disable=None, leave=False) as bar:
        for video in batches:
            for network in networks:
                parts[network.view.name].append(network(video, kind))
            bar.update(len(video))
    return {name: torch.cat(part) for name, part in parts.items()}


def _distances(
    detector: Detector, generated: torch.Tensor, real: torch.Tensor, seed: int, resamples: int
) -> tuple[list[Row], dict[str, float]]:
    """Return the rows of a detector's distances, and the distances by name; the real column compares two halves."""
    name, half = detector.view.name, len(real) // 2
    halves = real[:half], real[half : 2 * half]
    known = (", FVD", ", KVD") if detector.is_i3d else ("", "")
    intervals: dict[str, tuple[Interval, Interval]] = {}
    with tqdm(total=2 * resamples, desc=f"intervals of {name}", disable=None, leave=False) as bar:
        intervals["frechet"] = (
            frechet_interval(generated, real, seed, resamples, bar.update),
            frechet_interval(*halves, seed, resamples, bar.update),
        )
    intervals["kernel"] = kernel_interval(generated, real, seed, resamples), kernel_interval(*halves, seed, resamples)
    intervals["jedi"] = jedi_interval(generated, real, seed, resamples), jedi_interval(*halves, seed, resamples)
    titles = (f"Fréchet distance{known[0]}", f"kernel distance{known[1]}", "JEDi distance")
    rows = [Row(f"{name}: {title}", *pair) for title, pair in zip(titles, intervals.values(), strict=True)]
    return rows, {f"{name}.{kind}": pair[0].value for kind, pair in intervals.items()}


def _check_logits(classifier: Detector, logits: torch.Tensor) -> None:
    """Refuse probabilities, of which the softmax would be nearly uniform and the score nearly 1."""
    sums = logits.double().sum(1)
    if logits.shape[1] > 1 and logits.min() >= 0 and bool(((sums - 1).abs() < 1e-3).all()):
        raise UserError(
            f"{classifier.view.path} returns probabilities, which add up to 1; pass a classifier that returns logits"
        )


def _count_warnings(detectors: Sequence[Detector], streams: Streams) -> list[str]:
    """Return one sentence for other counts than the published ones, and for each detector with few clips."""
    clips, frames, found = streams.clips, streams.model.frames, []
    if (clips, frames) != (PUBLISHED_CLIPS, PUBLISHED_FRAMES):
        found.append(
            f"these scores compare {clips:,} clips of {frames} frames; most published ones compare {PUBLISHED_CLIPS:,} "
            f"clips of {PUBLISHED_FRAMES} frames, and scores of other counts are not comparable with them"
        )
    found += [
        f"{clips:,} clips are too few for the covariance of {detector.features:,} features of {detector.view.name}, so "
        "that its Fréchet distance depends more on the number of clips than on their quality"
        for detector in detectors
        if clips <= detector.features
    ]
    return found
