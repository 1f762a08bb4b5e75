"""A replayed step is the eager one, bit for bit: in CUDA graphs on a GPU, in recordings without one."""

import copy
import itertools

import pytest
import torch
from recorded import Operations, Recorder, Recording
from tiny import tiny

from fastvgan import random_draws
from fastvgan.data import sampling
from fastvgan.data.clips import ClipSource, Item
from fastvgan.data.decoders import shards
from fastvgan.data.digits import DigitsSource
from fastvgan.data.media.types import Media, Probe
from fastvgan.data.sampling import Cut
from fastvgan.data.source import Clips
from fastvgan.errors import UserError
from fastvgan.files.tensor_file import save_tensors
from fastvgan.training.batches import BatchMaker
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.graphs import CudaGraphs, StepRunner
from fastvgan.training.step.tensors import tensors_of
from fastvgan_kernels.measured.capture import are_launches_captured
from fastvgan_kernels.philox import philox

CPU = torch.device("cpu")
PARTS = ("image", "text")
ALL = {"discriminators": ("clip", "difference", "frame"), "frame_every": 2, "warp": True, "clock": True}


class Poisoned(BatchMaker):
    """Makes noise that is not finite where `poison` is, which is on the device."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.poison = torch.zeros((), device=arguments[-1])

    def make(self, *arguments):
        inputs = super().make(*arguments)
        return inputs._replace(z=inputs.z + self.poison)


def make(precision=torch.float32, parts=PARTS, device=CPU, model=None, source=None, **training):
    """A step, what makes its inputs, and the clips of step 0 on for steps that do not draw their own."""
    config = tiny({"condition": parts, **(model or {})}, **training)
    source = source or DigitsSource()
    model = add_vocabulary(config.model, source)
    step = AdversarialStep(model, config.training, device, precision)
    size = config.training.batch_size
    wrong = config.training.wrong_conditions
    conditions = Conditions(model, source, device)
    maker = Poisoned(conditions, step.generator, source, 0, wrong, range(size), size, device)
    clips = (Clips(*(x.to(device) for x in clips)) for clips in source.batches(size, 0))
    return step, maker, clips


def everything(step):
    return {**tensors_of(step), "totals": step.totals}


@pytest.fixture(autouse=True)
def same_kernels(monkeypatch):
    """What auto computes by stock PyTorch's own call it cannot in a recording, and then rounds otherwise."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("FASTVGAN_IMPL", "cpp")


def run(step, maker, mode, backend=None, steps=100, poison=(), clips=None):
    runner = StepRunner(step, maker, mode, backend)
    for number in range(steps):
        maker.poison.fill_(torch.nan if number in poison else 0)
        step.set_rates(1 - number / steps)
        step.set_diversity(number / steps)
        runner(number, clips and next(clips))
    return {name: tensor.detach().clone() for name, tensor in everything(step).items()}


@pytest.mark.parametrize(
    ("family", "precision"), [("conv3d", torch.float32), ("conv3d", torch.float16), ("recurrent", torch.bfloat16)]
)
def test_a_recorded_step_is_the_eager_one(family, precision):
    """With all on that changes between steps: rates, weights, penalties, which condition is wrong, steps left out."""
    steps = 40
    settings = {"model": {"family": family, **ALL}, "r1": 0.1, "r1_every": 2, "diversity": 1.0, "redraw": 3.0}
    settings |= {"contrast": 0.5, "wrong_conditions": 3, "feature_diversity": 1.5}
    step, maker, _ = make(precision, **settings)
    eager = run(step, maker, "off", steps=steps, poison=(5, 30))
    step, maker, _ = make(precision, **settings)
    recorder = Recorder()
    replayed = run(step, maker, "auto", recorder, steps, poison=(5, 30))
    assert recorder.captured == 2 + 4  # clips and G's update; D's with and without penalty and wrong first frames
    assert [name for name in eager if not torch.equal(eager[name], replayed[name])] == []
    skipped = eager["totals"][0, step_field("skipped")]
    assert skipped >= 2 and all(torch.isfinite(tensor).all() for tensor in eager.values())


@pytest.mark.parametrize("parts", [PARTS, ("class", "image", "text"), ()])
def test_clips_that_come_ahead_train_as_those_that_the_step_draws(parts):
    """Both captured and not."""
    results = []
    for backend, ahead in itertools.product((None, Recorder()), (False, True)):
        step, maker, clips = make(parts=parts)
        results.append(run(step, maker, "auto" if backend else "off", backend, 24, clips=clips if ahead else None))
    for other in results[1:]:
        assert [name for name in other if not torch.equal(results[0][name], other[name])] == []


