"""Readers of clips for an evaluation: of the captioned digits, whose words can be read, and of any other data."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch

from fastvgan.data.digits import COLOURS, MOTIONS, DigitsSource, caption
from fastvgan.data.source import Source
from fastvgan.metrics.caption_match import read_words
from fastvgan.metrics.diversity import first_middle_last, frame_similarity
from fastvgan.metrics.frechet import coarse_features
from fastvgan.metrics.memorisation import nearest_distances
from fastvgan.metrics.oracle import Reading, load_oracle
from fastvgan.metrics.prompts import (
    Prompts,
    TrainingDraws,
    clip_prompts,
    digit_prompts,
    first_clips,
    knows_paraphrases,
    training_by_caption,
    training_in_order,
)
from fastvgan.models.config import ModelConfig

_MOST_CELLS = 2**25  # pixels per frame times training clips of the digits that are searched for copies
_QUICK = 5000  # training clips of the digits that are searched during training
_MOST = 2000  # training clips of other data that are searched
_HELD_OUT_SHARE = 4  # a quarter as many clips for held-out captions, and for paraphrases


class Sample(NamedTuple):
    """Features of clips, and the way in which they were drawn, for `KernelDistance`.

    features: floating (N, D).
    strata: int64 (N,), equal for clips of one stratum, such as a caption, if strata were drawn evenly; else None.
    twins: int64 (N,), the real clips whose conditions the clips have, if conditions were drawn at random; else None.
    """

    features: torch.Tensor
    strata: torch.Tensor | None = None
    twins: torch.Tensor | None = None


class Observation(NamedTuple):
    """Clips and their readings.

    video: uint8 (N, T, H, W, C).
    features: floating (N, D).
    words: of the digits, see `read_words`; empty for other data.
    reading: of the digits, see `Oracle.read`; None for other data.
    """

    video: torch.Tensor
    features: torch.Tensor
    words: dict[str, torch.Tensor]
    reading: Reading | None


class Reader(Protocol):
    """Reads clips of one kind of data for `Evaluator`."""

    prompts: Prompts
    held_out: Prompts | None
    """Prompts for captions that were held out of training, if any."""
    paraphrased: Prompts | None
    """Prompts in free language for captions of the training data, if the model can read them."""
    steadiness: str
    """The name of the score that `score_steadiness` returns."""

    def read(self, video: torch.Tensor) -> Observation:
        """Read clips, uint8 (N, T, H, W, C)."""
        ...

    def score_steadiness(self, observation: Observation) -> float:
        """Score the consistency of clips over time, and with the digit in their condition, if any."""
        ...

    def count_searched(self, thorough: bool) -> int:
        """Return the number of training clips that `nearest` searches."""
        ...

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Return the distances of generated clips to their nearest training clips, float32 (N,)."""
        ...

    def nearest_of_real(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Return the distances of the real clips of `prompts` to their nearest training clips, float32 (N,)."""
        ...

    def draw_real_pair(self, observation: Observation) -> tuple[Sample, Sample]:
        """Return two disjoint sets of real clips, each as large as the generated one if the data has enough clips.

        Args:
            observation: the real clips of `prompts`.
        """
        ...


class DigitsReader:
    """Reads the captioned digits: see `Reader`, and `Evaluator` for the arguments."""

    steadiness = "same_digit"

    def __init__(
        self, model: ModelConfig, source: Source, reference: Source, clips: int, seed: int, seen: TrainingDraws
    ):
        if not isinstance(source, DigitsSource) or not isinstance(reference, DigitsSource):
            raise TypeError("source and reference must both be DigitsSource")
        self._oracle, self._source, self._seed, self._seen = load_oracle(), source, seed, seen
        self._colour = model.channels == 3
        self.prompts = digit_prompts(model, reference, source.captions, clips, seed)
        self._model, self._reference, self._clips = model, reference, clips
        self.held_out = None
        if source.held_out and "text" in model.condition:
            self.held_out = digit_prompts(model, reference, source.held_out, max(2, clips // _HELD_OUT_SHARE), seed + 2)
        self.paraphrased = None
        if knows_paraphrases(model):
            self.paraphrased = digit_prompts(
                model, reference, source.captions, max(2, clips // _HELD_OUT_SHARE), seed + 3, is_paraphrased=True
            )

    def read(self, video: torch.Tensor) -> Observation:
        """Read clips, uint8 (N, T, H, W, C)."""
        reading = self._oracle.read(video)
        return Observation(video, reading.features, read_words(video, reading), reading)

    def score_steadiness(self, observation: Observation) -> float:
        """Return the share of clips with the right digit in first, middle and last frame."""
        assert observation.reading is not None  # `read` sets it
        digits = first_middle_last(observation.reading.frame_digits)  # (N, 3)
        wanted = self.prompts.words.get("digit", digits[:, 0])
        return (digits == wanted[:, None]).all(1).double().mean().item()

    def count_searched(self, thorough: bool) -> int:
        """Return the number of training clips that `nearest` searches."""
        _, height, width, _ = self._source.shape
        return min(self._seen.clips, _MOST_CELLS // (height * width) if thorough else _QUICK)

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Return distances to the nearest training clips, float32 (N,)."""
        seen = self._seen._replace(clips=self.count_searched(thorough))
        return nearest_distances(
            observation.video, training_by_caption(self._source, self._captions(observation), seen)
        )

    nearest_of_real = nearest

    def draw_real_pair(self, observation: Observation) -> tuple[Sample, Sample]:
        """Return the given real clips, and as many that were drawn with another seed."""
        captions = self._source.captions
        others = digit_prompts(self._model, self._reference, captions, self._clips, self._seed + 1)
        features = self._oracle.read(others.real).features
        return Sample(observation.features, self.prompts.strata), Sample(features, others.strata)

    def _captions(self, observation: Observation) -> list[str]:
        """Describe what clips show, which for a copy is the training clip's caption, whatever was requested."""
        colours, motions = list(COLOURS), [*MOTIONS, MOTIONS[0]]  # the last for -1, no motion: any motion does
        colour = observation.words.get("colour", torch.zeros_like(observation.words["digit"]))
        rows = zip(
            observation.words["digit"].tolist(), colour.tolist(), observation.words["motion"].tolist(), strict=True
        )
        return [caption(digit, colours[i], motions[j], with_colour=self._colour) for digit, i, j in rows]


class ClipsReader:
    """Reads clips of any other data: see `Reader`, and `Evaluator` for the arguments."""

    steadiness = "frame_similarity"
    held_out = None
    paraphrased = None

    def __init__(
        self, model: ModelConfig, source: Source, reference: Source, clips: int, seed: int, seen: TrainingDraws
    ):
        self._source, self._seed = source, seed
        self.prompts = clip_prompts(model, reference, clips, seed)
        self._others = None
        if reference.size >= 2 * clips:
            self._others = first_clips(reference, 2 * clips, seed).video[clips:]
        self._own = torch.arange(clips) if reference is source else None

    def read(self, video: torch.Tensor) -> Observation:
        """Read clips, uint8 (N, T, H, W, C)."""
        return Observation(video, coarse_features(video), {}, None)

    def score_steadiness(self, observation: Observation) -> float:
        """Return the similarity of first, middle and last frame."""
        return frame_similarity(observation.video)

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Return distances to the nearest training clips, float32 (N,)."""
        return nearest_distances(observation.video, self._training(observation))

    def nearest_of_real(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Return distances of real clips to the nearest other training clips, float32 (N,)."""
        # Without a test split these are the first training clips, and must not be compared with themselves.
        return nearest_distances(observation.video, self._training(observation), self._own)

    def count_searched(self, thorough: bool) -> int:
        """Return the number of training clips that `nearest` searches."""
        return min(self._source.size, _MOST)

    def draw_real_pair(self, observation: Observation) -> tuple[Sample, Sample]:
        """Return the given real clips and as many others, or their halves if the data has too few clips."""
        if self._others is not None:
            return Sample(observation.features), Sample(coarse_features(self._others))
        half = len(observation.features) // 2
        return Sample(observation.features[:half]), Sample(observation.features[half:])

    def _training(self, observation: Observation) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return training_in_order(self._source, len(observation.video), self._seed, _MOST)
