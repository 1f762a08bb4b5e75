"""How good a generator's clips are: one table, and the same as flat scores while training.

    evaluator = Evaluator(model, source, reference)      # what real clips give is measured once, here
    scores = evaluator.quick(generate, noise)            # {"joint": 0.93, "frechet": 4.1, …}
    evaluation = evaluator.full(generate, noise)         # the whole table, with intervals
    for sentence in warnings(scores): …

`generate(z, condition)` makes clips, uint8 (n, T, H, W, C) on the CPU, from noise and a `Condition` on the CPU, which
is None for a model without one; `noise(n, generator)` draws noise for n clips on the CPU from a torch.Generator.
Scores, where they apply:

    digit, colour, motion, joint    share of clips that show what the condition says (digits only)
    held_out_joint                  the same of combinations of words held out of training
    first_frame_psnr                of the first frame against the one given, in dB, at most 59
    same_digit                      share of clips whose digit is the same in first, middle and last frame, and the
                                    right one where the condition says which
    frame_similarity                how alike first, middle and last frame are (other data), -1 to 1
    diversity                       how much clips of one condition differ, for real ones; 1 is as much; not given a
                                    first frame, which no two real clips share
    varied_digit, varied_colour,    share of pairs of one condition that differ in a word that the condition does not
    varied_motion                   say, for real ones; 1 is as many (digits only)
    copies                          share of clips that are copies of training clips
    frechet, kernel                 distances from real clips
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Source
from fastvgan.metrics import readers
from fastvgan.metrics.caption_match import CHANCE, match, shuffled_match
from fastvgan.metrics.diversity import mean_difference, pairs_of, share_that_differ
from fastvgan.metrics.frechet import FrechetDistance
from fastvgan.metrics.intervals import Interval
from fastvgan.metrics.kernel import KernelDistance
from fastvgan.metrics.memorisation import share_of_copies
from fastvgan.metrics.prompts import FEWEST, Prompts, Seen
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig

Generate = Callable[[torch.Tensor, Condition | None], torch.Tensor]
Noise = Callable[[int, int], torch.Tensor]  # of so many clips, by a seed
Cell = float | Interval | None

_CHUNK = 64  # clips generated at once
_ALIKE = 0.2  # below this diversity clips of a condition are all alike
_ONE_WORD = 0.5  # below this share of real clips' variety of a word, it nearly always comes out the same
_MARGIN = 0.05  # a match of no more than this above chance is none


def evaluation_bytes(model: ModelConfig, clips: int) -> int:
    """Bytes that an evaluation by so many clips takes at least: the clips, real and generated, and their pairs.

    The kernel distance keeps two numbers of float64 for each pair, and makes a third.
    """
    clip = model.frames * model.height * model.width * model.channels
    return 2 * clips * clip + 3 * 8 * clips**2


@dataclass(frozen=True)
class Row:
    """One measure: of generated clips, of real ones, under shuffled captions and of held-out captions."""

    measure: str
    generated: Cell = None
    real: Cell = None
    shuffled: Cell = None
    held_out: Cell = None
    unit: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The table, the flat scores of `Evaluator.quick`, and a sentence for each warning."""

    rows: list[Row]
    scores: dict[str, float]
    warnings: list[str]


