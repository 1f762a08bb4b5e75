"""A few steps of a tiny run by one process and by two; a separate module, since processes import it."""

import os
import socket

import forks
import torch
import torch._dynamo  # noqa: F401  which the first step of an optimiser takes seconds to import
import torch.multiprocessing
from tiny import tiny

from fastvgan.data.digits import DigitsSource
from fastvgan.training.batches import BatchMaker, with_wrong_images
from fastvgan.training.conditions import Conditions, add_vocabulary
from fastvgan.training.parallel import Parallel
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.tensors import tensors_of

PARTS = ("class", "image", "text")


def compare_two_processes(folder, settings, close=1e-5):
    """Assert that two processes compute what one does with the same batch; return the results of the one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks.context()
    torch.multiprocessing.start_processes(_worker, (2, port, settings, folder), 2, start_method="forkserver")
    alone = steps_in_float64(0, 1, settings)
    for rank in range(2):
        together = torch.load(folder / f"{rank}.pt")
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            size = close * _size(expected)
            torch.testing.assert_close(
                together[name], expected, rtol=close, atol=size, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
    return alone


def _worker(rank, size, port, settings, folder):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.save(steps_in_float64(rank, size, settings), f"{folder}/{rank}.pt")


def _size(tensor):
    return max(tensor.nan_to_num().abs().max().item(), 1e-12)  # a penalty that no step has is NaN


def steps_in_float64(rank, size, settings):
    settings, count = dict(settings), 4
    if "objective" in settings:  # losses in float32, whose rounding Adam enlarges from step to step
        count = 2
    config = tiny({"condition": PARTS, **settings.pop("model", {})}, **settings)
    parallel = Parallel(rank, size)
    source = DigitsSource()
    model = add_vocabulary(config.model, source)
    torch.set_default_dtype(torch.float64)
    step = AdversarialStep(model, config.training, torch.device("cpu"), torch.float32, parallel)
    torch.set_default_dtype(torch.float32)
    total = config.training.batch_size
    wrong, rows = config.training.wrong_conditions, parallel.rows(total, config.training.accumulate)
    maker = BatchMaker(Conditions(model, source), step.generator, source, 0, wrong, rows, total)
    for number in range(count):
        part = maker.draw_wrong_part(number)
        inputs = in_float64(maker.make(torch.tensor(number), torch.tensor(part)))
        step.prepare(number)
        start = step.begin(inputs)
        of_d = with_wrong_images(inputs) if maker.has_wrong_image(part) else inputs
        step.update_discriminator(of_d, start, step.has_gradient_penalty(number))
        step.update_generator(inputs, start)
    totals = parallel.sum(step.totals.clone())
    means = totals[0] / totals[1].clamp_min(1)
    result = {**{k: v.detach().clone() for k, v in tensors_of(step).items()}, "means": means}
    parallel.close()
    return result


def in_float64(inputs):
    c = inputs.c._replace(image=None if inputs.c.image is None else inputs.c.image.double())
    wrong = inputs.wrong._replace(image=c.image)
    return inputs._replace(real=inputs.real.double(), z=inputs.z.double(), c=c, wrong=wrong)
