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
from fastvgan.metrics.prompts import Prompts, clip_prompts, digit_prompts, training_by_caption, training_in_order
from fastvgan.models.config import ModelConfig

TRAINING_CLIPS = 84  # of each caption of the digits: 20,160 in colour
_MOST = 2000  # training clips of other data
_HELD_OUT_SHARE = 4  # a quarter as many clips of captions held out

Grouped = tuple[torch.Tensor, torch.Tensor | None]
"""Features (N, D), and int64 (N,), equal where clips were drawn evenly over something they share, or None."""


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
        """How much clips stay themselves over time."""
        ...

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """Distances of generated clips to their nearest training clips, float32 (N,)."""
        ...

    def nearest_of_real(self, observation: Observation, thorough: bool) -> torch.Tensor:
        """The same of the real clips of `prompts`."""
        ...

    def floor(self, observation: Observation) -> tuple[Grouped, Grouped]:
        """Features of two sets of real clips that have no clip in common, each with its groups.

        Args:
            observation: the real clips of `prompts`.
        """
        ...


class Digits:
    """The captioned digits: see `Reader`, and `Evaluator` for the arguments."""

    steadiness = "same_digit"

    def __init__(self, model: ModelConfig, source: Source, reference: Source, clips: int, seed: int):
        if not isinstance(source, DigitsSource) or not isinstance(reference, DigitsSource):
            raise TypeError("clips of the digits are compared with digits alone")
        self._oracle, self._source, self._seed = load_oracle(), source, seed
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
        return (digits == digits[:, :1]).all(1).double().mean().item()

    def nearest(self, observation: Observation, thorough: bool) -> torch.Tensor:
        clips = TRAINING_CLIPS if thorough else TRAINING_CLIPS // 4
        return nearest_distances(
            observation.video, training_by_caption(self._source, self._captions(observation), clips, self._seed)
        )

    nearest_of_real = nearest

    def floor(self, observation: Observation) -> tuple[Grouped, Grouped]:
        captions = self._source.captions
        others = digit_prompts(self._model, self._reference, captions, self._clips, self._seed + 1)
        features = self._oracle.read(others.real).features
        return (observation.features, self.prompts.real_group), (features, others.real_group)

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

    def __init__(self, model: ModelConfig, source: Source, reference: Source, clips: int, seed: int):
        self._source, self._seed = source, seed
        self.prompts = clip_prompts(model, reference, clips, seed)
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

    def floor(self, observation: Observation) -> tuple[Grouped, Grouped]:
        half = len(observation.features) // 2
        return (observation.features[:half], None), (observation.features[half:], None)

    def _training(self, observation: Observation):
        return training_in_order(self._source, len(observation.video), self._seed, _MOST)
