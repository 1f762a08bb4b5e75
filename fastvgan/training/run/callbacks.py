"""Callbacks: a user's code that `fastvgan.Trainer` calls during a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvgan.errors import UserError

if TYPE_CHECKING:
    from fastvgan.training.trainer import Trainer


class Callback:
    """The base class of callbacks. Each method does nothing; override those that you need.

    Only the first of several processes, which writes the run folder, calls them. If a method raises an exception,
    the run saves its state, as after any error, and the exception reaches the caller of `Trainer.train`. Random numbers
    that a method draws do not change the training.

    Example:
        ```python
        class StopWhenReadable(fastvgan.Callback):
            def on_evaluate(self, trainer, scores):
                if scores.get("joint", 0) > 0.95:
                    trainer.stop()

        fastvgan.Trainer("digits", callbacks=[StopWhenReadable()]).train()
        ```
    """

    def on_train_start(self, trainer: "Trainer") -> None:
        """Run before the first step; the run folder exists.

        Args:
            trainer: the trainer of the run, in all methods.
        """

    def on_step_end(self, trainer: "Trainer", metrics: Mapping[str, float]) -> None:
        """Run after each step; `trainer.step` is the number of steps done.

        Args:
            trainer: the trainer.
            metrics: the line of metrics.jsonl that this step wrote: means over the steps since the last line. It is
                empty between lines, because reading losses makes the host wait for a GPU; `log_every=1` writes a line
                in each step.
        """

    def on_evaluate(self, trainer: "Trainer", scores: Mapping[str, float]) -> None:
        """Run after each evaluation of the averaged weights.

        Args:
            trainer: the trainer.
            scores: scores by name, as in evaluation.jsonl; empty if none could be computed.
        """

    def on_checkpoint(self, trainer: "Trainer", path: Path) -> None:
        """Run after each checkpoint, once it is complete.

        Args:
            trainer: the trainer.
            path: its folder, which `fastvgan.load` reads.
        """

    def on_sample(self, trainer: "Trainer", path: Path) -> None:
        """Run after each grid of samples.

        Args:
            trainer: the trainer.
            path: the animation, samples/step-N.gif; a picture of some frames lies beside it, as .png.
        """

    def on_train_end(self, trainer: "Trainer") -> None:
        """Run at the end, early or not, after the last outputs; it does not run if training ends with an error.

        Args:
            trainer: the trainer.
        """


class Callbacks:
    """The callbacks of a run, called in the order in which they were given.

    Args:
        trainer: the first argument of each call.
        callbacks: the callbacks.

    Raises:
        UserError: one of them is not an instance of `Callback`.
    """

    def __init__(self, trainer: "Trainer", callbacks: Sequence[Callback]):
        if isinstance(callbacks, Callback):
            raise UserError("callbacks: expected a list of callbacks, not a single one; pass [callback]")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                kind = callback.__name__ if isinstance(callback, type) else type(callback).__name__
                raise UserError(
                    f"callbacks: expected instances of fastvgan.Callback, not {kind}; derive the class from it, and "
                    f"pass an instance, {kind}()"
                )
        self._trainer, self._callbacks = trainer, tuple(callbacks)

    def call(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of each callback with the trainer and these arguments."""
        for callback in self._callbacks:
            getattr(callback, event)(self._trainer, *arguments)
