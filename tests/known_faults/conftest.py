"""Tests of what is known to be wrong: each says what is right, and is expected to fail today.

Whoever fixes a fault removes the mark, and moves the test to those of its module. A strict mark
turns a test that begins to pass into a failure, so that none is forgotten.
"""

from __future__ import annotations

import os

import pytest
from fault_helpers import cat_and_umbrella

import densenb as dnb
from densenb.pipelines import MINIATURE


@pytest.fixture(scope="session")
def pipe():
    """The miniature, loaded once: a test that changes it changes it back."""
    return dnb.load("tiny")


@pytest.fixture
def model(tmp_path):
    """A folder with the miniature, whose files are to be replaced or removed, not written into."""
    folder = tmp_path / "model"
    for path in MINIATURE.rglob("*"):
        if path.is_file():
            to = folder / path.relative_to(MINIATURE)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path, to)
    return folder


@pytest.fixture
def layout_file(tmp_path):
    path = tmp_path / "layout.json"
    cat_and_umbrella().to_json(path)
    return path
