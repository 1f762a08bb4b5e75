"""The training loop: clips in, steps, metrics, samples and checkpoints out."""

import errno
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from fastvgan.data import open_source
from fastvgan.data.source import Source
from fastvgan.errors import UserError
from fastvgan.export import EXPORTED, export
from fastvgan.pixels import to_float
from fastvgan.training import checkpoint
from fastvgan.training.conditions import Conditions, with_data
from fastvgan.training.config import RunConfig, differences
from fastvgan.training.device import pick_device, pick_implementations, pick_precision
from fastvgan.training.feed import feed
from fastvgan.training.resume import Start
from fastvgan.training.run_folder import RunFolder
from fastvgan.training.samples import Samples
from fastvgan.training.step import AdversarialStep

logger = logging.getLogger("fastvgan")


class Trainer:
    """One run, from its configuration to its last checkpoint.

    Every random draw of step k comes from generators seeded by (seed, k) alone, and batch k of the data likewise, so
    that a run taken up again at any checkpoint computes what the uninterrupted one would have.

    Args:
        config: the run's settings. start: the folder it writes, and the checkpoint it goes on from.

    Raises:
        UserError: the data, the device, the folder or the checkpoint do not serve; nothing has been written then.
    """

    def __init__(self, config: RunConfig, start: Start):
        self.folder = start.folder
        pick_implementations()
        self.device = pick_device(config.training.device)
        self.precision = pick_precision(config.training.precision, self.device)
        self.source: Source = open_source(config.data, config.model, self.device)
        self.config = config.model_copy(update={"model": with_data(config.model, self.source)})
        if start.saved is not None and (found := differences(start.saved, self.config)):
            raise UserError(
                f"{start.checkpoint} is of another configuration ({'; '.join(found)}); "
                "resume with the same settings and data, or start anew in another --run-dir"
            )
        training = self.config.training
        self.batch_size = training.batch_size
        self.steps = training.steps or max(1, training.epochs * self.source.size // training.batch_size)
        self.step = AdversarialStep(self.config.model, training, self.device, self.precision)
        self.conditions = Conditions(self.config.model, self.source, self.device)
        self.done = checkpoint.restore(start.checkpoint, self.step) if start.checkpoint else 0
        self._stop: signal.Signals | None = None

    def describe(self) -> str:
        """What is about to be trained, in a few lines."""
        model, training = self.config.model, self.config.training
        count = [sum(p.numel() for p in net.parameters()) for net in (self.step.generator, self.step.discriminator)]
        after = f", going on after {self.done}" if self.done else ""
        return (
            f"{model.family} model, {model.frames} frames of {model.height}x{model.width}x{model.channels}, "
            f"condition: {' '.join(model.condition) or 'none'}; G {count[0] / 1e6:.2f} M, D {count[1] / 1e6:.2f} M "
            f"parameters\n{self.config.data.data}: {self.source.size} clips; {self.steps} steps{after} of "
            f"{training.batch_size} clips on {self.device}, {str(self.precision).removeprefix('torch.')}\n"
            f"decoder: {self.source.decoder}"
        )

    def run(self) -> int:
        """Train to the last step; gives 0, or 128 + signal number where a signal ended it early (state saved).

        Raises:
            UserError: the disk is full or the run folder cannot be written any more.
        """
        run_folder = RunFolder(self.folder, self.config, self.done)
        for line in self.describe().splitlines():
            logger.info(line)
        for remark in self.source.remarks:
            logger.warning(remark)
        if self.config.training.matching_aware and self.conditions.parts and not self.conditions.can_be_wrong:
            logger.warning("no matching-aware term: the data has one condition only, so none that is wrong")
        batches = feed(self.source.batches(self.batch_size, self.config.training.seed, self.done), self.device)
        try:
            with self._signals(), _disk_errors(self.folder):
                samples = Samples(self.source, self.conditions, self.step, self.config.training.seed)
                self._loop(batches, run_folder, samples)
                self._finish(samples)
        finally:
            batches.close()
            run_folder.close()
        if self._stop is not None:
            logger.warning("stopped by %s after step %d; --resume auto goes on", self._stop.name, self.done)
            return 128 + self._stop
        return 0

    def _loop(self, batches: Iterator, run_folder: RunFolder, samples: Samples) -> None:
        training = self.config.training
        meter = Meter(self.batch_size)
        bar = tqdm(total=self.steps, initial=self.done, unit="step", dynamic_ncols=True, mininterval=1)
        with bar, logging_redirect_tqdm():  # what is told meanwhile gets a line of its own
            while self.done < self.steps and self._stop is None:
                with meter.waiting():
                    clips = next(batches)
                meter.add(self._train_on(clips))
                self.done += 1
                bar.update()
                if self.done % training.log_every == 0 or self.done == self.steps:
                    values = meter.values()
                    run_folder.metrics({"step": self.done, **values})
                    shown = {"D": values["d_loss"], "G": values["g_loss"], "videos/s": values["videos_per_second"]}
                    bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)
                if self.done < self.steps and self._stop is None:
                    self._now_and_then(samples)
                    meter.pause()

    def _now_and_then(self, samples: Samples) -> None:
        training = self.config.training
        sample, save = (self.done % every == 0 for every in (training.sample_every, training.checkpoint_every))
        if sample or save:
            samples.settle()
        if save:
            self._checkpoint()
        if sample:
            samples.save(self.folder / "samples", self.done)

    def _finish(self, samples: Samples) -> None:
        """What a run leaves when it ends, early or not."""
        samples.settle()
        self._checkpoint()
        samples.save(self.folder / "samples", self.done)

    def _checkpoint(self) -> None:
        checkpoint.save(self.folder / "checkpoints", self.step, self.done, self.config.training.keep)
        export(self.step.ema, self.config.model, self.folder / EXPORTED)

    def _train_on(self, clips):
        draw = torch.Generator().manual_seed(_seed(self.config.training.seed, self.done))
        real = to_float(clips.video, self.device)
        z = self.step.generator.noise(self.batch_size, draw).to(self.device, non_blocking=True)
        right = self.conditions.right(clips, real)
        wrong = None
        if self.config.training.matching_aware and self.conditions.can_be_wrong:
            wrong = self.conditions.wrong(clips, right, draw)
        self.step.set_rates(rate_share(self.done, self.steps, self.config.training.lr_decay))
        return self.step(self.done, real, z, right, wrong)

    @contextmanager
    def _signals(self):
        """SIGINT and SIGTERM let the step finish and be saved; a second one ends the process as it always does."""

        def note(number, frame):
            self._stop = signal.Signals(number)
            signal.signal(number, before[number])

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def rate_share(done: int, steps: int, decay: float) -> float:
    """The share of the full learning rate in the step after `done`, of `steps`, the last `decay` of them falling."""
    falling = decay * steps
    return min(1.0, (steps - done) / falling) if falling else 1.0


