"""How many launches a train step takes on a GPU, counted without one; see launches.py for what is counted."""

import pytest
import torch
from launches import Launches, launches_of
from tiny import weights

from fastvgan.data.source import Clips
from fastvgan.files.pixels import to_float
from fastvgan.runs.presets import PRESETS
from fastvgan.training.batches import Inputs
from fastvgan.training.step import adversarial as step_module
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.graphs import StepRunner
from fastvgan_kernels import choice

pytestmark = pytest.mark.triton
CPU = torch.device("cpu")
ATEN = torch.ops.aten


class Decoded:
    """Takes the place of `BatchMaker`, whose own launches test_graphs.py counts: noise is given, as clips are."""

    def __init__(self, config):
        self.z = torch.randn(config.training.batch_size, config.model.latent)

    def draw_wrong_part(self, number):
        return 0

    def prepare(self, number):
        """There is nothing that the host has to bring up to date."""

    def has_wrong_image(self, part):
        return False

    def make(self, number, part, clips):
        return Inputs(to_float(clips.video, CPU), self.z, None, None)


def clips_of(config):
    model, size = config.model, config.training.batch_size
    shape = size, model.frames, model.height, model.width, model.channels
    return Clips(torch.randint(256, shape, dtype=torch.uint8), None, None)


def config_of(name):
    """A preset, or `clips-64` as it was when its step was profiled on an H100."""
    config = PRESETS[name.removesuffix(" plain")]
    plain = {"upsampling": "transposed", "time_margin": False, "d_bias": False}
    return config.model_copy(update={"model": config.model.model_copy(update=plain)}) if "plain" in name else config


def count(name):
    config = config_of(name)
    with Launches():
        step = AdversarialStep(config.model, config.training, CPU, torch.bfloat16)
    runner, clips = StepRunner(step, Decoded(config), "off"), clips_of(config)
    with Launches() as launches:
        runner(0, clips)
    return launches


@pytest.mark.parametrize("preset, most", [("reference", 97), ("clips-64 plain", 164), ("clips-64", 186)])
def test_a_step_takes_few_launches(preset, most):
    launches = count(preset)
    # The passes of the convolutions, of which none can be spared: were they not seen, nothing would be.
    layers = {"reference": (21, 9)}.get(preset, (37, 15))
    few = launches.names["up_few_kernel"] + launches.names["down_few_kernel"], launches.names["grad_few_kernel"]
    assert min(few) > 0
    assert (launches.names["gather_kernel"] + few[0], launches.names["weight_grad_kernel"] + few[1]) == layers
    assert launches.count <= most, launches.names


@pytest.mark.parametrize("preset, most", [("reference", 119), ("clips-64 plain", 186), ("clips-64", 241)])
def test_a_step_takes_few_launches_by_what_has_run_on_a_gpu(monkeypatch, preset, most):
    for operation, implementations in choice._registry.items():
        if implementations.get("triton") and implementations["triton"].held_back:
            others = {name: each for name, each in implementations.items() if name != "triton"}
            monkeypatch.setitem(choice._registry, operation, others)
    assert count(preset).count <= most


def test_one_kernel_finishes_the_statistics_of_a_norm():
    names = count("reference").names
    assert names["join_parts_kernel"] == 5 and not {"lerp_", "rsqrt"} & set(names)


@pytest.mark.parametrize(
    "launches, function, args",
    [
        (0, ATEN.view.default, (torch.ones(2), [2])),
        (0, ATEN.empty_like.default, (torch.ones(2),)),
        (1, ATEN.add.Tensor, (torch.ones(2), torch.ones(2))),
        (1, ATEN._foreach_add_.List, ([torch.ones(2)] * 64, [torch.ones(2)] * 64)),
        (2, ATEN._foreach_add_.List, ([torch.ones(2)] * 65, [torch.ones(2)] * 65)),
        (2, ATEN._foreach_add_.Scalar, ([torch.ones(2)] * 111, 1)),
        (3, ATEN._foreach_add_.Scalar, ([torch.empty(300 * 65536), torch.empty(500 * 65536)], 1)),
        (3, ATEN._foreach_norm.Scalar, ([torch.ones(2)] * 9,)),
        (9, ATEN._foreach_add_.List, ([torch.ones(2)] * 9, [torch.ones(2).double()] * 9)),
        (1, ATEN._foreach_copy_.default, ([torch.ones(2)] * 9, [torch.ones(2).double()] * 9)),
        (9, ATEN._foreach_copy_.default, ([torch.ones(2, 2)] * 9, [torch.ones(2, 2).T] * 9)),
    ],
)
def test_the_rules(launches, function, args):
    assert launches_of(function, args, {}) == launches


def test_a_step_by_copies_of_weights_is_the_step_to_the_bit(monkeypatch):
    monkeypatch.setenv("FASTVGAN_IMPL", "reference")
    preset = PRESETS["reference"]
    model = preset.model.model_copy(update={"base_width": 16, "latent": 5})
    training = preset.training.model_copy(update={"batch_size": 4, "r1": 0.1, "r1_every": 2})
    results = []
    for copies in (False, True):
        monkeypatch.setattr(step_module, "reads_copies", lambda device, copies=copies: copies)
        step = AdversarialStep(model, training, CPU, torch.bfloat16)
        assert bool(step._copies) == copies
        torch.manual_seed(1)
        config = preset.model_copy(update={"model": model, "training": training})
        runner = StepRunner(step, Decoded(config), "off")
        for number in range(4):
            runner(number, clips_of(config))
        results.append(weights(step))
    assert [name for name in results[0] if not torch.equal(results[0][name], results[1][name])] == []
