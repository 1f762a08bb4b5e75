"""The Fréchet distance between two sets of clips, over any features, and features that need no trained network.

`CoarseScore` is **not** the Fréchet video distance (FVD): that compares what a trained network sees (I3D, Unterthiner
et al. 2018), this compares colours, places and amounts of change in a few large cells. It tells whether a run gets
better or worse, or has collapsed; it is blind to detail, and its values compare with no published ones.
"""

import torch
from torch.nn.functional import adaptive_avg_pool3d

from fastvgan.metrics.intervals import RESAMPLES, Interval, percentile_interval, resample_counts

_CELLS = 4  # along time, height and width
_FEATURES = 64  # at most, so that some hundred clips are enough for their covariance
_CHUNK = 2**23  # values held as float32 at once


def frechet_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), the squared Fréchet (or 2-Wasserstein) distance of two Gaussians.

    Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"; as a score of generators
    Heusel et al. 2017. The trace of (Σ₁ Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½, and nothing has to be
    inverted for that, so that singular covariances serve too.

    Args:
        mean_a, mean_b: (D,). covariance_a, covariance_b: (D, D), symmetric, without negative eigenvalues but for
            rounding. Any floating dtype; float64 is computed.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
    """
    mean_a, mean_b, covariance_a, covariance_b = (
        part.detach().double() for part in (mean_a, mean_b, covariance_a, covariance_b)
    )
    size = mean_a.shape[0] if mean_a.ndim == 1 else -1
    if mean_b.shape != (size,) or not covariance_a.shape == covariance_b.shape == (size, size):
        shapes = ", ".join(str(tuple(part.shape)) for part in (mean_a, covariance_a, mean_b, covariance_b))
        raise ValueError(f"means must be (D,) and covariances (D, D), not {shapes}")
    if not all(part.isfinite().all() for part in (mean_a, mean_b, covariance_a, covariance_b)):
        raise ValueError("means and covariances must be finite")
    shared = torch.linalg.svdvals(_root(covariance_a) @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * shared
    return max(0.0, distance.item())  # of equal ones rounding leaves a little, above or below


def gaussian(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64.

    Raises:
        ValueError: of fewer than two rows there is no covariance.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N of 2 or more, not {tuple(features.shape)}")
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


class FrechetDistance:
    """Fréchet distances of several sets of clips from one, over any features.

    Args:
        real: features (N, D) of the one, N of 2 or more; any floating dtype.
        seed: of the resamples.

    Raises:
        ValueError: they are no such features.
    """

    def __init__(self, real: torch.Tensor, seed: int = 0):
        self._real = real.detach().double()
        self._gaussian = gaussian(real)
        self._seed = seed
        self._roots: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def distance(self, features: torch.Tensor) -> float:
        """The Fréchet distance of features (M, D), M of 2 or more.

        Raises:
            ValueError: they are no such features, or a value is not finite.
        """
        return frechet_distance(*gaussian(features), *self._gaussian)

    def interval(self, features: torch.Tensor, resamples: int = RESAMPLES) -> Interval:
        """The same with its bootstrap interval; the clips of both sets are resampled. No distance is below zero."""
        means, roots, traces = self._resampled(resamples)
        counts = resample_counts(len(features), self._seed, resamples)
        own, covariances = _weighted_gaussians(features.detach().double(), counts)
        shared = torch.linalg.eigvalsh(roots @ covariances @ roots).clamp_min(0).sqrt().sum(-1)
        distances = (own - means).square().sum(-1) + _traces(covariances) + traces - 2 * shared
        interval = percentile_interval(self.distance(features), distances)
        return interval._replace(low=max(0.0, interval.low))

    def _resampled(self, resamples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Means (B, D), roots of covariances (B, D, D) and their traces (B,) of resamples of the real clips."""
        if resamples not in self._roots:
            counts = resample_counts(len(self._real), self._seed + 1, resamples)
            means, covariances = _weighted_gaussians(self._real, counts)
            values, vectors = torch.linalg.eigh(covariances)
            roots = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
            self._roots[resamples] = means, roots, _traces(covariances)
        return self._roots[resamples]


def coarse_features(video: torch.Tensor) -> torch.Tensor:
    """What is seen of clips from afar, at most 64 numbers each.

    A clip is averaged down to 4x4 cells at 4 times; beside each colour stands the mean absolute change from one frame
    to the next in the same cell and time (none where there is one frame only). A fixed orthonormal matrix takes these
    384 numbers (128 for grey clips) to 64, which keeps distances as well as so few can (Johnson & Lindenstrauss 1984).

    Args:
        video: uint8 (N, T, H, W, C), any sizes, C being 1 or 3; on any device.

    Returns:
        float64 (N, 64) on the CPU, in units of the full range of a pixel. The same clips give the same features.

    Raises:
        ValueError: another dtype or shape.
    """
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] not in (1, 3) or 0 in video.shape[1:]:
        raise ValueError(
            f"clips must be uint8 (N, T, H, W, C) with C of 1 or 3, not {video.dtype} {tuple(video.shape)}"
        )
    clips = max(1, _CHUNK // video[:1].numel()) if len(video) else 1
    cells = torch.cat([_cells(part) for part in video.split(clips)])
    return cells @ _projection(cells.shape[1])


class CoarseScore:
    """How far generated clips are from real ones, seen from afar: a Fréchet distance over `coarse_features`, not FVD.

    Lower is better. Real clips score above zero too, the more so the fewer there are on either side: of the digits 0.33
    with 128 on each, 0.21 with 128 and 512, 0.08 with 512 on each. Compare scores of equally many clips only.

    Args:
        real: uint8 (N, T, H, W, C), N of 2 or more, better of several hundred; not kept.

    Raises:
        ValueError: they are no such clips.
    """

    def __init__(self, real: torch.Tensor):
        self._real = gaussian(coarse_features(real))
        self._channels = real.shape[-1]

    def score(self, generated: torch.Tensor) -> float:
        """The distance of generated clips, uint8 (N, T, H, W, C), N of 2 or more, from the real ones; of any T, H, W.

        Raises:
            ValueError: they are no such clips, or of another number of channels than the real ones.
        """
        features = coarse_features(generated)
        if generated.shape[-1] != self._channels:
            raise ValueError(f"the real clips have {self._channels} channels, the generated {generated.shape[-1]}")
        return frechet_distance(*self._real, *gaussian(features))


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """The symmetric square root; eigenvalues within rounding of zero count as zero, else their roots would not be."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return vectors * torch.where(values > noise, values, 0.0).sqrt() @ vectors.T


def _weighted_gaussians(features: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (B, D) and covariances (B, D, D) of features (N, D) that are counted (B, N) times."""
    total = counts.sum(1)
    means = counts @ features / total[:, None]
    centred = features - features.mean(0)  # rounding is of the spread, not of the place
    shift = counts @ centred / total[:, None]
    squares = torch.stack([centred.T @ (centred * weight[:, None]) for weight in counts])
    covariances = squares - total[:, None, None] * shift[:, :, None] * shift[:, None]
    return means, covariances / (total - 1)[:, None, None]


def _traces(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _cells(video: torch.Tensor) -> torch.Tensor:
    """Colours and changes of a few clips in all cells, float64 (n, 2 * cells * C) on the CPU."""
    frames = video.permute(0, 4, 1, 2, 3).float().div(255)  # (n, C, T, H, W)
    colour = adaptive_avg_pool3d(frames, _CELLS)
    if frames.shape[2] > 1:
        change = adaptive_avg_pool3d(frames.diff(dim=2).abs(), _CELLS)
    else:
        change = torch.zeros_like(colour)
    return torch.cat([colour.flatten(1), change.flatten(1)], 1).double().cpu()


def _projection(size: int) -> torch.Tensor:
    """(size, 64): orthonormal columns, always the same ones, scaled so that distances stay as they are on average."""
    draw = torch.randn(size, _FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(draw).Q * (size / _FEATURES) ** 0.5
