"""Detectors: networks in TorchScript files that map clips to features."""

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from fastvgan.errors import UserError
from fastvgan.metrics.detectors.flags import View

# The community's I3D file (Skorokhodov et al. 2022) and NVIDIA's image detectors take these arguments. Clips are
# scaled here, so that the rule is the same for every detector.
_ARGUMENTS = {"rescale": False, "resize": False, "return_features": True}
_RANGES = {"signed": "[-1, 1]", "unit": "[0, 1]", "byte": "[0, 255]", "imagenet": "[0, 1], normalised as for ImageNet"}
_RULES = {"bilinear": "bilinear without antialiasing", "antialias": "bilinear with antialiasing"}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


class Detector:
    """A network that maps clips to features, float32 (N, F).

    Loading a TorchScript file compiles the program in it, and calling it runs this program with the user's rights.

    Args:
        view: the file, and how the network sees clips.
        device: where it runs.

    Attributes:
        view: as given.
        sha256: of the file, in hexadecimal.
        arguments: keyword arguments of each call: those in the file's signature among rescale=False, resize=False and
            return_features=True.
        is_i3d: whether the file has the signature of the I3D of FVD.
        features: F, once `probe` has been called.

    Raises:
        UserError: the file is missing or not TorchScript, or its signature is another one.
    """

    def __init__(self, view: View, device: torch.device):
        self.view, self._device, self.features = view, device, 0
        self._module, self.sha256 = _load(view.path, device)
        names = _check_signature(view.path, self._module)
        self.arguments = {name: value for name, value in _ARGUMENTS.items() if name in names}
        self.is_i3d = len(self.arguments) == len(_ARGUMENTS)
        if self.is_i3d and view.range != "signed":
            raise UserError(
                f"{view.path} has the signature of the I3D of FVD, which is called with pixels in [-1, 1] and "
                f"rescale=False; pass the range signed, not {view.range}"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """All settings that features depend on, as JSON values."""
        return {
            "sha256": self.sha256,
            "size": self.view.size,
            "range": self.view.range,
            "resize": self.view.resize,
            "arguments": self.arguments,
        }

    @property
    def protocol(self) -> dict[str, Any]:
        """The file, the settings that features depend on, and the number of features, as JSON values."""
        return {"file": str(self.view.path), **self.facts, "features": self.features}

    def describe(self) -> str:
        """Return the protocol as a phrase."""
        view, scaled = self.view, "of the clips' own size"
        if view.size:
            scaled = f"scaled to {view.size}x{view.size} ({_RULES[view.resize]}, proportions not kept)"
        called = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return (
            f"{view.path}, sha256 {self.sha256[:12]}, frames {scaled}, pixels in {_RANGES[view.range]}, "
            f"{self.features} features{f', called with {called}' if called else ''}"
        )

    def probe(self, shape: tuple[int, ...], counts: Iterable[int]) -> None:
        """Call the network on black clips, so that a detector that does not fit is refused before clips are made.

        Args:
            shape: (T, H, W, C) of the clips.
            counts: numbers of clips in a call.

        Raises:
            UserError: the network does not take clips of this shape, or does not return (N, F).
        """
        sizes = {self._run(torch.zeros(count, *shape, dtype=torch.uint8)).shape[1] for count in sorted(set(counts))}
        if len(sizes) > 1:
            raise UserError(
                f"{self.view.path} returns {' or '.join(map(str, sorted(sizes)))} features, depending on the number of "
                "clips in a call; pass a detector that returns equally many for each clip"
            )
        (self.features,) = sizes
        if not self.features:
            raise UserError(f"{self.view.path} returns no features; pass another detector")

    def __call__(self, video: torch.Tensor, kind: str) -> torch.Tensor:
        """Return the features, float32 (N, F) on the CPU, of clips.

        Args:
            video: uint8 (N, T, H, W, C).
            kind: "real" or "generated", for messages.

        Raises:
            UserError: the features have another shape, or a value is not finite.
        """
        features = self._run(video)
        if features.shape[1] != self.features:
            raise UserError(
                f"{self.view.path} returned {features.shape[1]} features for {kind} clips and {self.features} for "
                "black ones; pass a detector that returns equally many for each clip"
            )
        if not features.isfinite().all():
            raise UserError(
                f"{self.view.path} returns NaN or infinite features for {kind} clips; pass another detector"
            )
        return features

    @torch.no_grad()
    def _run(self, video: torch.Tensor) -> torch.Tensor:
        inputs = to_inputs(video.to(self._device), self.view)
        shape = tuple(inputs.shape)
        try:
            # Without its optimiser, TorchScript computes the first calls and later ones alike.
            with torch.jit.optimized_execution(False):
                features = self._module(inputs, **self.arguments)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            if "not enough memory" in str(error):
                raise
            raise UserError(
                f"{self.view.path} does not take clips of shape {shape} ({_last_line(error)}); "
                f"pass its size, now {self.view.size}, or clips of another length"
            ) from error
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(video):
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise UserError(
                f"{self.view.path} must return features of shape ({len(video)}, F) for clips of shape {shape}, but "
                f"returned {found}; wrap it in a module that does"
            )
        if not features.is_floating_point():
            raise UserError(f"{self.view.path} must return floating-point features, but returned {features.dtype}")
        return features.float().cpu()


def to_inputs(video: torch.Tensor, view: View) -> torch.Tensor:
    """Return the inputs of a detector, float32 (N, 3, T, H', W'), for clips uint8 (N, T, H, W, C) with C of 1 or 3.

    Grey clips become three equal channels. Each frame is scaled alone, by its corners (align_corners=False).
    """
    count, _, height, width, _ = video.shape
    frames = video.permute(0, 1, 4, 2, 3).flatten(0, 1).float()  # (N T, C, H, W)
    if view.size and (height, width) != (view.size, view.size):
        size, smooth = (view.size, view.size), view.resize == "antialias"
        frames = interpolate(frames, size, mode="bilinear", align_corners=False, antialias=smooth)
    frames = frames.expand(-1, 3, -1, -1)
    if view.range == "signed":
        frames = frames / 127.5 - 1
    elif view.range == "unit":
        frames = frames / 255
    elif view.range == "imagenet":
        mean, deviation = (frames.new_tensor(part).view(3, 1, 1) for part in (_MEAN, _DEVIATION))
        frames = (frames / 255 - mean) / deviation
    return frames.unflatten(0, (count, -1)).transpose(1, 2).contiguous()


def _load(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, str]:
    """Return the module of a TorchScript file, in evaluation mode, and the file's sha256 in hexadecimal."""
    if not path.is_file():
        reason = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {reason}; pass a TorchScript file")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load reads the files that are in use today
        try:
            module = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError, torch.jit.Error) as error:
            raise UserError(
                f"{path} is not a TorchScript file ({_first_sentence(error)}); weights alone, as torch.save writes "
                "them, do not suffice: save the network with torch.jit.script or torch.jit.trace"
            ) from error
    return module.eval(), sha256


def _check_signature(path: Path, module: torch.jit.ScriptModule) -> set[str]:
    """Return the names of the arguments of a module's forward, after the clips."""
    forward: Any = getattr(module, "forward", None)  # torch does not declare its schema
    if forward is None:
        raise UserError(f"{path} has no method forward; save a network that maps clips to features")
    arguments = [argument for argument in forward.schema.arguments if argument.name != "self"]
    if not arguments or str(arguments[0].type) != "Tensor":
        raise UserError(f"{path} does not take a tensor of clips: its signature is {forward.schema}; pass another file")
    others = arguments[1:]
    if unknown := [one.name for one in others if one.name not in _ARGUMENTS and not one.has_default_value()]:
        raise UserError(
            f"{path} needs the argument {unknown[0]!r} besides the clips; wrap it in a module that takes clips alone"
        )
    return {argument.name for argument in others}


def _first_sentence(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]


def _last_line(error: BaseException) -> str:
    """Return the reason of a TorchScript error, whose last line follows the trace of the program."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
