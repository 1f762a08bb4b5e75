"""A step with `upsampling="resize"` against stock Adam and an orthogonal projection of its weights."""

import copy

import pytest
import torch
from test_step import CPU, in_float64

from fastvgan.models import ModelConfig
from fastvgan.runs.config import TrainingConfig
from fastvgan.training.batches import Inputs
from fastvgan.training.step.adversarial import AdversarialStep

SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
ONTO = torch.eye(4, dtype=torch.float64) - torch.outer(SIGNS, SIGNS) / 4


def make(family, upsampling):
    model = ModelConfig(
        family=family, condition=(), base_width=2, latent=4, frames=8, upsampling=upsampling, time_margin=True
    )
    step = AdversarialStep(model, TrainingConfig(matching_aware=False), CPU, torch.float32)
    in_float64(step)
    return step


def strided(network):
    """The weights of a network's transposed convolutions of stride 2, with the dimensions of that stride."""
    for module in network.modules():
        if isinstance(module, torch.nn.ConvTranspose3d) and 2 in module.stride:
            yield module.weight, [2 + i for i, stride in enumerate(module.stride) if stride == 2]


@pytest.mark.parametrize("family", ["conv3d", "recurrent"])
def test_three_steps_equal_free_ones_whose_kernels_are_projected(family):
    ours, free = make(family, "resize"), make(family, "transposed")
    for network in ("generator", "discriminator", "ema"):
        getattr(free, network).load_state_dict(copy.deepcopy(getattr(ours, network).state_dict()))
    draw = torch.Generator().manual_seed(0)
    for number in range(3):
        real = torch.rand(4, 3, 8, 16, 16, generator=draw, dtype=torch.float64) * 2 - 1
        inputs = Inputs(real, ours.generator.arrange(torch.randn(4, ours.generator.noise_size(), generator=draw)))
        inputs = inputs._replace(z=inputs.z.double())
        ours(number, inputs)
        free(number, inputs)
        with torch.no_grad():
            for weight, dims in strided(free.generator):
                for dim in dims:
                    weight.copy_(torch.tensordot(weight, ONTO, ([dim], [0])).movedim(-1, dim))
        for (name, one), other in zip(ours.generator.named_parameters(), free.generator.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9, msg=name)
    for weight, dims in strided(ours.ema):  # an average of such kernels is one, too
        for dim in dims:
            assert torch.tensordot(weight, SIGNS, ([dim], [0])).abs().max() < 1e-9


@pytest.mark.parametrize("is_skipped", [True, False])
def test_a_skipped_step_projects_nothing(is_skipped):
    step = make("conv3d", "resize")
    weight, _ = next(strided(step.generator))
    with torch.no_grad():
        weight += 1.0 - SIGNS  # a kernel that the projection changes
    before, z = weight.detach().clone(), step.generator.noise(4).double()
    step(0, Inputs(torch.rand(4, 3, 8, 16, 16, dtype=torch.float64), z * torch.nan if is_skipped else z))
    assert torch.equal(weight, before) == is_skipped
    assert (torch.tensordot(weight, SIGNS, ([4], [0])).abs().max() < 1e-9) != is_skipped
