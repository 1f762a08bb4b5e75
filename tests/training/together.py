"""A few steps of a tiny run as one of several processes, for comparisons; in a module of its own, to be spawned."""

import torch
from tiny import tiny

from fastvgan.data.digits import DigitsSource
from fastvgan.training.batches import BatchMaker, opened
from fastvgan.training.conditions import Conditions, with_data
from fastvgan.training.parallel import Parallel
from fastvgan.training.step import AdversarialStep
from fastvgan.training.step_tensors import tensors_of

PARTS = ("class", "image", "text")


def steps_in_float64(rank, size, settings):
    settings = dict(settings)
    config = tiny({"condition": PARTS, **settings.pop("model", {})}, **settings)
    parallel = Parallel(rank, size)
    source = DigitsSource()
    model = with_data(config.model, source)
    torch.set_default_dtype(torch.float64)
    step = AdversarialStep(model, config.training, torch.device("cpu"), torch.float32, parallel)
    torch.set_default_dtype(torch.float32)
    total = config.training.batch_size
    maker = BatchMaker(
        Conditions(model, source),
        step.generator.noise,
        0,
        config.training.wrong_conditions,
        parallel.rows(total),
        total,
    )
    batches = maker.all(source.batches(total // size, 0, 0, rank, size), 0)
    for number in range(4):
        inputs = opened(next(batches), PARTS)
        c = inputs.c._replace(image=inputs.c.image.double())
        own = inputs.wrong.image is inputs.c.image
        wrong = inputs.wrong._replace(image=c.image if own else inputs.wrong.image.double())
        step(number, inputs.real.double(), inputs.z.double(), c, wrong, step.regularises(number))
    totals = parallel.sum(step.totals.clone())
    result = {**{k: v.detach().clone() for k, v in tensors_of(step).items()}, "means": totals[0] / totals[1]}
    parallel.close()
    return result
