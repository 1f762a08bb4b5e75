"""The evaluation of a generator: a table of scores with intervals, or flat scores during training.

    evaluator = Evaluator(model, source, reference)      # measures real clips, once
    scores = evaluator.quick(generate, noise)            # {"joint": 0.93, "frechet": 4.1, …}
    evaluation = evaluator.full(generate, noise)         # the whole table, with intervals
    for sentence in warnings(scores): …

`generate(z, condition)` returns clips, uint8 (n, T, H, W, C) on the CPU, for noise and a `Condition` on the CPU (None
for a model without one). `noise(n, seed)` returns noise for n clips on the CPU. Scores, where they apply:

    digit, colour, motion, joint    share of clips that show the words of the condition (digits only)
    held_out_joint                  the same for combinations of words that were held out of training
    paraphrased_joint               the same for captions in phrasings that were held out (digits, --captions free)
    first_frame_psnr                of the first frame against the given one, in dB, at most 59
    same_digit                      share of clips with the same digit in first, middle and last frame, which must be
                                    the one in the condition, if any
    frame_similarity                similarity of first, middle and last frame (other data), -1 to 1
    diversity                       difference between clips of one condition, relative to real clips; not where no two
                                    real clips share a condition, as with first frames, or one caption per clip
    varied_digit, varied_colour,    share of pairs of clips of one condition that differ in a word that is not part of
    varied_motion                   the condition, relative to real clips (digits only)
    end_sharpness                   sharpness of the first or last frame relative to the middle ones', whichever is
                                    further from 1: less if it is blurred, more if it is noisy
    grid_pattern                    strongest regular pattern of pixels above real clips, in dB; 0 or less without one
    copies                          share of clips that are copies of training clips
    frechet, kernel                 distances from real clips
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fastvgan.data.digits import DigitsSource
from fastvgan.data.source import Source
from fastvgan.metrics import readers
from fastvgan.metrics.artefacts import end_sharpness, grid_pattern, measure_grid
from fastvgan.metrics.caption_match import CHANCE, match, match_shuffled
from fastvgan.metrics.diversity import mean_difference, pair_within_groups, share_of_differing
from fastvgan.metrics.frechet import FrechetDistance
from fastvgan.metrics.intervals import Interval
from fastvgan.metrics.kernel import KernelDistance
from fastvgan.metrics.memorisation import share_of_copies
from fastvgan.metrics.prompts import FEWEST, Prompts, TrainingDraws
from fastvgan.models import Condition
from fastvgan.models.config import ModelConfig

Generate = Callable[[torch.Tensor, Condition | None], torch.Tensor]
Noise = Callable[[int, int], torch.Tensor]  # number of clips, seed
Cell = float | Interval | None

_CHUNK = 64  # clips per call of the generator
_ALIKE = 0.2  # below this diversity, clips of a condition count as all alike
_ONE_WORD = 0.5  # below this variety relative to real clips, a word counts as nearly always the same
_MARGIN = 0.05  # a match of at most this above chance counts as chance


def evaluation_bytes(model: ModelConfig, clips: int) -> int:
    """Return a lower bound of an evaluation's memory in bytes: real and generated clips, and pairs of clips.

    The kernel distance keeps two float64 numbers per pair, and computes a third.
    """
    clip = model.frames * model.height * model.width * model.channels
    return 2 * clips * clip + 3 * 8 * clips**2


@dataclass(frozen=True)
class Row:
    """One measure, for generated clips, real clips, shuffled captions, held-out captions and paraphrased ones."""

    measure: str
    generated: Cell = None
    real: Cell = None
    shuffled: Cell = None
    held_out: Cell = None
    unit: str = ""
    paraphrased: Cell = None


@dataclass(frozen=True)
class Evaluation:
    """The table, the scores of `Evaluator.quick`, and one sentence per warning."""

    rows: list[Row]
    scores: dict[str, float]
    warnings: list[str]


class Evaluator:
    """Scores generators of one configuration against the same real clips, with the same conditions and noise.

    Args:
        model: the generators' configuration: their conditions, vocabulary and classes.
        source: the training data.
        reference: the source of the real clips: for the digits, those of other writers; for other data, the frames that
            were kept for tests, or else the training data. Both sources have clips of the generators' size and length.
        clips: the number of clips to compare, at least 16.
        seed: of conditions, real clips and noise.
        seen: the digits' clips that the generators were trained on, among which copies are searched; by default those
            of a long run with the default seed.

    Raises:
        UserError: the data has fewer clips, or a condition that the model was not trained on.
        ValueError: `clips` is below 16.
    """

    def __init__(
        self,
        model: ModelConfig,
        source: Source,
        reference: Source,
        clips: int = 960,
        seed: int = 0,
        seen: TrainingDraws | None = None,
    ):
        if clips < FEWEST:
            raise ValueError(f"clips must be {FEWEST} or more, not {clips}")
        self.clips, self.seed = clips, seed
        kind = readers.DigitsReader if isinstance(reference, DigitsSource) else readers.ClipsReader
        self._reader: readers.Reader = kind(model, source, reference, clips, seed, seen or TrainingDraws())
        self.prompts, self.held_out = self._reader.prompts, self._reader.held_out
        self._real = self._reader.read(self.prompts.real)
        self._frechet = FrechetDistance(self._real.features, seed)
        self._kernel = KernelDistance(self._real.features, self.prompts.strata, seed)
        self._real_near: dict[bool, torch.Tensor] = {}
        self._real_grid, self._real_ends = measure_grid(self.prompts.real), end_sharpness(self.prompts.real)
        self._real_difference = None
        if self.prompts.real_group is not None:
            self._real_difference = mean_difference(self.prompts.real, *pair_within_groups(self.prompts.real_group))

    @torch.no_grad()
    def quick(self, generate: Generate, noise: Noise) -> dict[str, float]:
        """Compute scores without intervals, and search copies among fewer training clips than `full` does.

        Args:
            generate: returns clips, uint8 (n, T, H, W, C); see this module.
            noise: returns noise for n clips; see this module.
        """
        return self._measure(generate, noise, thorough=False)[0]

    @torch.no_grad()
    def full(self, generate: Generate, noise: Noise) -> Evaluation:
        """Compute the whole table, for arguments as those of `quick`."""
        scores, rows, observation = self._measure(generate, noise, thorough=True)
        rows += self._distance_rows(observation.features)
        return Evaluation(rows, scores, warnings(scores))

    def _measure(
        self, generate: Generate, noise: Noise, thorough: bool
    ) -> tuple[dict[str, float], list[Row], "readers.Observation"]:
        video = self._generate(self.prompts, generate, noise, self.seed)
        observation = self._reader.read(video)
        scores, rows = self._match(observation, generate, noise)
        difference = mean_difference(video, *pair_within_groups(self.prompts.group))
        rows.append(Row("difference within a condition", difference, self._real_difference, unit="grey levels"))
        if self._real_difference is not None:
            scores["diversity"] = difference / max(self._real_difference, 1e-9)
            rows.append(Row("diversity (that difference / real clips')", scores["diversity"], 1.0))
        self._add_variety(observation, scores, rows)
        self._add_artefacts(video, scores, rows)
        near, real_near = self._reader.nearest(observation, thorough), self._nearest_of_real(thorough)
        scores["copies"] = share_of_copies(near, real_near)
        searched = f"nearest of {self._reader.count_searched(thorough):,} training clips"
        rows.append(Row(searched, near.median().item(), real_near.median().item(), unit="grey levels"))
        rows.append(Row("copies", scores["copies"], share_of_copies(real_near, real_near), unit="%"))
        scores[self._reader.steadiness] = steadiness = self._reader.score_steadiness(observation)
        unit = "%" if self._reader.steadiness == "same_digit" else ""
        real_steadiness = self._reader.score_steadiness(self._real)
        rows.append(Row(_STEADINESS[self._reader.steadiness], steadiness, real_steadiness, unit=unit))
        scores["frechet"] = self._frechet.distance(observation.features)
        scores["kernel"] = self._kernel.distance(observation.features, self.prompts.strata, self.prompts.twins)
        return scores, rows, observation

    def _match(
        self, observation: "readers.Observation", generate: Generate, noise: Noise
    ) -> tuple[dict[str, float], list[Row]]:
        """Score the caption match: of generated and real clips, with shuffled, held-out and paraphrased captions."""
        expected = self.prompts.words
        scores, rows = match(observation.words, expected), []
        real = match(self._real.words, expected)
        shuffled = match_shuffled(observation.words, expected, self.seed) if expected else {}
        held_out, paraphrased = (
            self._match_prompts(prompts, generate, noise, self.seed + i)
            for i, prompts in enumerate((self.held_out, self._reader.paraphrased), 1)
        )
        for name, value in scores.items():
            others = {"held_out": held_out.get(name), "paraphrased": paraphrased.get(name)}
            rows.append(Row(f"right {name}", value, real[name], shuffled[name], **others, unit="%"))
        if held_out:
            scores["held_out_joint"] = held_out["joint"]
        if paraphrased:
            scores["paraphrased_joint"] = paraphrased["joint"]
        if self.prompts.images is not None:
            scores["first_frame_psnr"] = psnr = peak_signal_to_noise(observation.video[:, 0], self.prompts.images)
            rows.append(Row("first frame against the one given", psnr, unit="dB"))
        return scores, rows

    def _match_prompts(
        self, prompts: Prompts | None, generate: Generate, noise: Noise, seed: int
    ) -> Mapping[str, float]:
        """Score the caption match of clips generated for other prompts; empty without them."""
        if prompts is None:
            return {}
        return match(self._reader.read(self._generate(prompts, generate, noise, seed)).words, prompts.words)

    def _add_variety(self, observation: "readers.Observation", scores: dict[str, float], rows: list[Row]) -> None:
        """Add the variety of the words that are not part of the condition, relative to real clips.

        The difference of pixels does not show it: clips with digits at different places may all be red.
        """
        pairs = pair_within_groups(self.prompts.group)
        if self.prompts.real_group is None:  # one real clip per first frame: compare any two
            order = torch.randperm(len(self.prompts.real), generator=torch.Generator().manual_seed(self.seed))
            real_pairs = order[:-1], order[1:]
        else:
            real_pairs = pair_within_groups(self.prompts.real_group)
        for name, shown in observation.words.items():
            if name in self.prompts.words:
                continue
            found = share_of_differing(shown, *pairs)
            real = share_of_differing(self._real.words[name], *real_pairs)
            scores[f"varied_{name}"] = found / max(real, 1e-9)
            rows.append(Row(f"pairs of one condition that differ in {name}", found, real, unit="%"))

    def _add_artefacts(self, video: torch.Tensor, scores: dict[str, float], rows: list[Row]) -> None:
        """Add the artefacts that generators leave: blurred or noisy first and last frames, and a grid over textures."""
        first, last = end_sharpness(video)
        real_first, real_last = self._real_ends
        scores["end_sharpness"] = max(first, last, key=lambda ratio: abs(ratio - 1))
        rows.append(Row("sharpness of the first frame / middle ones", first, real_first))
        rows.append(Row("sharpness of the last frame / middle ones", last, real_last))
        scores["grid_pattern"] = pattern = grid_pattern(measure_grid(video), self._real_grid)
        rows.append(Row("strongest grid pattern, above real clips", pattern, unit="dB"))

    def _nearest_of_real(self, thorough: bool) -> torch.Tensor:
        if thorough not in self._real_near:
            self._real_near[thorough] = self._reader.nearest_of_real(self._real, thorough)
        return self._real_near[thorough]

    def _distance_rows(self, features: torch.Tensor) -> list[Row]:
        """Compute both distances with intervals, for generated, other real (lower bound) and corrupted real clips."""
        real, others = self._reader.draw_real_pair(self._real)
        corrupted = {
            name: self._reader.read(corrupt(self.prompts.real)).features for name, corrupt in CORRUPTIONS.items()
        }
        frechet = FrechetDistance(real.features, self.seed)
        kernel = KernelDistance(real.features, real.strata, self.seed)
        # Distances are larger for fewer clips, so the row says that there were fewer.
        halves = f" (real clips: two times {len(real.features)})" if len(real.features) < len(features) else ""
        rows = [Row(f"Fréchet distance{halves}", self._frechet.interval(features), frechet.interval(others.features))]
        rows += [Row(f"  of {what} real clips", None, self._frechet.interval(part)) for what, part in corrupted.items()]
        generated = self._kernel.interval(features, self.prompts.strata, self.prompts.twins)
        rows.append(Row("kernel distance", generated, kernel.interval(others.features, others.strata)))
        for what, part in corrupted.items():
            rows.append(Row(f"  of {what} real clips", None, self._kernel.interval(part, self.prompts.strata)))
        return rows

    def _generate(self, prompts: Prompts, generate: Generate, noise: Noise, seed: int) -> torch.Tensor:
        """Generate clips for all prompts, uint8 (N, T, H, W, C)."""
        z = noise(len(prompts.group), seed)
        parts = []
        for start in range(0, len(z), _CHUNK):
            rows = slice(start, start + _CHUNK)
            parts.append(generate(z[rows], prompts.condition and prompts.condition.rows(rows)))
        return torch.cat(parts)


def warnings(scores: Mapping[str, float]) -> list[str]:
    """Return one sentence per ignored part of the condition and per way in which clips lack variety."""
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
    """Return 10 log10(255² / mean squared error) of frames, uint8 (N, H, W, C), in dB, averaged over frames.

    Errors below 1/12, that of rounding to bytes, count as 1/12, so that no value is above 59 dB.
    """
    error = (images.double() - given.double()).square().flatten(1).mean(1).clamp_min(1 / 12)
    return (10 * (255**2 / error).log10()).mean().item()


def _freeze(video: torch.Tensor) -> torch.Tensor:
    return video[:, :1].expand_as(video)


def _shuffle_time(video: torch.Tensor) -> torch.Tensor:
    order = torch.rand(video.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(1)
    return video[torch.arange(len(video))[:, None], order]


def _blur(video: torch.Tensor) -> torch.Tensor:
    """Average each pixel over 3x3 neighbours, with repeated edges."""
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
_STEADINESS = {
    "same_digit": "right digit in each of first, middle and last frame",
    "frame_similarity": "similarity of first, middle and last frame",
}
