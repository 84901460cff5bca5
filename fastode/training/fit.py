"""The training loop: steps, looks at the validation set, checkpoints, and a clean stop on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .folder import RunFolder
from .trainer import StepRecord, Trainer


class StopRequest:
    """Whether someone asked the run to stop. The step in progress is finished first."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C (or SIGTERM) into a request; the second one interrupts at once, as usual."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


def fit(
    trainer: Trainer,
    folder: RunFolder,
    stop: StopRequest,
    on_step: Callable[[StepRecord], None],
    on_validation: Callable[[int, float], None],
) -> bool:
    """Train to the end, or to a stop request.

    Args:
        trainer: new, or continued from a checkpoint.
        folder: takes metrics after every step and a checkpoint after every validation and at the end.
        stop: looked at between steps.
        on_step, on_validation: told about progress; the latter gets the step and the validation loss.

    Returns:
        Whether all steps were taken.

    Raises:
        SolverError: a solve failed or the loss is not finite; the last checkpoint stays as it was.
    """
    if trainer.step == 0:
        # small tables overfit at once: the untrained flow (a Gaussian, when whitened) is a candidate too
        _look(trainer, folder, on_validation)
    while not trainer.done and not stop.requested:
        record = trainer.train_step()
        folder.log(vars(record))
        on_step(record)
        if trainer.step % trainer.config.eval_every == 0 or trainer.done:
            _look(trainer, folder, on_validation)
            folder.save(trainer)
    if not trainer.done:
        folder.save(trainer)
    return trainer.done


def _look(trainer: Trainer, folder: RunFolder, on_validation: Callable[[int, float], None]) -> None:
    nll = trainer.validate()
    folder.log({"step": trainer.step, "val_nll": nll})
    on_validation(trainer.step, nll)
