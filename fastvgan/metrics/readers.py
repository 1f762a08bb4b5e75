"""How clips of a kind of data are read: the captioned digits, about which everything is known, and any other data."""

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
    Seen,
    clip_prompts,
    digit_prompts,
    first_clips,
    training_by_caption,
    training_in_order,
)
from fastvgan.models.config import ModelConfig

_MOST_CELLS = 2**25  # places in the frames of the digits' training clips among which copies are looked for
_QUICK = 5000  # of these clips, in training
_MOST = 2000  # training clips of other data
_HELD_OUT_SHARE = 4  # a quarter as many clips of captions held out


class Sample(NamedTuple):
    """Features of clips, and how they were drawn, as `KernelDistance` takes it.

    features: floating (N, D). strata: int64 (N,), equal where clips were drawn evenly over something they share, or
    None. twins: int64 (N,), equal where clips are under one condition that was itself drawn, or None.
    """

    features: torch.Tensor
    strata: torch.Tensor | None = None
    twins: torch.Tensor | None = None


class Observation(NamedTuple):
    """Clips and what was read off them.

    video: uint8 (N, T, H, W, C). features: floating (N, D). words, reading: of the digits, see `read_words` and
    `Oracle.read`; empty and None for other data.
    """

    video: torch.Tensor
    features: torch.Tensor
    words: dict[str, torch.Tensor]
    reading: Reading | None


class Reader(Protocol):
    """What `Evaluator` needs to know of a kind of data."""

    prompts: Prompts
    held_out: Prompts | None
    """Prompts of captions that were held out of training, if there are any."""
    steadiness: str
    """The name of the score `steady` gives."""

    def read(self, video: torch.Tensor) -> Observation:
        """Read clips, uint8 (N, T, H, W, C)."""
        ...

    def steady(self, observation: Observation) -> float:
        """How much clips stay themselves over time, and what they are to be where their condition says that."""
        ...

    def searched(self, thorough: bool) -> int:
        """Among how many training clips `nearest` looks."""
        ...

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Distances of generated clips to their nearest training clips, float32 (N,)."""
        ...

    def nearest_of_real(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """The same of the real clips of `prompts`."""
        ...

    def floor(self, observation: Observation) -> tuple[Sample, Sample]:
        """Two sets of real clips that have no clip in common, of as many as there are generated ones if there are.

        Args:
            observation: the real clips of `prompts`.
        """
        ...


class Digits:
    """The captioned digits: see `Reader`, and `Evaluator` for the arguments."""

    steadiness = "same_digit"

    def __init__(self, model: ModelConfig, source: Source, reference: Source, clips: int, seed: int, seen: Seen):
        if not isinstance(source, DigitsSource) or not isinstance(reference, DigitsSource):
            raise TypeError("clips of the digits are compared with digits alone")
        self._oracle, self._source, self._seed, self._seen = load_oracle(), source, seed, seen
        self._colour = model.channels == 3
        self.prompts = digit_prompts(model, reference, source.captions, clips, seed)
        self._model, self._reference, self._clips = model, reference, clips
        self.held_out = None
        if source.held_out and "text" in model.condition:
            self.held_out = digit_prompts(model, reference, source.held_out, max(2, clips // _HELD_OUT_SHARE), seed + 2)

    def read(self, video: torch.Tensor) -> Observation:
        reading = self._oracle.read(video)
        return Observation(video, reading.features, read_words(video, reading), reading)

    def steady(self, observation: Observation) -> float:
        digits = first_middle_last(observation.reading.frame_digits)  # (N, 3)
        wanted = self.prompts.words.get("digit", digits[:, 0])
        return (digits == wanted[:, None]).all(1).double().mean().item()

    def searched(self, thorough: bool) -> int:
        _, height, width, _ = self._source.shape
        return min(self._seen.clips, _MOST_CELLS // (height * width) if thorough else _QUICK)

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        seen = self._seen._replace(clips=self.searched(thorough))
        return nearest_distances(
            observation.video, training_by_caption(self._source, self._captions(observation), seen)
        )

    nearest_of_real = nearest

    def floor(self, observation: Observation) -> tuple[Sample, Sample]:
        captions = self._source.captions
        others = digit_prompts(self._model, self._reference, captions, self._clips, self._seed + 1)
        features = self._oracle.read(others.real).features
        return Sample(observation.features, self.prompts.strata), Sample(features, others.strata)

    def _captions(self, observation: Observation) -> list[str]:
        """What clips show, as captions: a copy of a training clip shows what that shows, whatever was asked for."""
        colours, motions = list(COLOURS), [*MOTIONS, MOTIONS[0]]  # the last for none, -1: any will do
        colour = observation.words.get("colour", torch.zeros_like(observation.words["digit"]))
        rows = zip(
            observation.words["digit"].tolist(), colour.tolist(), observation.words["motion"].tolist(), strict=True
        )
        return [caption(digit, colours[i], motions[j], with_colour=self._colour) for digit, i, j in rows]


class Clips:
    """Any other data: see `Reader`, and `Evaluator` for the arguments."""

    steadiness = "frame_similarity"
    held_out = None

    def __init__(self, model: ModelConfig, source: Source, reference: Source, clips: int, seed: int, seen: Seen):
        self._source, self._seed = source, seed
        self.prompts = clip_prompts(model, reference, clips, seed)
        self._others = None
        if reference.size >= 2 * clips:
            self._others = first_clips(reference, 2 * clips, seed).video[clips:]
        self._own = torch.arange(clips)

    def read(self, video: torch.Tensor) -> Observation:
        return Observation(video, coarse_features(video), {}, None)

    def steady(self, observation: Observation) -> float:
        return frame_similarity(observation.video)

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        return nearest_distances(observation.video, self._training(observation))

    def nearest_of_real(self, observation: Observation, thorough: bool) -> torch.Tensor:
        # They are the first of the training clips themselves, and each would be its own copy.
        return nearest_distances(observation.video, self._training(observation), self._own)

    def searched(self, thorough: bool) -> int:
        return min(self._source.size, _MOST)

    def floor(self, observation: Observation) -> tuple[Sample, Sample]:
        if self._others is not None:
            return Sample(observation.features), Sample(coarse_features(self._others))
        half = len(observation.features) // 2
        return Sample(observation.features[:half]), Sample(observation.features[half:])

    def _training(self, observation: Observation):
        return training_in_order(self._source, len(observation.video), self._seed, _MOST)