def make_decoded(folder, count, device=CPU):
    """A source of decoded clips of 16x16 to 20x16, 9 to 45 frames long, with captions and classes."""
    random = torch.Generator().manual_seed(count)
    clips = {
        str(i): torch.randint(0, 256, (9 + 36 * i // 7, 16, 16 + 2 * i % 6, 3), dtype=torch.uint8, generator=random)
        for i in range(count)
    }
    path = folder / f"{count}.safetensors"
    save_tensors(clips, path)
    items = [
        Item(
            name,
            Media("shard", path, name),
            Probe(*video.shape[:3], "rgb24"),
            tuple(f"number {name}, said in way {i}" for i in range(1 + int(name) % 2)),
            "ab"[int(name) % 2],
        )
        for name, video in clips.items()
    ]
    return ClipSource(items, Cut(16, 16, 16, max_stride=2, mirror=True), device=device)


@pytest.fixture
def held_on_device(monkeypatch):
    """Shards are held on the device, the CPU too, and few epochs are shuffled at once."""
    monkeypatch.setattr(shards, "_fits", lambda *_: True)
    monkeypatch.setattr(sampling, "_AHEAD", 8)
    sampling._orders.cache_clear()
    yield
    sampling._orders.cache_clear()


@pytest.mark.parametrize(("count", "parts"), [(7, ("class", "image", "text")), (3, ("text",)), (1, ("image",))])
def test_clips_held_on_the_device_train_as_those_cut_by_the_host(count, parts, tmp_path, held_on_device, monkeypatch):
    """Captured or not, with batches across the ends of epochs, and larger than the set."""
    results = []
    source = make_decoded(tmp_path, count)
    assert source.draws and source.shuffles
    for backend in (None, Recorder()):
        step, maker, _ = make(parts=parts, source=source)
        results.append(run(step, maker, "auto" if backend else "off", backend, 24))
        assert backend is None or backend.captured >= 3
    monkeypatch.setattr(shards, "_fits", lambda *_: False)
    source = make_decoded(tmp_path, count)
    assert not source.draws and not source.shuffles
    step, maker, clips = make(parts=parts, source=source)
    results.append(run(step, maker, "off", steps=24, clips=clips))
    for other in results[1:]:
        assert [name for name in other if not torch.equal(results[0][name], other[name])] == []


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_step_s_clips_are_the_same_in_any_order_and_shared_by_processes(count, tmp_path, held_on_device):
    source = make_decoded(tmp_path, count)
    config = tiny({"condition": PARTS})
    model = add_vocabulary(config.model, source)
    conditions = Conditions(model, source)
    generator = AdversarialStep(model, config.training, CPU, torch.float32).generator

    def maker(start, stop):
        return BatchMaker(conditions, generator, source, 5, 1, range(start, stop), 6)

    def real(maker, number):
        maker.prepare(number)
        return maker.make(torch.tensor(number), torch.tensor(0)).real

    whole, parts = maker(0, 6), [maker(0, 2), maker(2, 4), maker(4, 6)]
    straight = [real(whole, number) for number in range(12)]
    for number in (11, 3, 4, 0, 10):
        assert torch.equal(real(whole, number), straight[number])
        assert torch.equal(torch.cat([real(part, number) for part in parts]), straight[number])
    assert torch.equal(real(maker(0, 6), 7), straight[7])


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 7, 50])
def test_a_cuda_graph_cuts_the_clips_that_the_cpu_does(count, tmp_path, held_on_device):
    cuda = torch.device("cuda", 0)
    (_, here, _), (_, there, _) = (
        make(parts=(), device=d, source=make_decoded(tmp_path, count, d)) for d in (CPU, cuda)
    )
    number, part = torch.zeros((2,), dtype=torch.int64, device=cuda).unbind()
    there.prepare(0)
    there.make(number, part)
    graph, made = CudaGraphs(cuda).capture(lambda: there.make(number, part))
    for step in (*range(30), 2**40, 3):
        there.prepare(step)
        number.fill_(step)
        graph.replay()
        here.prepare(step)
        expected = here.make(torch.tensor(step), torch.tensor(0)).real
        # Two bytes next to each other are 0.008 apart.
        torch.testing.assert_close(made.real.cpu(), expected, rtol=0, atol=1e-6)


def test_once_captured_the_host_cuts_nothing(tmp_path, held_on_device, monkeypatch):
    monkeypatch.setattr(sampling, "_AHEAD", 1000)
    step, maker, _ = make(source=make_decoded(tmp_path, 7))
    runner = StepRunner(step, maker, "auto", Recorder())
    for number in range(40):
        runner(number)
    monkeypatch.setattr(Recording, "replay", lambda self: None)
    with Operations() as host:
        for number in range(40, 60):
            runner(number)
    assert set(host.names) == {"fill_"}


def test_kernels_are_chosen_for_a_capture_where_there_is_one(monkeypatch):
    known = []
    real = BatchMaker.make
    monkeypatch.setattr(BatchMaker, "make", lambda *given: known.append(are_launches_captured()) or real(*given))
    for backend in (None, Recorder()):
        step, maker, _ = make(parts=())
        run(step, maker, "auto" if backend else "off", backend, 13)
        assert known and set(known) == {backend is not None} and not are_launches_captured()
        known.clear()


