"""Steps as CUDA graphs: captured once for each shape, then replayed by three launches of the host's."""

import logging
from collections import Counter
from typing import Any, NamedTuple

import torch

from fastvgan.errors import UserError
from fastvgan.training.batches import Batch, Inputs, opened
from fastvgan.training.step import AdversarialStep, Held

logger = logging.getLogger("fastvgan")

# What a library sets up at its first calls must not be captured; 11 is what DistributedDataParallel asks for.
_EAGER_STEPS = 11
_EAGER_STEPS_OF_A_KIND = 3


class CudaGraphs:
    """The few calls of torch.cuda that capturing takes, all on one stream and into one pool of memory.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function) -> tuple[Any, Any]:
        """(graph, what the function gave): the function's kernels are recorded, not run."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, the feed's and DALI's, go on calling CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            made = function()
        return graph, made


class _Captured(NamedTuple):
    """The graphs for batches of one shape, and what they read and write.

    static: where each batch is copied to. judges: D's graphs by (regularise, wrong_image). alive: what the graphs hand
    on to each other.
    """

    static: Batch
    begin: Any
    judges: dict[tuple[bool, bool], Any]
    fool: Any
    alive: tuple[Inputs, Held]


class StepRunner:
    """Runs steps of one training, captured in CUDA graphs where that is asked for and can be done.

    The generation of clips, D's update (without and with the gradient penalty) and G's are a graph each, with
    optimisers, the average and the totals in them. Nothing is captured before a few steps have run as they are, and
    another shape is captured anew.

    Args:
        step: what to run. parts: of conditions that the model follows. mode: "auto", "on" or "off".
        backend: what captures; None for CudaGraphs.

    Raises:
        UserError: mode is "on" and it cannot be done.
    """

    def __init__(self, step: AdversarialStep, parts: tuple[str, ...], mode: str, backend=None):
        self.step, self._parts, self._mode = step, parts, mode
        self._device = step.totals.device
        self._eager: Counter = Counter()
        self._captured: dict[Any, _Captured] = {}
        self._why_not = self._refusal(backend)
        if self._why_not and mode == "on":
            raise UserError(f"--cuda-graphs on: {self._why_not}; leave it at auto")
        if self._why_not and mode == "auto" and self._device.type == "cuda":
            logger.info("no CUDA graphs: %s", self._why_not)
        self._backend = None if self._why_not else backend or CudaGraphs(self._device)

    def _refusal(self, backend) -> str | None:
        if self._mode == "off":
            return "they are turned off"
        if backend is None and self._device.type != "cuda":
            return f"they are for a GPU, and the device is {self._device.type}"
        if self._mode == "auto" and self.step.world_size > 1:
            return "with several processes they have not been tried yet; --cuda-graphs on does"
        return None

    def __call__(self, number: int, batch: Batch) -> None:
        """Run step `number` on a batch that is on the device; its scalars go to `step.totals`."""
        self.step.prepare(number)
        regularise = self.step.regularises(number)
        if self._backend is None:
            self._run(batch, regularise)
            return
        stream = getattr(self._backend, "stream", None)
        if stream is None:
            self._run_or_replay(batch, regularise)
            return
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._run_or_replay(batch, regularise)
        current.wait_stream(stream)

    def _run(self, batch: Batch, regularise: bool) -> None:
        inputs = opened(batch, self._parts)
        held = self.step.begin(inputs)
        self.step.update_discriminator(inputs, held, regularise)
        self.step.update_generator(inputs, held)

    def _run_or_replay(self, batch: Batch, regularise: bool) -> None:
        shape, kind = _shape(batch), (regularise, batch.wrong_image)
        captured = self._captured.get(shape)
        if captured is None or kind not in captured.judges:
            self._eager[shape] += 1
            self._eager[shape, kind] += 1
            warm = self._eager[shape] > _EAGER_STEPS and self._eager[shape, kind] > _EAGER_STEPS_OF_A_KIND
            captured = self._try_to_capture(shape, kind, batch) if warm else None
        if captured is None:
            self._run(batch, regularise)
            return
        _copy(batch, captured.static)
        for graph in (captured.begin, captured.judges[kind], captured.fool):
            graph.replay()

    def _try_to_capture(self, shape, kind, batch: Batch) -> _Captured | None:
        try:
            captured = self._captured.get(shape) or self._capture(batch)
            if kind not in captured.judges:
                captured.judges[kind] = self._capture_judge(captured, kind)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
            return None
        if shape not in self._captured:
            logger.info("captured the step for clips of %s as CUDA graphs", "x".join(map(str, batch.video.shape)))
        self._captured[shape] = captured
        return captured

    def _capture(self, batch: Batch) -> _Captured:
        capture, step = self._backend.capture, self.step
        static = Batch(*(x.clone() if isinstance(x, torch.Tensor) else x for x in batch))._replace(wrong_image=False)

        def begin():
            inputs = opened(static, self._parts)
            return inputs, step.begin(inputs)

        first, (inputs, held) = capture(begin)
        # The clips' graph is kept: what it saved must stay where it is while other graphs are captured.
        last, _ = capture(lambda: step.update_generator(inputs, held, keep_graph=True))
        return _Captured(static, first, {}, last, (inputs, held))

    def _capture_judge(self, captured: _Captured, kind):
        regularise, wrong_image = kind
        inputs, held = captured.alive

        def judge():
            given = inputs
            if wrong_image:
                given = opened(captured.static._replace(wrong_image=True), self._parts)
            self.step.update_discriminator(given, held, regularise)

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


def _shape(batch: Batch):
    return tuple((x.shape, x.dtype) if isinstance(x, torch.Tensor) else None for x in batch), batch.has_wrong


def _copy(batch: Batch, static: Batch) -> None:
    for new, old in zip(batch, static, strict=True):
        if isinstance(new, torch.Tensor):
            old.copy_(new)
