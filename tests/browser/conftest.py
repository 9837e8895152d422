"""One Chromium and one JupyterLab for all browser tests.

A missing browser is a visible skip; with CI=true or DENSENB_REQUIRE_BROWSER=1 it is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import ARGUMENTS, ROOT, Lab, Notebook, find_chromium
from PIL import Image

REQUIRED = os.environ.get("CI") == "true" or os.environ.get("DENSENB_REQUIRE_BROWSER") == "1"
FIX = "Debian, Ubuntu: apt install chromium; elsewhere: set CHROMIUM to the path of one."


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """Headless Chromium: Playwright's `Browser`."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright is not installed: pip install playwright")
    path = find_chromium()
    if path is None:
        _missing(f"no Chromium or Chrome was found. {FIX}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="renew the pictures in docs/, too")


@pytest.fixture
def picture(request) -> Callable[[Path, str, float], None]:
    """`picture(path, name, height)`: a screenshot's upper part for docs/, with --screenshots."""

    def keep(path: Path, name: str, height: float) -> None:
        if request.config.getoption("--screenshots"):
            with Image.open(path) as full:
                upper = full.convert("RGB").crop((0, 0, full.width, round(height)))
                small = upper.quantize(256, dither=Image.Dither.NONE)
            small.save(ROOT / "docs" / f"{name}.png", optimize=True)

    return keep


def _missing(what: str) -> None:
    (pytest.fail if REQUIRED else pytest.skip)(f"browser tests need a browser: {what}")


@pytest.fixture(scope="session")
def lab(tmp_path_factory, chromium) -> Iterator[Lab]:
    """A real JupyterLab over a copy of the notebooks."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def open_notebook(lab, chromium) -> Iterator[Callable[[str], Notebook]]:
    """`open_notebook(name)`: the notebook in a page of its own, closed after the test."""
    opened: list[Notebook] = []

    def open_one(name: str) -> Notebook:
        opened.append(lab.open(chromium, name))
        return opened[-1]

    yield open_one
    for notebook in opened:
        notebook.close()
