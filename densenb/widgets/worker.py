"""Sampling in a thread, so that the notebook stays responsive: one job at a time per pipeline.

A job is asked to stop, and stops at the end of a step. Its context managers then restore the
pipeline on the way out; nothing is torn down from outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from densenb.models.lock import take
from densenb.models.pipeline import Pipeline


class Cancelled(Exception):
    """Raised in a job that was asked to stop."""


class Job:
    """`work(job)` in a thread, alone on its pipeline; it has started when this returns.

    The work has to call `job.check()` often, where it stops if it was cancelled. Afterwards `error`
    is the exception it raised (possibly `Cancelled`), or None. Raises RuntimeError while another
    job has the pipeline.
    """

    def __init__(self, pipe: Pipeline, work: Callable[[Job], None]) -> None:
        self.error: BaseException | None = None
        self._work, self._stop, self._lock = work, threading.Event(), take(pipe)
        # A daemon thread, so that a kernel shuts down without waiting for a picture.
        self._thread = threading.Thread(target=self._run, name="densenb sampling", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._lock.release()
            raise

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:  # any error: the waiting thread raises it
            self.error = error
        finally:
            self._lock.release()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Ask the work to stop at its next `check`. Any thread may call this at any time."""
        self._stop.set()

    def check(self) -> None:
        """Raise `Cancelled` if `cancel` was called."""
        if self._stop.is_set():
            raise Cancelled("the picture was cancelled.")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job is done, at most `timeout` seconds; return whether it is."""
        self._thread.join(timeout)
        return not self.running
