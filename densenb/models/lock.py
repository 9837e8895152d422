"""One sampling at a time on a pipeline: a lock that refuses instead of waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from densenb.models.pipeline import Pipeline

_locks: WeakKeyDictionary[Pipeline, threading.Lock] = WeakKeyDictionary()
_making = threading.Lock()  # two threads must not make two locks for one pipeline


def take(pipe: Pipeline) -> threading.Lock:
    """Take the pipeline's lock and return it; release it when done. RuntimeError if it's taken."""
    with _making:
        lock = _locks.setdefault(pipe, threading.Lock())
    if not lock.acquire(blocking=False):
        raise RuntimeError(
            "this pipeline is drawing already: wait until the picture is there, or cancel it."
        )
    return lock


@contextmanager
def alone(pipe: Pipeline) -> Iterator[None]:
    """Keep jobs off the pipeline in the `with` block; RuntimeError while one is running."""
    lock = take(pipe)
    try:
        yield
    finally:
        lock.release()
