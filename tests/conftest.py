"""Fixtures shared by all tests."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():  # read when Triton is first imported, which diffusers may do
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tiny_random import random_pipeline  # noqa: E402

from densenb.miniature import (
    backgrounds,
    world,  # noqa: E402
)


@pytest.fixture(scope="session")
def random_pipe():
    """One tiny random pipeline for the whole session: a test that changes it changes it back."""
    return random_pipeline()


@pytest.fixture(scope="module")
def few_backgrounds():
    """One drawing of each background instead of sixteen, which take a CPU ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backgrounds, "VARIANTS", 1)
        world.shared_world.cache_clear()  # it keeps the drawings
        yield
        world.shared_world.cache_clear()
