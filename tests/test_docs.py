"""What the pages name is there: files, modules and names of the package, targets of make."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.md")])
PAGES.remove(ROOT / "CHANGELOG.md")  # it also names what is gone
LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))
FILE = re.compile(r"(?<![\w/])(?:densenb|docs|experiments|notebooks|tests|tools)/[\w/.-]*\.\w+")
LINK = re.compile(r"\]\((?!https?://)([\w/-]*\.[\w./-]+)")
CALLS = [*PAGES, *ROOT.glob(".github/**/*.yml"), ROOT / ".ci" / "run"]
TARGET = re.compile(
    r"(?:`|^ *(?:- )?(?:run: )?)make ([a-z-]+)(?=`| +#| *$| [A-Z_]+=| \|\|| 2>)", re.M
)
NAME = re.compile(r"(?<![\w/.])densenb(?:\.[A-Za-z_]\w*)+")


def found(name: str) -> bool:
    """Whether it is a module, or a name inside one: "densenb.plots.overlay"."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            there = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            there = getattr(there, part, None)
        return there is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_links_and_names_of_a_page_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    gone = [name for name in FILE.findall(text) if not list(ROOT.glob(name))]
    gone += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    gone += [name for name in NAME.findall(text) if not found(name)]
    assert not gone


def test_every_target_of_make_that_is_called_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    called = {name for path in CALLS for name in TARGET.findall(path.read_text(encoding="utf-8"))}
    assert {"lint", "setup", "test", "test-colab"} <= called <= targets


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name)
def test_names_in_the_prose_of_a_lesson_are_there(lesson: Path) -> None:
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    prose = "".join(
        line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]
    )
    assert not [name for name in NAME.findall(prose) if not found(name)]
