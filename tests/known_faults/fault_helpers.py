"""What several tests of known faults share."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import densenb as dnb

QUICK = {"steps": 2, "height": 128, "width": 128, "progress": lambda done, total: None}
"""Options of `generate` for a small picture without a bar."""

SMALL_CALL = {"num_inference_steps": 2, "height": 128, "width": 128}
"""The same for `dense_attention`."""

Failed = pytest.fail.Exception  # what pytest.raises and pytest.warns raise in vain


def cat_and_umbrella(**first: Any) -> dnb.Layout:
    """Two regions; `first` are more options of the cat's."""
    return dnb.Layout(
        "a blue cat and an orange umbrella in a rose garden",
        [
            dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.45, 0.95), **first),
            dnb.Region("an orange umbrella", dnb.box(0.55, 0.1, 0.95, 0.7)),
        ],
    )


def recommended(pipe: Any) -> dnb.DenseConfig:
    """The setting that was measured best for a pipeline."""
    return dnb.DenseConfig.recommended(pipe)


def defaults(pipe: Any) -> tuple[float, int]:
    """Guidance scale and T5 length of a pipeline's tier."""
    this = dnb.tier(pipe)
    return this.guidance, this.t5_length


def second(kind: Any, pipe: Any) -> Any:
    """Another kind of pipeline around the same models."""
    other = kind.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    return other


def difference(one: Any, other: Any) -> float:
    """The mean difference of two pictures, of 255."""
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


@contextmanager
def unless_refused(words: str) -> Iterator[None]:
    """What is in the block holds, or is refused with words that match."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not re.search(words, str(error)):
            raise


class TooSlow(Exception):
    """No OSError, as TimeoutError is: those are caught on the way."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """TooSlow in a block that takes longer."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no interval timer here")

    def late(*_: Any) -> None:
        raise TooSlow(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file can grow beyond `free` bytes: a write is cut short there, and the next one fails."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
