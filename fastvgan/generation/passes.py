"""Forward passes of a generator: batches of clips, and reduced precision."""

import contextlib

import torch

from fastvgan.files.pixels import to_uint8
from fastvgan.generation.interpolation import interpolate_vectors
from fastvgan.models import Condition
from fastvgan.models.conditions import EncodedCondition
from fastvgan.models.noise import NoiseDriven
from fastvgan.models.warp import MotionPath

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Passes:
    """Runs a generator.

    Args:
        network: the generator.

    Attributes:
        dtype: of `DTYPES`, in which convolutions and other products compute.
    """

    def __init__(self, network: NoiseDriven):
        self._network = network
        self.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self._network.parameters()).device

    def convert(self, dtype: torch.dtype) -> None:
        """Change the dtype. Vectors (norms, biases) and the path of a moving picture stay in float32.

        In half precision the path would round neighbouring frames to different places.
        """
        paths = [module for module in self._network.modules() if isinstance(module, MotionPath)]
        kept = {id(parameter) for path in paths for parameter in path.parameters()}
        for parameter in self._network.parameters():
            if parameter.is_floating_point() and parameter.dim() > 1 and id(parameter) not in kept:
                parameter.data = parameter.data.to(dtype)
        self.dtype = dtype

    def noise(self, seeds: list[int], frames: int) -> torch.Tensor:
        """Return the noise of clip 0 of each seed, float32 (N, ...) on the CPU."""
        return torch.cat([self._network.noise(1, seed, frames) for seed in seeds])

    def run(
        self, noise: torch.Tensor, condition: Condition | EncodedCondition | None, count: int, batch_size: int
    ) -> torch.Tensor:
        """Generate clips.

        Args:
            noise: (count, ...), or (1, ...) for all clips.
            condition: parts of as many rows, or None.
            count: the number of clips.
            batch_size: clips per forward pass.

        Returns:
            uint8 (count, T, H, W, C) on the CPU.
        """
        clips = []
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            with self._precision():
                clips.append(to_uint8(self._network(self._take(noise, rows), self._select(condition, rows))))
        return torch.cat(clips)

    def encode_between(self, condition: Condition | None, shares: torch.Tensor) -> EncodedCondition | None:
        """Encode the conditions of two clips, and interpolate.

        Args:
            condition: parts of two rows or one, or None.
            shares: the share of the second clip, (S,) in [0, 1].

        Returns:
            S conditions, with the first clip's image; None without a condition.
        """
        if condition is None or self._network.condition is None:
            return None
        with self._precision():
            ends = [self._network.condition(self._select(condition, slice(i, i + 1))) for i in range(2)]
        vectors = interpolate_vectors(ends[0][0].float(), ends[1][0].float(), shares)
        return EncodedCondition(vectors, condition.image)

    def _select(
        self, condition: Condition | EncodedCondition | None, rows: slice
    ) -> Condition | EncodedCondition | None:
        if condition is None:
            return None
        parts = {name: self._take(part, rows) for name, part in condition._asdict().items() if part is not None}
        return type(condition)(**parts)

    def _take(self, part: torch.Tensor, rows: slice) -> torch.Tensor:
        count = rows.stop - rows.start
        return (part.expand(count, *part.shape[1:]) if len(part) == 1 else part[rows]).to(self.device)

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)