class Meter:
    """Means over the steps since the last line of metrics, with the rate and the share of time spent on data.

    Scalars stay on the device until a line is due, so that a GPU need not wait for the host in every step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._reset()

    def _reset(self) -> None:
        self._sums, self._count, self._waited, self._paused = None, 0, 0.0, 0.0
        self._since = self._last = time.perf_counter()

    @contextmanager
    def waiting(self):
        """Counts what happens inside as time spent waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def add(self, result) -> None:
        """Take in one step's `StepResult`."""
        values = torch.stack([value.float() for value in result])
        self._sums = values if self._sums is None else self._sums + values
        self._names = result._fields
        self._count += 1
        self._last = time.perf_counter()

    def pause(self) -> None:
        """Leave the time since the last step, spent on samples and checkpoints, out of the rate."""
        self._paused += time.perf_counter() - self._last

    def values(self) -> dict[str, float]:
        """The means by name, and a new beginning."""
        means = dict(zip(self._names, (self._sums / self._count).tolist(), strict=True))
        seconds = time.perf_counter() - self._since - self._paused
        means["videos_per_second"] = self._count * self._batch_size / seconds
        means["data_wait"] = self._waited / seconds
        self._reset()
        return means


@contextmanager
def _disk_errors(folder: Path):
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; make room" if full else f"{error.strerror} ({error.filename}); mend that"
        raise UserError(
            f"cannot write to {folder}: {reason}, then go on from the last complete checkpoint by --resume auto"
        ) from error


def _seed(seed: int, step: int) -> int:
    # One 63-bit number for a pair; the multiplier is that of Knuth's 64-bit linear congruential generator.
    return (seed * 6364136223846793005 + step) % 2**63