class Evaluator:
    """Scores of generators of one kind, against the same real clips under the same conditions and noise.

    Args:
        model: what the generators are: their conditions, vocabulary and classes.
        source: what they were trained on. reference: where real clips to compare with come from: of the digits those of
            other writers, of other data the training data itself. Both give clips as long and large as the generator's.
        clips: how many are compared, at least 16. seed: of conditions, real clips and noise.
        seen: which of the digits' clips the generators were trained on, by default those of a long run with the usual
            seed; copies are looked for among them.

    Raises:
        UserError: the data has fewer clips, or a condition that the model was not trained on.
        ValueError: fewer than 16 clips.
    """

    def __init__(
        self,
        model: ModelConfig,
        source: Source,
        reference: Source,
        clips: int = 960,
        seed: int = 0,
        seen: Seen | None = None,
    ):
        if clips < FEWEST:
            raise ValueError(f"clips must be {FEWEST} or more, not {clips}")
        self.clips, self.seed = clips, seed
        kind = readers.Digits if isinstance(reference, DigitsSource) else readers.Clips
        self._reader: readers.Reader = kind(model, source, reference, clips, seed, seen or Seen())
        self.prompts, self.held_out = self._reader.prompts, self._reader.held_out
        self._real = self._reader.read(self.prompts.real)
        self._frechet = FrechetDistance(self._real.features, seed)
        self._kernel = KernelDistance(self._real.features, self.prompts.strata, seed)
        self._real_near: dict[bool, torch.Tensor] = {}
        self._real_difference = None
        if self.prompts.real_group is not None:
            self._real_difference = mean_difference(self.prompts.real, *pairs_of(self.prompts.real_group))

    @torch.no_grad()
    def quick(self, generate: Generate, noise: Noise) -> dict[str, float]:
        """Scores without intervals; copies are looked for among few of the training clips that `full` takes.

        Args:
            generate, noise: see this module.
        """
        return self._measure(generate, noise, thorough=False)[0]

    @torch.no_grad()
    def full(self, generate: Generate, noise: Noise) -> Evaluation:
        """The whole table."""
        scores, rows, observation = self._measure(generate, noise, thorough=True)
        rows += self._distance_rows(observation.features)
        return Evaluation(rows, scores, warnings(scores))

    def _measure(
        self, generate: Generate, noise: Noise, thorough: bool
    ) -> tuple[dict[str, float], list[Row], "readers.Observation"]:
        video = self._generated(self.prompts, generate, noise, self.seed)
        observation = self._reader.read(video)
        scores, rows = self._match(observation, generate, noise)
        difference = mean_difference(video, *pairs_of(self.prompts.group))
        rows.append(Row("difference within a condition", difference, self._real_difference, unit="grey levels"))
        if self._real_difference is not None:
            scores["diversity"] = difference / max(self._real_difference, 1e-9)
            rows.append(Row("diversity (that difference / real clips')", scores["diversity"], 1.0))
        self._add_what_is_open(observation, scores, rows)
        near, real_near = self._reader.nearest(observation, thorough), self._nearest_of_real(thorough)
        scores["copies"] = share_of_copies(near, real_near)
        searched = f"nearest of {self._reader.searched(thorough):,} training clips"
        rows.append(Row(searched, near.median().item(), real_near.median().item(), unit="grey levels"))
        rows.append(Row("copies", scores["copies"], share_of_copies(real_near, real_near), unit="%"))
        scores[self._reader.steadiness] = steady = self._reader.steady(observation)
        unit = "%" if self._reader.steadiness == "same_digit" else ""
        rows.append(Row(_STEADY[self._reader.steadiness], steady, self._reader.steady(self._real), unit=unit))
        scores["frechet"] = self._frechet.distance(observation.features)
        scores["kernel"] = self._kernel.distance(observation.features, self.prompts.strata, self.prompts.twins)
        return scores, rows, observation

    def _match(
        self, observation: "readers.Observation", generate: Generate, noise: Noise
    ) -> tuple[dict[str, float], list[Row]]:
        """Caption match, beside that of real clips, under shuffled captions and of captions held out of training."""
        expected = self.prompts.words
        scores, rows = match(observation.words, expected), []
        real = match(self._real.words, expected)
        shuffled = shuffled_match(observation.words, expected, self.seed) if expected else {}
        held_out: Mapping[str, float] = {}
        if self.held_out is not None:
            video = self._generated(self.held_out, generate, noise, self.seed + 1)
            held_out = match(self._reader.read(video).words, self.held_out.words)
        for name, value in scores.items():
            rows.append(Row(f"right {name}", value, real[name], shuffled[name], held_out.get(name), "%"))
        if held_out:
            scores["held_out_joint"] = held_out["joint"]
        if self.prompts.images is not None:
            scores["first_frame_psnr"] = psnr = peak_signal_to_noise(observation.video[:, 0], self.prompts.images)
            rows.append(Row("first frame against the one given", psnr, unit="dB"))
        return scores, rows

    def _add_what_is_open(self, observation: "readers.Observation", scores: dict[str, float], rows: list[Row]) -> None:
        """How much the words vary that a condition does not say, as in real clips under it.

        Clips at different places differ in their pixels, and may yet all be red.
        """
        pairs = pairs_of(self.prompts.group)
        if self.prompts.real_group is None:  # of a first frame there is one real clip: any two are under their own
            order = torch.randperm(len(self.prompts.real), generator=torch.Generator().manual_seed(self.seed))
            real_pairs = order[:-1], order[1:]
        else:
            real_pairs = pairs_of(self.prompts.real_group)
        for name, shown in observation.words.items():
            if name in self.prompts.words:
                continue
            found, real = share_that_differ(shown, *pairs), share_that_differ(self._real.words[name], *real_pairs)
            scores[f"varied_{name}"] = found / max(real, 1e-9)
            rows.append(Row(f"pairs of one condition that differ in {name}", found, real, unit="%"))

    def _nearest_of_real(self, thorough: bool) -> torch.Tensor:
        if thorough not in self._real_near:
            self._real_near[thorough] = self._reader.nearest_of_real(self._real, thorough)
        return self._real_near[thorough]

    def _distance_rows(self, features: torch.Tensor) -> list[Row]:
        """Both distances with intervals: generated clips, other real ones (the floor), and real ones corrupted."""
        real, others = self._reader.floor(self._real)
        corrupted = {
            name: self._reader.read(corrupt(self.prompts.real)).features for name, corrupt in CORRUPTIONS.items()
        }
        frechet = FrechetDistance(real.features, self.seed)
        kernel = KernelDistance(real.features, real.strata, self.seed)
        # Fewer clips are farther from each other.
        halves = f" (real clips: two times {len(real.features)})" if len(real.features) < len(features) else ""
        rows = [Row(f"Fréchet distance{halves}", self._frechet.interval(features), frechet.interval(others.features))]
        rows += [Row(f"  of {what} real clips", None, self._frechet.interval(part)) for what, part in corrupted.items()]
        generated = self._kernel.interval(features, self.prompts.strata, self.prompts.twins)
        rows.append(Row("kernel distance", generated, kernel.interval(others.features, others.strata)))
        for what, part in corrupted.items():
            rows.append(Row(f"  of {what} real clips", None, self._kernel.interval(part, self.prompts.strata)))
        return rows

    def _generated(self, prompts: Prompts, generate: Generate, noise: Noise, seed: int) -> torch.Tensor:
        """Clips for all prompts, uint8 (N, T, H, W, C)."""
        z = noise(len(prompts.group), seed)
        parts = []
        for start in range(0, len(z), _CHUNK):
            rows = slice(start, start + _CHUNK)
            parts.append(generate(z[rows], prompts.condition and prompts.condition.rows(rows)))
        return torch.cat(parts)


