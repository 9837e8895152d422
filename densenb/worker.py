"""Sampling in a thread, so that a notebook stays in hand: one job at a time for each pipeline.

A job is asked to stop and stops itself, at the end of a step: nothing is torn down from outside,
and the context managers that it is in restore the pipeline on the way out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_locks: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_making = threading.Lock()  # two threads must not make two locks for one pipeline


def take(pipe: Any) -> threading.Lock:
    """The pipeline's lock, taken: release it when done. RuntimeError when another has it."""
    with _making:
        lock = _locks.setdefault(pipe, threading.Lock())
    if not lock.acquire(blocking=False):
        raise RuntimeError(
            "this pipeline is drawing already: wait until the picture is there, or cancel it."
        )
    return lock


@contextmanager
def alone(pipe: Any) -> Iterator[None]:
    """Sample in this thread while no job does; RuntimeError while one does."""
    lock = take(pipe)
    try:
        yield
    finally:
        lock.release()


class Cancelled(Exception):
    """A job was asked to stop, and did."""


class Job:
    """`work(job)` in a thread, alone on its pipeline; it has begun when this returns.

    The work has to call `job.check()` often, and stops there when it was cancelled. Afterwards
    `error` is what it raised (a `Cancelled`, too), or None. Raises RuntimeError while another job
    has the pipeline.
    """

    def __init__(self, pipe: Any, work: Callable[[Job], None]) -> None:
        self.error: BaseException | None = None
        self._work, self._stop, self._lock = work, threading.Event(), take(pipe)
        # A daemon, so that a kernel that is shut down does not wait for a picture.
        self._thread = threading.Thread(target=self._run, name="densenb sampling", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._lock.release()
            raise

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:  # whatever it is, who waits is told
            self.error = error
        finally:
            self._lock.release()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Ask the work to stop at its next `check`; may be called at any time, from any thread."""
        self._stop.set()

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked for that."""
        if self._stop.is_set():
            raise Cancelled("the picture was cancelled.")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all is done, at most `timeout` seconds; whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
