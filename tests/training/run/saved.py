"""Short runs that save checkpoints."""

from tiny import tiny

from fastvgan.training.loop import TrainingLoop
from fastvgan.training.run.resume import Start, find_start


def train(folder, resume=None, model=None, **training):
    start = find_start("t", folder, resume) if resume else Start(folder)
    trainer = TrainingLoop(tiny(model, **training), start)
    assert trainer.run() == 0
    return trainer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])
