"""The training loop: steps on batches, with metrics, samples and checkpoints as outputs."""

import logging
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from fastvgan.data import open_source
from fastvgan.data.clips import Listing
from fastvgan.data.source import Clips, Source
from fastvgan.errors import UserError
from fastvgan.machine.device import pick_device, pick_implementations, pick_precision, time_algorithms, use_precision
from fastvgan.machine.neighbours import fit_threads
from fastvgan.machine.threads import describe_threads
from fastvgan.random_draws import global_seed, seed_everything
from fastvgan.runs.checkpoint import find_newest_good
from fastvgan.runs.config import RunConfig
from fastvgan.runs.log import BEGUN, STOPPED, TRAINED
from fastvgan.training import determinism
from fastvgan.training.batches import BatchMaker, advise_smaller_parts, share_of_a_batch
from fastvgan.training.conditions import Conditions, fit_to_source
from fastvgan.training.feed import next_batch, read_steps
from fastvgan.training.footprint import check_step
from fastvgan.training.parallel import Parallel, local_rank
from fastvgan.training.profiling import StepProfile
from fastvgan.training.run import checkpoint
from fastvgan.training.run.callbacks import Callbacks
from fastvgan.training.run.checkpoint import Record
from fastvgan.training.run.meter import Meter
from fastvgan.training.run.output import Due, Output, Written
from fastvgan.training.run.resume import Start, fit_to_checkpoint
from fastvgan.training.run.signals import handle_signals
from fastvgan.training.run.watchdog import DATA, STEP, Watchdog
from fastvgan.training.schedule import follow_schedules
from fastvgan.training.step.adversarial import AdversarialStep
from fastvgan.training.step.graphs import StepRunner
from fastvgan.training.step.tensors import tensors_of

logger = logging.getLogger("fastvgan")

_REMEDY = "check the data, or use another --run-dir with lower --lr-generator, --lr-discriminator or --precision fp32"
_SLOWER = 0.5  # factor of the learning rates at each rollback
_REQUESTED = 1000  # stands for a callback's request to stop, among the numbers of signals


