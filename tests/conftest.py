"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest
from tiny_random import random_pipeline

from densenb.tiny import backgrounds


@pytest.fixture(scope="session")
def random_pipe():
    """One tiny random pipeline for the whole session: a test that changes it changes it back."""
    return random_pipeline()


@pytest.fixture(scope="module")
def few_backgrounds():
    """One drawing of each background instead of sixteen, which take a CPU ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backgrounds, "VARIANTS", 1)
        yield
