"""The Fréchet distance between two sets of clips for any features, and features that need no trained network.

`CoarseScore` is **not** the Fréchet video distance (FVD), which compares the features of a trained network (I3D,
Unterthiner et al. 2018). It compares colours, positions and amounts of change in a few large cells. It shows whether a
run improves, degrades or has collapsed, but ignores detail, and its values are not comparable with published ones.
"""

import torch
from torch.nn.functional import adaptive_avg_pool3d

from fastvgan.metrics.intervals import RESAMPLES, Interval, percentile_interval, resample_counts

_CELLS = 4  # along time, height and width
_FEATURES = 64  # few enough to estimate their covariance from some hundred clips
_CHUNK = 2**23  # float32 values in memory at once


def frechet_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance of two Gaussians, ‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½).

    Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"; as a score of generators
    Heusel et al. 2017. The trace of (Σ₁ Σ₂)^½ is computed as the sum of the singular values of Σ₁^½ Σ₂^½, which needs
    no inverse and so accepts singular covariances. Computed in float64.

    Args:
        mean_a: (D,), of any floating dtype.
        covariance_a: (D, D), symmetric and positive semidefinite up to rounding.
        mean_b: (D,).
        covariance_b: (D, D), as covariance_a.

    Raises:
        ValueError: the shapes do not match, or a value is not finite.
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
    return max(0.0, distance.item())  # for equal Gaussians, rounding leaves a small value of either sign


def gaussian(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (D,) and unbiased covariance (D, D) of features (N, D), in float64.

    Raises:
        ValueError: the shape is another one, or N is below 2.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (N, D) with N of 2 or more, not {tuple(features.shape)}")
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


class FrechetDistance:
    """Fréchet distances of sets of clips from one reference set, for any features.

    Args:
        real: features of the reference set, (N, D), N of 2 or more; any floating dtype.
        seed: of the resamples.

    Raises:
        ValueError: the features have another shape.
    """

    def __init__(self, real: torch.Tensor, seed: int = 0):
        self._real = real.detach().double()
        self._gaussian = gaussian(real)
        self._seed = seed
        self._roots: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def distance(self, features: torch.Tensor) -> float:
        """Return the Fréchet distance of features (M, D), M of 2 or more.

        Raises:
            ValueError: the features have another shape, or a value is not finite.
        """
        return frechet_distance(*gaussian(features), *self._gaussian)

    def interval(self, features: torch.Tensor, resamples: int = RESAMPLES) -> Interval:
        """Return the Fréchet distance of features (M, D) with its bootstrap interval, cut at 0. Resamples both sets."""
        means, roots, traces = self._resample_real(resamples)
        counts = resample_counts(len(features), self._seed, resamples)
        own, covariances = _gaussians_of_counts(features.detach().double(), counts)
        shared = torch.linalg.eigvalsh(roots @ covariances @ roots).clamp_min(0).sqrt().sum(-1)
        distances = (own - means).square().sum(-1) + _traces(covariances) + traces - 2 * shared
        interval = percentile_interval(self.distance(features), distances)
        return interval._replace(low=max(0.0, interval.low))

    def _resample_real(self, resamples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return means (B, D), roots of covariances (B, D, D) and their traces (B,) of resamples of the real clips."""
        if resamples not in self._roots:
            counts = resample_counts(len(self._real), self._seed + 1, resamples)
            means, covariances = _gaussians_of_counts(self._real, counts)
            values, vectors = torch.linalg.eigh(covariances)
            roots = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
            self._roots[resamples] = means, roots, _traces(covariances)
        return self._roots[resamples]


def coarse_features(video: torch.Tensor) -> torch.Tensor:
    """Return features of clips at low resolution, 64 per clip.

    A clip is averaged to 4x4 cells at 4 times. Each cell has its mean colour and its mean absolute change from one
    frame to the next (0 in a clip of one frame). A fixed orthonormal matrix projects these 384 numbers (128 for grey
    clips) to 64, which approximately preserves distances (Johnson & Lindenstrauss 1984).

    Args:
        video: uint8 (N, T, H, W, C) of any size, C of 1 or 3; on any device.

    Returns:
        float64 (N, 64) on the CPU, in units of a pixel's full range; deterministic.

    Raises:
        ValueError: the clips have another dtype or shape.
    """
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] not in (1, 3) or 0 in video.shape[1:]:
        raise ValueError(
            f"clips must be uint8 (N, T, H, W, C) with C of 1 or 3, not {video.dtype} {tuple(video.shape)}"
        )
    clips = max(1, _CHUNK // video[:1].numel()) if len(video) else 1
    cells = torch.cat([_cells(part) for part in video.split(clips)])
    return cells @ _projection(cells.shape[1])


class CoarseScore:
    """A distance of generated from real clips at low resolution: the Fréchet distance of `coarse_features`, not FVD.

    Lower is better. Real clips also score above zero, and higher for fewer clips: digits score 0.33 for 128 clips
    against 128, 0.21 for 128 against 512, and 0.08 for 512 against 512. Compare only scores of equal numbers of clips.

    Args:
        real: uint8 (N, T, H, W, C), N of 2 or more, preferably several hundred; not kept.

    Raises:
        ValueError: the clips have another dtype or shape.
    """

    def __init__(self, real: torch.Tensor):
        self._real = gaussian(coarse_features(real))
        self._channels = real.shape[-1]

    def score(self, generated: torch.Tensor) -> float:
        """Return the distance of generated clips, uint8 (N, T, H, W, C), N of 2 or more, with any T, H and W.

        Raises:
            ValueError: the clips have another dtype, shape or number of channels.
        """
        features = coarse_features(generated)
        if generated.shape[-1] != self._channels:
            raise ValueError(f"the real clips have {self._channels} channels, the generated {generated.shape[-1]}")
        return frechet_distance(*self._real, *gaussian(features))


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Return the symmetric square root. Eigenvalues within rounding of zero count as zero: their roots would not be."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return vectors * torch.where(values > noise, values, 0.0).sqrt() @ vectors.T


def _gaussians_of_counts(features: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means (B, D) and covariances (B, D, D) of features (N, D) with counts (B, N)."""
    total = counts.sum(1)
    means = counts @ features / total[:, None]
    centred = features - features.mean(0)  # so that rounding errors scale with the spread, not the mean
    shift = counts @ centred / total[:, None]
    squares = torch.stack([centred.T @ (centred * weight[:, None]) for weight in counts])
    covariances = squares - total[:, None, None] * shift[:, :, None] * shift[:, None]
    return means, covariances / (total - 1)[:, None, None]


def _traces(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _cells(video: torch.Tensor) -> torch.Tensor:
    """Return colours and changes of clips in all cells, float64 (n, 2 * cells * C) on the CPU."""
    frames = video.permute(0, 4, 1, 2, 3).float().div(255)  # (n, C, T, H, W)
    colour = adaptive_avg_pool3d(frames, _CELLS)
    if frames.shape[2] > 1:
        change = adaptive_avg_pool3d(frames.diff(dim=2).abs(), _CELLS)
    else:
        change = torch.zeros_like(colour)
    return torch.cat([colour.flatten(1), change.flatten(1)], 1).double().cpu()


def _projection(size: int) -> torch.Tensor:
    """Return a fixed matrix (size, 64) with orthogonal columns, scaled to preserve distances on average."""
    draw = torch.randn(size, _FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(draw).Q * (size / _FEATURES) ** 0.5