class TrainingLoop:
    """One run, from its configuration to its last checkpoint.

    All random numbers of step k, and batch k of the data, are functions of (seed, k) only, so that a run resumed from
    any checkpoint computes the same as an uninterrupted one: up to rounding by another number of processes.

    Args:
        config: the run's settings.
        start: the folder to write, or else the next one if a run begins there before `run`, and the checkpoint to
            resume from.
        parallel: the processes that train together.
        data: the source of the clips, or the listing of `config.data`'s clips if they have been listed already.
        callbacks: called during the run.

    Attributes:
        folder: the run folder.
        done: number of steps done.
        steps: number of steps at the end.
        stopped: the name of the signal that ended the run early, or "a callback"; else None.

    Raises:
        UserError: the data, the device, the folder or the checkpoint cannot be used; nothing has been written then.
    """

    def __init__(
        self,
        config: RunConfig,
        start: Start,
        parallel: Parallel | None = None,
        data: Listing | Source | None = None,
        callbacks: Callbacks | None = None,
    ):
        self._start, self.folder, self.parallel = start, start.folder, parallel or Parallel()
        pick_implementations()
        self.device = pick_device(config.training.device, local_rank())
        self.precision = pick_precision(config.training.precision, self.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        time_algorithms(self.device)
        self._fits_threads = self.device.type == "cpu" and not config.training.deterministic
        threads = self._fit_threads()
        if data is None or isinstance(data, Listing):
            data = open_source(config.data, config.model, self.device, listing=data)
        self.source: Source = data
        self.config = fit_to_source(config, self.source)
        self.config, changes = self.parallel.run_on_first(
            lambda: fit_to_checkpoint(start, self.config, self.source.fingerprint)
        )
        self.remarks = (*threads, *start.remarks, *changes, *self.source.remarks)
        training = self.config.training
        share = share_of_a_batch(self.config, self.parallel.world_size)
        self.steps = training.count_steps(self.source.size)
        dtype = use_precision(self.precision)
        check_step(self.config, self.source, share // training.accumulate, self.device, dtype)
        if training.deterministic:
            determinism.ask_for_determinism()
        self.step = AdversarialStep(self.config.model, training, self.device, dtype, self.parallel)
        self.conditions = Conditions(self.config.model, self.source, self.device, self.folder)
        self.runner = StepRunner(self.step, self._maker(), training.cuda_graphs)
        self._record = self._restore(start.checkpoint)
        self.done = self._record.step
        if self.steps < self.done:
            raise UserError(
                f"{start.checkpoint} has {self.done} steps already, and this run ends after {self.steps}; use --steps "
                f"{self.done} or more, or train into another --run-dir"
            )
        self._signal = 0  # number of a signal, or _REQUESTED
        self._callbacks = callbacks if self.parallel.is_first else None
        self._output: Output | None = None
        self.stopped: str | None = None
        self._within_step = False

    def describe(self) -> str:
        """Describe the run in a few lines."""
        model, training = self.config.model, self.config.training
        count = [sum(p.numel() for p in net.parameters()) for net in (self.step.generator, self.step.discriminator)]
        after = f", resuming after {self.done}" if self.done else ""
        together = f" in {self.parallel.world_size} processes" if self.parallel.world_size > 1 else ""
        threads = f"\ncpu: {describe_threads()}" if self.device.type == "cpu" else ""
        return (
            f"{BEGUN % (model.family, model.frames)} {model.height}x{model.width}x{model.channels}, condition: "
            f"{' '.join(model.condition) or 'none'}; G {count[0] / 1e6:.2f} M, D {count[1] / 1e6:.2f} M parameters\n"
            f"{self.config.data.data}: {self.source.size} clips; {self.steps} steps{after} of {training.batch_size} "
            f"clips on {self.device}{together}, {self.precision}\ndecoder: {self.source.decoder}{threads}"
        )

    def run(self) -> int:
        """Train to the last step.

        Returns:
            0, or 128 + signal number if a signal ended the run early, with its state saved; see `stopped`.

        Raises:
            UserError: the run folder cannot be created, the last checkpoint cannot be written, the data can no longer
                be read, the device is out of memory, or losses stay non-finite. In all cases but the first the last
                good state is saved.
        """
        self.folder = self.parallel.run_on_first(self._open)
        if self.parallel.is_first:
            self._log_start()
        # The other processes are in a step while the first one writes outputs or runs callbacks.
        watched = (DATA, STEP) if self.parallel.is_first else (DATA,)
        watchdog = Watchdog(self.config.training.watchdog, self.folder, self._rescue, watched=watched)
        try:
            with handle_signals(self._note), watchdog:
                if self._output:
                    self._output.begin()
                self._call("on_train_start")
                number = self._train(watchdog)
                if self._output:
                    written = self._output.finish(self._record, number, not (number and self._is_in_trouble()))
                    self._call_about(written)
            if number:
                self.stopped = "a callback" if number == _REQUESTED else signal.Signals(number).name
                logger.warning(STOPPED, self.stopped, self.done)
            else:
                logger.info(TRAINED, self.done)
            self._call("on_train_end")
        finally:
            if self._output:
                self._output.close()
        return 128 + number if number not in (0, _REQUESTED) else 0

    def _open(self) -> Path:
        """Open the run folder, which is another one if a run has begun there since, and return it."""
        run = self._start, self.config, self.step, self.source, self.conditions
        self._output = Output(*run, self.done, self.steps)
        return self._output.path

    def stop(self) -> None:
        """Ask the run to end early; it saves its state and writes its outputs as at the last step."""
        self._signal = self._signal or _REQUESTED

    @property
    def scores(self) -> dict[str, float]:
        """Scores of the last evaluation, in the first process; see `fastvgan.metrics.evaluation`."""
        return self._output.scores if self._output else {}

    @property
    def scored_step(self) -> int:
        """The step of `scores`; 0 before the first evaluation."""
        return self._output.scored_step if self._output else 0

    def _log_start(self) -> None:
        for line in self.describe().splitlines():
            logger.info(line)
        for remark in self.remarks:
            logger.warning(remark)
        if self.config.training.matching_aware and self.conditions.parts and not self.conditions.can_be_wrong:
            logger.warning("no matching-aware term: all clips have one condition, so none is wrong")

    def _call(self, event: str, *arguments: Any) -> None:
        if self._callbacks:
            self._callbacks.call(event, *arguments)

    def _call_about(self, written: Written) -> None:
        for event, output in zip(("on_evaluate", "on_checkpoint", "on_sample"), written, strict=True):
            if output is not None:
                self._call(event, output)

    def _train(self, watchdog: Watchdog) -> int:
        """Run the loop, again after each rollback; return the number of the signal that ended it early, or 0."""
        training = self.config.training
        meter = Meter(training.batch_size, self.step, self.parallel)
        # Log messages move to the line above the progress bar.
        bar = tqdm(total=self.steps, unit="step", dynamic_ncols=True, mininterval=1, disable=not self.parallel.is_first)
        skip = 3 if self.device.type == "cpu" else 20  # on a GPU the first steps are not replayed graphs
        recorded = training.profile if self.parallel.is_first else 0
        profile = StepProfile(self.folder / "profile", recorded, self.device, skip)
        with bar, logging_redirect_tqdm(), profile:
            while True:
                bar.n = bar.initial = self.done
                clips = read_steps(training, self.source, self.parallel, self.done, self.device)
                try:
                    stopped = self._loop(clips, meter, bar, watchdog, profile)
                except Exception:
                    if not self._within_step:
                        self._rescue(Output.rescue)
                    raise
                finally:
                    clips.close()
                if stopped:
                    return stopped
                if self.done >= self.steps and meter.in_a_row < self._most_in_a_row():
                    self._check_share(meter.left_out)
                    return 0
                self._go_back(meter.in_a_row)
                meter.left_out = 0  # those steps are trained again
                meter.reset()

    def _loop(
        self,
        clips: Generator[Clips | None, None, None],
        meter: Meter,
        bar: Any,
        watchdog: Watchdog,
        profile: StepProfile,
    ) -> int:
        """Train until the last step, a signal (return its number), or too many steps in a row that are not finite."""
        training = self.config.training
        while self.done < self.steps:
            self.parallel.begin_vote(self._signal)
            with meter.wait(), watchdog.watch(DATA):
                batch = next_batch(clips)
            with watchdog.watch(STEP):
                self._train_on(batch)
                stop = self.parallel.vote() or self._own_signal()
            meter.count()
            profile.step()
            bar.update()
            is_due = self.done % training.log_every == 0 or self.done == self.steps
            metrics: dict[str, float] = {}
            if is_due or stop:
                metrics = self._write_metrics(meter, bar, watchdog)
                if is_due and meter.in_a_row >= self._most_in_a_row():
                    return 0
            self._call("on_step_end", metrics)
            if stop := stop or self._own_signal():
                if not metrics:  # the callback has asked for the end
                    self._write_metrics(meter, bar, watchdog)
                return stop
            if self.done < self.steps and self._output:
                due = Due.after(self.done, training, self._is_in_trouble)
                self._record, written = self._output.write_due(self._record, due)
                self._call_about(written)
                meter.pause()
        return 0

    def _own_signal(self) -> int:
        """The signal that ends a run of one process; several vote."""
        return self._signal if self.parallel.world_size == 1 else 0

    def _write_metrics(self, meter: Meter, bar: Any, watchdog: Watchdog) -> dict[str, float]:
        with watchdog.watch(STEP):
            metrics = meter.values()
            self._log(metrics, bar)
        for sentence in self._fit_threads():
            logger.warning(sentence)
        return metrics

    def _fit_threads(self) -> list[str]:
        """Fit the number of threads to the processors that other processes leave; return sentences for the log."""
        sentence = fit_threads() if self._fits_threads else None
        return [sentence] if sentence else []

    def _train_on(self, clips: Clips | None) -> None:
        training = self.config.training
        follow_schedules(self.step, training, self.done, self.steps, self._record.rate)
        self._within_step = True
        try:
            if training.deterministic and determinism.is_compared(self.done, training):
                found = determinism.compare_two_runs(self.step, lambda: self._run_step(clips))
                determinism.log_comparison(self.done, self.device, *found)
            else:
                self._run_step(clips)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self.device} is out of memory in step {self.done + 1} ({str(error).splitlines()[0]:.200}); "
                f"{advise_smaller_parts(self.config, self.parallel.world_size)}"
            ) from error
        self.done += 1
        self._record = self._record._replace(step=self.done, score=None)
        self._within_step = False

    def _run_step(self, clips: Clips | None) -> None:
        number = self.done * self.parallel.world_size + self.parallel.rank
        seed_everything(global_seed(self.config.training.seed, number), self.device)
        self.runner(self.done, clips)

    def _log(self, values: dict[str, float], bar: tqdm) -> None:
        if not self._output:
            return
        self._output.write_metrics({"step": self.done, **values})
        shown = {"D": "d_loss", "G": "g_loss", "|gD|": "d_grad_norm", "|gG|": "g_grad_norm", "wait": "data_wait"}
        shown |= {"videos/s": "videos_per_second", "skipped": "skipped"}
        postfix = {name: f"{values[key]:.3g}" for name, key in shown.items() if values.get(key) is not None}
        if not values["skipped"]:
            del postfix["skipped"]
        if "memory_bytes" in values:
            postfix["GB"] = f"{values['memory_bytes'] / 1e9:.2g}"
        bar.set_postfix(postfix, refresh=False)

    def _maker(self) -> BatchMaker:
        training = self.config.training
        return BatchMaker(
            *(self.conditions, self.step.generator, self.source, training.seed),
            training.wrong_conditions if training.matching_aware else 0,
            self.parallel.rows(training.batch_size, training.accumulate),
            training.batch_size,
            self.device,
        )

    def _is_in_trouble(self) -> bool:
        """Whether the last step skipped an update that no smaller loss scale fixes; no state is saved then."""
        return bool(torch.stack([self.step.d_update.in_a_row, self.step.g_update.in_a_row]).any())

    def _most_in_a_row(self) -> int:
        """Return the number of non-finite steps in a row at which the run is rolled back.

        At the last step half of the run is enough: a short run may never reach --max-skipped.
        """
        most = self.config.training.max_skipped
        return min(most, (self.steps + 1) // 2) if self.done >= self.steps else most

    def _check_share(self, left_out: int) -> None:
        """Check how many steps of a run were skipped, though not in a row.

        Raises:
            UserError: at least half of the steps changed nothing.
        """
        # A loss scale that adapts skips updates in a good run, too.
        if not left_out or self.step.g_update.is_scaled:
            return
        if 2 * left_out >= self.steps:
            raise UserError(
                f"{left_out} of {self.steps} steps had losses or gradients that are not finite and changed nothing; "
                f"{_REMEDY}"
            )
        logger.warning("%d of %d steps were not finite and changed nothing", left_out, self.steps)

    def _go_back(self, in_a_row: int) -> None:
        """Roll back to the last good checkpoint, with lower learning rates.

        Raises:
            UserError: the run has been rolled back --max-setbacks times.
        """
        before, limit = self._record, self.config.training.max_setbacks
        if before.setbacks >= limit:
            raise UserError(
                f"losses or gradients are not finite, in {in_a_row} steps in a row up to step {self.done}"
                + (f", and lower learning rates did not help {limit} times" if limit else "")
                + f"; {_REMEDY}"
            )
        good, remarks = self.parallel.run_on_first(lambda: find_newest_good(self.folder / "checkpoints"))
        good = good or (self._start.checkpoint if self._start.is_new else None)  # in another run's folder
        if good is None:
            self.step.reset()
        record = self._restore(good)
        self._record = record._replace(setbacks=before.setbacks + 1, rate=before.rate * _SLOWER)
        self.done = record.step
        for update in (self.step.d_update, self.step.g_update):
            update.in_a_row.zero_()
        for remark in remarks:
            logger.warning(remark)
        logger.warning(
            "%d steps in a row were not finite: back to step %d, with %g of the learning rates",
            *(in_a_row, self.done, self._record.rate),
        )
        if self._output:
            self._output.rewind(self.done)

    def _restore(self, path: Path | None) -> Record:
        """Restore the step of all processes from a checkpoint, if any, that the first process reads.

        Returns:
            The record of the next checkpoint, with the fingerprint of the current data, and no score on other data.
        """
        record = Record(0)
        if path is not None:
            record = self.parallel.run_on_first(lambda: checkpoint.restore(path, self.step))
            self.parallel.broadcast_tensors(tensors_of(self.step).values())
        return record.with_data(self.source.fingerprint)

    def _rescue(self, save: Callable[[Output, Record], object] = Output.save_last) -> None:
        """Save the state, which is consistent between steps, before the process ends for an unrelated reason."""
        if self._output and not self._is_in_trouble():
            save(self._output, self._record)

    def _note(self, number: int) -> None:
        self._signal = number