def test_once_captured_the_host_draws_nothing(monkeypatch):
    step, maker, _ = make()
    recorder = Recorder()
    runner = StepRunner(step, maker, "auto", recorder)
    for number in range(40):
        runner(number)
    assert recorder.captured == 2 + 2
    monkeypatch.setattr(Recording, "replay", lambda self: None)
    with Operations() as host:
        for number in range(40, 60):
            runner(number)
    # The average's memory, the step's number, and which part is wrong where that changes.
    assert set(host.names) == {"fill_"} and 2 * 20 < len(host.names) < 3 * 20


@pytest.mark.parametrize("is_decoded", [False, True])
@pytest.mark.parametrize(("parts", "most"), [((), 32), (("text",), 50), (("class", "image", "text"), 60)])
def test_a_step_s_draws_are_few_operations(parts, most, is_decoded, tmp_path, held_on_device, monkeypatch):
    """Without those of Philox, which is one kernel on a GPU."""
    _, maker, _ = make(parts=parts, wrong_conditions=3, source=make_decoded(tmp_path, 7) if is_decoded else None)
    maker.prepare(3)
    number, part, words = torch.tensor(3), torch.tensor(0), []
    monkeypatch.setattr(random_draws, "philox", lambda *given: words.append(philox(*given)) or words[-1])
    maker.make(number, part)
    assert len(words) == 1  # all that is drawn is drawn at once
    monkeypatch.setattr(random_draws, "philox", lambda *_: words[0])
    with Operations() as found:
        maker.make(number, part)
    assert len(found.names) <= most + 2 * is_decoded, found.names


def step_field(name):
    from fastvgan.training.step.adversarial import StepResult

    return StepResult._fields.index(name)


def test_parts_of_a_batch_are_recorded_too():
    results = []
    for backend in (None, Recorder()):
        step, maker, _ = make(accumulate=2)
        results.append(run(step, maker, "auto" if backend else "off", backend, 30))
    assert [name for name in results[0] if not torch.equal(results[0][name], results[1][name])] == []


def test_another_shape_is_captured_again():
    step, maker, stream = make(parts=())
    recorder = Recorder()
    runner = StepRunner(step, maker, "auto", recorder)
    other, its, _ = make(parts=())
    plain = StepRunner(other, its, "off")
    for number in range(60):
        clips = next(stream)
        if number % 2:
            clips = clips._replace(label=None)
        runner(number, clips)
        plain(number, clips)
    assert recorder.captured == 2 * 3
    mine, theirs = everything(step), everything(other)
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


class Refuses(Recorder):
    def capture(self, function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


def test_a_step_that_cannot_be_captured_runs_eagerly_and_is_reported(caplog):
    step, maker, _ = make(parts=())
    with caplog.at_level("WARNING"):
        mine = run(step, maker, "auto", Refuses(), 20)
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA graphs: the step cannot be captured: operation not permitted when stream is capturing"
    ]
    other, again, _ = make(parts=())
    theirs = run(other, again, "off", steps=20)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    step, maker, _ = make(parts=())
    with pytest.raises(UserError, match="--cuda-graphs on: the step cannot be captured"):
        run(step, maker, "on", Refuses(), 20)


def test_graphs_are_refused_without_a_gpu():
    step, maker, _ = make(parts=())
    with pytest.raises(UserError, match="--cuda-graphs on: they need a GPU, and the device is cpu"):
        StepRunner(step, maker, "on")


def test_a_value_read_by_the_host_cannot_be_recorded():
    with pytest.raises(RuntimeError, match="the host waits"):
        Recorder().capture(lambda: torch.ones(2).sum().item())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "r1"), [("conv3d", 0.1), ("recurrent", 0.0)])
def test_a_replayed_graph_is_the_eager_step(precision, family, r1, monkeypatch):
    """Over 100 steps: weights, statistics, moments, average, scale; to the bit, the kernels being the same.

    Not of the recurrent family with R1, whose eager steps were seen not to repeat themselves on an H100.
    """
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    settings = {"model": {"family": family, "base_width": 16}, "r1": r1, "r1_every": 4, "diversity": 1.0}
    settings |= {"batch_size": 16, "device": torch.device("cuda", 0)}
    results = []
    for mode in ("off", "on"):
        step, maker, _ = make(precision, **settings)
        results.append(run(step, maker, mode, steps=100, poison=(5, 60)))
    for name, eager in results[0].items():
        torch.testing.assert_close(results[1][name], eager, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("is_decoded", [False, True])
def test_the_host_waits_for_nothing_in_a_step(mode, is_decoded, tmp_path, held_on_device):
    """With shards that are shuffled again every other step."""
    device = torch.device("cuda", 0)
    source = make_decoded(tmp_path, 7, device) if is_decoded else None
    step, maker, _ = make(torch.bfloat16, device=device, r1=0.1, r1_every=4, source=source)
    runner = StepRunner(step, maker, mode)
    for number in range(40):
        runner(number)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(40, 60):
            step.set_rates(0.5)
            runner(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_copy_of_a_step_trains_as_the_step_does():
    step, maker, _ = make(parts=())
    other = copy.deepcopy(step)
    mine = run(step, maker, "off", steps=5)
    theirs = run(other, maker, "off", steps=5)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
