"""The flags of `fastvgan.evaluate` that choose detectors and say how each one sees clips."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import Field

from fastvgan.errors import UserError
from fastvgan.settings import Settings

Range = Literal["signed", "unit", "byte", "imagenet"]
Resize = Literal["bilinear", "antialias"]
Size = Annotated[int, Field(ge=0, le=4096)]
PUBLISHED_CLIPS, PUBLISHED_FRAMES = 2048, 16
"""The counts that most papers compare (Skorokhodov et al. 2022, StyleGAN-V: FVD_16 of 2,048 clips)."""

_SIZE = 224
_Value = TypeVar("_Value")


class View(NamedTuple):
    """A TorchScript file, and how it sees clips.

    path: the file.
    name: its name in tables.
    size: height and width to which frames are scaled; 0 keeps those of the clips.
    range: of pixels: "signed" is [-1, 1], "unit" [0, 1], "byte" [0, 255], and "imagenet" [0, 1] minus ImageNet's mean
        colour, divided by its standard deviation.
    resize: "bilinear" without antialiasing, or "antialias".
    """

    path: Path
    name: str
    size: int = _SIZE
    range: Range = "signed"
    resize: Resize = "bilinear"


class DetectorFlags(Settings):
    """Flags that choose detectors."""

    detector: tuple[Path, ...] = ()
    """TorchScript files that return features, such as the I3D of FVD; the table then has their distances only. A file
    is a program: use only those you trust."""
    detector_name: tuple[str, ...] = ()
    """Names of the detectors in the table; by default those of the files."""
    detector_size: tuple[Size, ...] = (_SIZE,)
    """Height and width of a detector's frames, one value or one per detector; 0 keeps those of the clips."""
    detector_range: tuple[Range, ...] = ("signed",)
    """Range of a detector's pixels: [-1, 1], [0, 1], [0, 255], or normalised as for ImageNet."""
    detector_resize: tuple[Resize, ...] = ("bilinear",)
    """How frames are scaled to the detector's size: bilinear without antialiasing, as FVD is published, or with it."""
    detector_batch: int = Field(8, ge=1, le=4096)
    """Clips that detectors and generator process at once."""
    classifier: Path | None = None
    """TorchScript file that returns logits of classes, for the inception score."""
    classifier_size: Size = _SIZE
    """Height and width of the classifier's frames; 0 keeps those of the clips."""
    classifier_range: Range = "signed"
    """Range of the classifier's pixels, as --detector-range."""
    classifier_resize: Resize = "bilinear"
    """How frames are scaled to the classifier's size, as --detector-resize."""
    resamples: int = Field(100, ge=10, le=100_000)
    """Bootstrap resamples of the intervals of these scores."""
    cache: Path | None = None
    """Folder for features of real clips, which later evaluations reuse; by default fastvgan/real-features in the
    user's cache folder."""

    @property
    def has_detectors(self) -> bool:
        """Whether a detector or a classifier is given."""
        return bool(self.detector) or self.classifier is not None


def detector_views(flags: DetectorFlags) -> list[View]:
    """Return the detectors of a command line.

    Raises:
        UserError: a flag has neither one value nor one per detector, or two detectors have one name.
    """
    count = len(flags.detector)
    names = flags.detector_name or tuple(path.stem for path in flags.detector)
    if len(names) != count:
        raise UserError(
            f"--detector-name {' '.join(names)}: pass one name per file of --detector, of which {count} are given"
        )
    if double := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"two detectors are named {min(double)!r}; pass another name for each file with --detector-name"
        )
    sizes = _one_per_detector("size", flags.detector_size, count)
    ranges = _one_per_detector("range", flags.detector_range, count)
    rules = _one_per_detector("resize", flags.detector_resize, count)
    return [View(*parts) for parts in zip(flags.detector, names, sizes, ranges, rules, strict=True)]


def classifier_view(flags: DetectorFlags) -> View | None:
    """Return the classifier of a command line, or None without one; a detector may be the same file."""
    if flags.classifier is None:
        return None
    path = flags.classifier
    return View(path, f"classifier {path.stem}", flags.classifier_size, flags.classifier_range, flags.classifier_resize)


def _one_per_detector(name: str, values: Sequence[_Value], count: int) -> Sequence[_Value]:
    if len(values) == 1:
        return [values[0]] * count
    if len(values) != count:
        typed = " ".join(map(str, values))
        raise UserError(
            f"--detector-{name} {typed}: pass one value, or one per file of --detector, of which {count} are given"
        )
    return values
