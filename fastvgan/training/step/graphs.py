"""Steps as CUDA graphs: captured once for each shape, then replayed by three launches of the host's."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.training.batches import BatchMaker, Inputs, with_wrong_images
from fastvgan.training.step.adversarial import AdversarialStep, Held
from fastvgan.training.step.scalar import DeviceScalar
from fastvgan_kernels.measured.capture import launches_are_captured

logger = logging.getLogger("fastvgan")
T = TypeVar("T")

# What a library sets up at its first calls must not be captured; 11 is what DistributedDataParallel asks for.
_EAGER_STEPS = 11
_EAGER_STEPS_OF_A_KIND = 3


class Graph(Protocol):
    """What was captured."""

    def replay(self) -> None: ...


class GraphBackend(Protocol):
    """What `StepRunner` captures by.

    stream: what all is captured and replayed on; None where there are no streams.
    """

    stream: torch.cuda.Stream | None

    def capture(self, function: Callable[[], T]) -> tuple[Graph, T]:
        """(graph, what the function gave): the function's operations are recorded, not run."""


class CudaGraphs:
    """The `GraphBackend` of a GPU: the few calls of torch.cuda that capturing takes, on one stream, into one pool.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device):
        self.stream: torch.cuda.Stream | None = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], T]) -> tuple[Graph, T]:
        graph = torch.cuda.CUDAGraph()
        # Other threads, the feed's and DALI's, go on calling CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            made = function()
        return graph, made


class _Captured(NamedTuple):
    """The graphs for batches of one shape, and what they read and write.

    static: where decoded clips are copied to; None where the graphs draw clips. judges: D's graphs by (regularise,
    wrong_image). alive: what the graphs hand on to each other.
    """

    static: Clips | None
    begin: Graph
    judges: dict[tuple[bool, bool], Graph]
    fool: Graph
    alive: tuple[Inputs, Held]


class StepRunner:
    """Runs steps of one training, captured in CUDA graphs where that is asked for and can be done.

    The step's inputs with the generation of clips, D's update (without and with the gradient penalty) and G's are a
    graph each, with optimisers, the average and the totals in them. All that is random in a step follows from its
    number, which is in a tensor on the device: where the source draws clips, replaying is all that the host does.
    The runner captures after a few eager steps, once for each shape of clips.

    Args:
        step: what to run. maker: what makes its inputs. mode: "auto", "on" or "off".
        backend: what captures; None for CudaGraphs.

    Raises:
        UserError: mode is "on" and it cannot be done.
    """

    def __init__(self, step: AdversarialStep, maker: BatchMaker, mode: str, backend: GraphBackend | None = None):
        self.step, self._maker, self._mode = step, maker, mode
        self._device = step.totals.device
        self._number, self._part = (DeviceScalar(0, self._device, torch.int64) for _ in range(2))
        self._eager: Counter = Counter()
        self._captured: dict[Any, _Captured] = {}
        self._why_not = self._refusal(backend)
        if self._why_not and mode == "on":
            raise UserError(f"--cuda-graphs on: {self._why_not}; leave it at auto")
        if self._why_not and mode == "auto" and self._device.type == "cuda":
            logger.info("no CUDA graphs: %s", self._why_not)
        self._backend = None if self._why_not else backend or CudaGraphs(self._device)

    def _refusal(self, backend: GraphBackend | None) -> str | None:
        if self._mode == "off":
            return "they are turned off"
        if backend is None and self._device.type != "cuda":
            return f"they are for a GPU, and the device is {self._device.type}"
        if self._mode == "auto" and self.step.world_size > 1:
            return "with several processes they have not been tried yet; --cuda-graphs on does"
        return None

    def __call__(self, number: int, clips: Clips | None = None) -> None:
        """Run step `number`; its scalars go to `step.totals`.

        Args:
            clips: those of the step, on the device; None where the source draws them.
        """
        part = self._maker.wrong_part(number)
        self.step.prepare(number)
        self._maker.prepare(number)
        self._number.set(number)
        self._part.set(part)
        kind = self.step.regularises(number), self._maker.has_wrong_image(part)
        if self._backend is None:
            self._run(clips, kind)
            return
        with launches_are_captured():
            self._on_its_stream(clips, kind)

    def _on_its_stream(self, clips: Clips | None, kind: tuple[bool, bool]) -> None:
        stream = self._backend.stream
        if stream is None:
            self._run_or_replay(clips, kind)
            return
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._run_or_replay(clips, kind)
        current.wait_stream(stream)

    def _run(self, clips: Clips | None, kind: tuple[bool, bool]) -> None:
        regularise, wrong_image = kind
        inputs = self._maker.make(self._number.tensor, self._part.tensor, clips)
        held = self.step.begin(inputs)
        self.step.update_discriminator(with_wrong_images(inputs) if wrong_image else inputs, held, regularise)
        self.step.update_generator(inputs, held)

    def _run_or_replay(self, clips: Clips | None, kind: tuple[bool, bool]) -> None:
        shape = _shape(clips)
        captured = self._captured.get(shape)
        if captured is None or kind not in captured.judges:
            self._eager[shape] += 1
            self._eager[shape, kind] += 1
            warm = self._eager[shape] > _EAGER_STEPS and self._eager[shape, kind] > _EAGER_STEPS_OF_A_KIND
            captured = self._try_to_capture(shape, kind, clips) if warm else None
        if captured is None:
            self._run(clips, kind)
            return
        _copy(clips, captured.static)
        for graph in (captured.begin, captured.judges[kind], captured.fool):
            graph.replay()

    def _try_to_capture(self, shape, kind, clips: Clips | None) -> _Captured | None:
        try:
            captured = self._captured.get(shape) or self._capture(clips)
            if kind not in captured.judges:
                captured.judges[kind] = self._capture_judge(captured, kind)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
            return None
        if shape not in self._captured:
            size = "x".join(map(str, captured.alive[0].real.shape))
            logger.info("captured the step for clips of %s as CUDA graphs", size)
        self._captured[shape] = captured
        return captured

    def _capture(self, clips: Clips | None) -> _Captured:
        capture, step = self._backend.capture, self.step
        static = None if clips is None else Clips(*(None if x is None else x.clone() for x in clips))

        def begin():
            inputs = self._maker.make(self._number.tensor, self._part.tensor, static)
            return inputs, step.begin(inputs)

        first, (inputs, held) = capture(begin)
        # The clips' graph is kept: what it saved must stay where it is while other graphs are captured.
        last, _ = capture(lambda: step.update_generator(inputs, held, keep_graph=True))
        return _Captured(static, first, {}, last, (inputs, held))

    def _capture_judge(self, captured: _Captured, kind):
        regularise, wrong_image = kind
        inputs, held = captured.alive

        def judge():
            self.step.update_discriminator(with_wrong_images(inputs) if wrong_image else inputs, held, regularise)

        return self._backend.capture(judge)[0]

    def _give_up(self, reason: str) -> None:
        """Go on as before: nothing that was to be captured has run."""
        if self._mode == "on":
            raise UserError(f"--cuda-graphs on: the step cannot be captured: {reason}; leave it at auto")
        logger.warning("no CUDA graphs: the step cannot be captured: %s", reason)
        self._backend = None
        self._captured.clear()
        self.step.d_update.clear()
        self.step.g_update.clear()


def _shape(clips: Clips | None):
    return clips and tuple(x if x is None else (x.shape, x.dtype) for x in clips)


def _copy(clips: Clips | None, static: Clips | None) -> None:
    for new, old in zip(clips or (), static or (), strict=True):
        if new is not None:
            old.copy_(new)