def warnings(scores: Mapping[str, float]) -> list[str]:
    """One sentence for each part of the condition that is ignored, and for each way in which its clips are alike."""
    found = [
        f"the {name} in the condition is ignored: {scores[name]:.0%} of clips show it, {chance:.0%} would by chance"
        for name, chance in CHANCE.items()
        if name in scores and scores[name] < chance + _MARGIN
    ]
    if scores.get("diversity", 1.0) < _ALIKE:
        found.append(
            f"clips of one condition are all alike: they differ {scores['diversity']:.2f} times as much as real ones"
        )
    found += [
        f"clips of one condition are nearly all of one {name}: pairs differ in it {scores[key]:.2f} times as often as "
        "real ones"
        for name in CHANCE
        if scores.get(key := f"varied_{name}", 1.0) < _ONE_WORD
    ]
    return found


def peak_signal_to_noise(images: torch.Tensor, given: torch.Tensor) -> float:
    """10 log10(255² / mean squared error) of frames, uint8 (N, H, W, C), in dB, the mean over frames.

    An error below that of rounding to bytes, 1/12, counts as that, so that no value is above 59 dB.
    """
    error = (images.double() - given.double()).square().flatten(1).mean(1).clamp_min(1 / 12)
    return (10 * (255**2 / error).log10()).mean().item()


def _freeze(video: torch.Tensor) -> torch.Tensor:
    return video[:, :1].expand_as(video)


def _shuffle_time(video: torch.Tensor) -> torch.Tensor:
    order = torch.rand(video.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(1)
    return video[torch.arange(len(video))[:, None], order]


def _blur(video: torch.Tensor) -> torch.Tensor:
    """Each pixel the mean of 3x3, edges repeated."""
    parts = []
    for part in video.split(_CHUNK):
        frames = part.permute(0, 1, 4, 2, 3).flatten(0, 1).float()  # (n T, C, H, W)
        mean = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(frames, (1, 1, 1, 1), "replicate"), 3, 1)
        parts.append(mean.round().to(torch.uint8).unflatten(0, part.shape[:2]).permute(0, 1, 3, 4, 2))
    return torch.cat(parts)


CORRUPTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "frozen": _freeze,
    "time-shuffled": _shuffle_time,
    "blurred": _blur,
}
_STEADY = {
    "same_digit": "right digit in each of first, middle and last frame",
    "frame_similarity": "similarity of first, middle and last frame",
}
