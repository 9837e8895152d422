"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest
from tiny_random import random_pipeline


@pytest.fixture(scope="session")
def random_pipe():
    """One tiny random pipeline for the whole session: a test that changes it changes it back."""
    return random_pipeline()
