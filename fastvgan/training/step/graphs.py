"""Steps as CUDA graphs: captured once per shape of clips, then replayed by three launches."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import torch

from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.training.batches import BatchMaker, Inputs, with_wrong_images
from fastvgan.training.step.adversarial import AdversarialStep, StepStart
from fastvgan.training.step.scalar import DeviceScalar
from fastvgan_kernels.measured.capture import launches_are_captured

logger = logging.getLogger("fastvgan")
T = TypeVar("T")
Kind: TypeAlias = tuple[bool, bool]
"""Whether a step has the gradient penalty, and whether it has wrong first frames."""
_Shape: TypeAlias = tuple[tuple[torch.Size, torch.dtype] | None, ...] | None

# Libraries set things up in their first calls, which must not be captured; DistributedDataParallel needs 11 steps.
_EAGER_STEPS = 11
_EAGER_STEPS_PER_KIND = 3


class Graph(Protocol):
    """Captured operations."""

    def replay(self) -> None:
        """Run the captured operations."""


class GraphBackend(Protocol):
    """What captures functions for `StepRunner`.

    Attributes:
        stream: the stream to capture and replay on; None if the device has no streams.
    """

    stream: torch.cuda.Stream | None

    def capture(self, function: Callable[[], T]) -> tuple[Graph, T]:
        """Record a function's operations without running them; return the graph and the function's result."""


class CudaGraphs:
    """The `GraphBackend` of a GPU: captures on one stream, into one memory pool.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device):
        self.stream: torch.cuda.Stream | None = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], T]) -> tuple[Graph, T]:
        """Record a function's operations without running them; return the graph and the function's result."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, the feed's and DALI's, call CUDA during the capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            result = function()
        return graph, result


class _Captured(NamedTuple):
    """The graphs for clips of one shape, and the tensors that they read and write.

    Attributes:
        static: buffers that decoded clips are copied to; None if the graphs draw clips.
        begin: graph of the inputs and the generation of clips.
        update_d: graphs of D's update by kind of step.
        update_g: graph of G's update.
        shared: tensors that the graphs share.
    """

    static: Clips | None
    begin: Graph
    update_d: dict[Kind, Graph]
    update_g: Graph
    shared: tuple[Inputs, StepStart]


class StepRunner:
    """Runs the steps of a training, as CUDA graphs if the mode asks for them and the device supports them.

    One graph computes the inputs and the generated clips, one D's update (per kind of step), and one G's update with
    the average and the totals. All random numbers of a step follow from its number, which is a tensor on the device: if
    the source draws clips, the host only replays. The runner captures after a few eager steps, once per shape of clips.

    Args:
        step: the step to run.
        maker: what makes the step's inputs.
        mode: "auto", "on" or "off".
        backend: what captures; None for CudaGraphs.

    Raises:
        UserError: mode is "on", and the step cannot be captured.
    """

    def __init__(self, step: AdversarialStep, maker: BatchMaker, mode: str, backend: GraphBackend | None = None):
        self.step, self._maker, self._mode = step, maker, mode
        self._device = step.totals.device
        self._number, self._part = (DeviceScalar(0, self._device, torch.int64) for _ in range(2))
        self._eager: Counter = Counter()
        self._captured: dict[_Shape, _Captured] = {}
        self._level, self._stale, self._announced = step.beta_level, list[Graph](), set[_Shape]()
        obstacle = self._find_obstacle(backend)
        if obstacle and mode == "on":
            raise UserError(f"--cuda-graphs on: {obstacle}; use --cuda-graphs auto")
        if obstacle and mode == "auto" and self._device.type == "cuda":
            logger.info("no CUDA graphs: %s", obstacle)
        self._backend = None if obstacle else backend or CudaGraphs(self._device)

    def _find_obstacle(self, backend: GraphBackend | None) -> str | None:
        if self._mode == "off":
            return "they are turned off"
        if backend is None and self._device.type != "cuda":
            return f"they need a GPU, and the device is {self._device.type}"
        if self._mode == "auto" and self.step.world_size > 1:
            return "they are untested with several processes; --cuda-graphs on enables them"
        return None

    def __call__(self, number: int, clips: Clips | None = None) -> None:
        """Run step `number`, which adds its scalars to `step.totals`.

        Args:
            number: the step, from 0.
            clips: clips of the step on the device; None if the source draws them.
        """
        part = self._maker.draw_wrong_part(number)
        self.step.prepare(number)
        self._maker.prepare(number)
        self._number.set(number)
        self._part.set(part)
        kind = self.step.has_gradient_penalty(number), self._maker.has_wrong_image(part)
        self._follow_level()
        if self._backend is None:
            self._run(clips, kind)
            return
        with launches_are_captured():
            self._run_on_stream(self._backend, clips, kind)

    def _follow_level(self) -> None:
        """Drop the graphs of another level of Adam's second beta; the next step captures again, without eager steps."""
        if self._level != self.step.beta_level:
            self._level = self.step.beta_level
            # One graph keeps the memory pool in use until the next capture: torch allows no return to an unused pool.
            self._stale += [captured.begin for captured in self._captured.values()]
            self._captured.clear()

    def _run_on_stream(self, backend: GraphBackend, clips: Clips | None, kind: Kind) -> None:
        stream = backend.stream
        if stream is None:
            self._run_or_replay(backend, clips, kind)
            return
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._run_or_replay(backend, clips, kind)
        current.wait_stream(stream)

    def _run(self, clips: Clips | None, kind: Kind) -> None:
        inputs = self._maker.make(self._number.tensor, self._part.tensor, clips)
        start = self.step.begin(inputs)
        self._update_discriminator(inputs, start, kind)
        self.step.update_generator(inputs, start)

    def _update_discriminator(self, inputs: Inputs, start: StepStart, kind: Kind) -> None:
        regularise, is_image_wrong = kind
        self.step.update_discriminator(with_wrong_images(inputs) if is_image_wrong else inputs, start, regularise)

    def _run_or_replay(self, backend: GraphBackend, clips: Clips | None, kind: Kind) -> None:
        shape = _shape(clips)
        captured = self._captured.get(shape)
        if captured is None or kind not in captured.update_d:
            self._eager[shape] += 1
            self._eager[shape, kind] += 1
            is_warm = self._eager[shape] > _EAGER_STEPS and self._eager[shape, kind] > _EAGER_STEPS_PER_KIND
            captured = self._try_to_capture(backend, kind, clips) if is_warm else None
        if captured is None:
            self._run(clips, kind)
            return
        _copy(clips, captured.static)
        for graph in (captured.begin, captured.update_d[kind], captured.update_g):
            graph.replay()

    def _try_to_capture(self, backend: GraphBackend, kind: Kind, clips: Clips | None) -> _Captured | None:
        shape = _shape(clips)
        try:
            captured = self._captured.get(shape) or self._capture(backend, clips)
            if kind not in captured.update_d:
                inputs, start = captured.shared
                graph, _ = backend.capture(lambda: self._update_discriminator(inputs, start, kind))
                captured.update_d[kind] = graph
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
            return None
        self._stale.clear()
        if shape not in self._announced:
            self._announced.add(shape)
            size = "x".join(map(str, captured.shared[0].real.shape))
            logger.info("captured the step for clips of %s as CUDA graphs", size)
        self._captured[shape] = captured
        return captured

    def _capture(self, backend: GraphBackend, clips: Clips | None) -> _Captured:
        step = self.step
        static = None
        if clips is not None:
            rest = (None if x is None else x.clone() for x in clips[1:])
            static = Clips(clips.video.clone(), *rest)

        def begin() -> tuple[Inputs, StepStart]:
            inputs = self._maker.make(self._number.tensor, self._part.tensor, static)
            return inputs, step.begin(inputs)

        first, (inputs, start) = backend.capture(begin)
        # The clips' autograd graph is kept, since its saved tensors must not move while other graphs are captured.
        last, _ = backend.capture(lambda: step.update_generator(inputs, start, keep_graph=True))
        return _Captured(static, first, {}, last, (inputs, start))

    def _give_up(self, reason: str) -> None:
        """Continue without graphs: none of the operations of a failed capture has run."""
        if self._mode == "on":
            raise UserError(f"--cuda-graphs on: the step cannot be captured: {reason}; use --cuda-graphs auto")
        logger.warning("no CUDA graphs: the step cannot be captured: %s", reason)
        self._backend = None
        self._captured.clear()
        self.step.d_update.clear()
        self.step.g_update.clear()


def _shape(clips: Clips | None) -> _Shape:
    return None if clips is None else tuple(x if x is None else (x.shape, x.dtype) for x in clips)


def _copy(clips: Clips | None, static: Clips | None) -> None:
    for new, old in zip(clips or (), static or (), strict=True):
        if new is not None and old is not None:
            old.copy_(new)
