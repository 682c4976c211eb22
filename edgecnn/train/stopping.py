"""The ways a training ends before its last epoch: somebody asks it to, or the loss is no number any more.

Outside the epochs, while pictures are decoded or a bundle is written, SIGTERM is an exception, as Ctrl-C is: what is
half written is removed on the way out.

A process that is asked to end (a job's time is up, a container or a machine shuts down) gets SIGTERM and some seconds.
That is enough to finish the step and say where the training stands; what the epoch had learned so far is learned again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgecnn.errors import StoppedError, UsageError

SHOWN_IDS = 5


class Terminated(BaseException):
    """SIGTERM outside the epochs. No ``Exception``: nobody may take it for a failure and go on with something else."""

    exit_code = StoppedError.exit_code


class Stop:
    """Whether the training was asked to stop, and the places at which it does."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: object) -> None:
        """Stop at the next place; also what a signal calls, which is why it takes arguments and does nothing else."""
        self.asked = True

    def watching(
        self, on_step: Callable[[int, int, int], None] | None, kept: Callable[[], int] = lambda: 0
    ) -> Callable[[int, int, int], None]:
        """``on_step`` with a look at the wish after it. Behind an epoch's last step there is none: it may be kept.

        ``kept`` says how many of the epoch's steps are in a checkpoint.
        """

        def after_step(epoch: int, step: int, steps: int) -> None:
            if on_step is not None:
                on_step(epoch, step, steps)
            if self.asked and step < steps:
                there = f", step {kept() + 1}" if kept() else ""
                raise StoppedError(
                    f"stopped by SIGTERM after epoch {epoch}, step {step} of {steps}; "
                    f"run the same command again to go on from epoch {epoch}{there}"
                )

        return after_step

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Stop here, where the checkpoint of ``epoch`` has just been written, if that was asked for."""
        if self.asked:
            raise StoppedError(
                f"stopped by SIGTERM after epoch {epoch} of {epochs}, which is kept; "
                "run the same command again to go on"
            )


@contextmanager
def stopping_on_sigterm() -> Iterator[Stop]:
    """While this is open, SIGTERM is a wish that the training looks at; then it is what it was before.

    A signal that came too late for the training to see it is sent again on leaving, to whoever is in charge then.
    Nothing changes outside the main thread, which alone may set handlers, or where somebody decided that SIGTERM is
    ignored or is handled outside Python.
    """
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield stop
        return
    signal.signal(signal.SIGTERM, stop.ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.asked:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """While this is open, SIGTERM ends what is inside with a StoppedError; a second one ends the process at once.

    Nothing changes outside the main thread, or where somebody has decided what SIGTERM means.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except Terminated:
        raise StoppedError(
            "stopped by SIGTERM; what was finished is kept, run the same command again to go on from there"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def not_finite(loss: float, epoch: int, step: int, steps: int, lr: float, ids: Sequence[str]) -> UsageError:
    """The error for a training loss that is inf or nan; ``ids`` are the pictures of the step, one may be the cause."""
    shown = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
    return UsageError(
        f"the loss became {loss} in epoch {epoch}, step {step} of {steps}, at learning rate {lr:.4g}, "
        f"on {len(ids)} pictures ({shown}); {_last_good(epoch - 1)}",
        hint="lower the learning rate or lengthen the warm-up; if it happens at once, look at the pictures",
    )


def not_finite_validation(loss: float, epoch: int, lr: float) -> UsageError:
    """The error for a validation loss that is inf or nan: the epoch's last steps broke the weights."""
    return UsageError(
        f"the validation loss is {loss} after epoch {epoch}, which ended at learning rate {lr:.4g} and is not kept; "
        f"{_last_good(epoch - 1)}",
        hint="lower the learning rate or lengthen the warm-up; if it happens at once, look at the validation pictures",
    )


def _last_good(epoch: int) -> str:
    return f"the last good checkpoint is that of epoch {epoch}" if epoch else "no epoch was finished before"
