"""Functions that a notebook defines are the library's, and each is defined in one notebook only.

A cell that teaches `densenb.modulation.same_region` has the tag
`library:densenb.modulation.same_region`; docstrings may differ, nothing else.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from densenb import evaluation, layout, modulation, sd3
from tools.notebooks import ROOT, code_cells, tags

PREFIX = "library:"
TAUGHT = re.compile(r"Taught\s+in\s+notebook\s+(\d\d)")
LESSONS = ("02", "03", "04", "05", "06")


def definitions(source: str) -> dict[str, str]:
    """Each function or class at the top level of some source, as text without docstrings."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
                    inner.body = inner.body[1:]
            found[node.name] = ast.dump(node)
    return found


def taught_cells() -> list[tuple[str, str, str]]:
    """(notebook, library function, source of the cell) of each tag in each notebook."""
    return [
        (path.name, tag.removeprefix(PREFIX), cell.source)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in code_cells(nbformat.read(path, as_version=4))
        for tag in tags(cell)
        if tag.startswith(PREFIX)
    ]


CELLS = taught_cells()


def library(name: str) -> str:
    """The source file of a function, by the name under which its room exports it."""
    room, _, short = name.rpartition(".")
    function = getattr(importlib.import_module(room), short)
    return Path(inspect.getsourcefile(inspect.unwrap(function))).read_text(encoding="utf-8")


def taught_in(module: object, lessons: tuple[str, ...]) -> dict[str, str]:
    """Functions that a room exports whose docstrings name one of the notebooks, and its number."""
    found = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        match = TAUGHT.search(function.__doc__ or "")
        if match and match[1] in lessons:
            found[f"{module.__name__}.{name}"] = match[1]
    return found


def imports(source: str) -> list[tuple[str, str]]:
    """(module, name) of each `from densenb... import name` of a cell; its magics are left out."""
    python = re.sub(r"(?m)^([ \t]*)%.*$", r"\1pass", source)
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(python))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("densenb")
        for alias in node.names
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_what_a_notebook_imports_is_in_the_library(path: Path) -> None:
    """Running the notebook says it, too, but in minutes."""
    for cell in code_cells(nbformat.read(path, as_version=4)):
        for module, name in imports(cell.source):
            there = importlib.import_module(module)
            found = hasattr(there, name) or importlib.util.find_spec(f"{module}.{name}")
            assert found, f"{cell.id}: {module} has no {name}"


@pytest.mark.parametrize(("notebook", "name", "source"), CELLS, ids=[name for _, name, _ in CELLS])
def test_a_taught_function_is_the_library_s(notebook: str, name: str, source: str) -> None:
    short = name.rpartition(".")[2]
    ours, theirs = definitions(library(name)), definitions(source)
    assert short in theirs, f"{notebook}: the cell tagged {PREFIX}{name} does not define {short}"
    assert theirs[short] == ours[short], f"{notebook}: {short} differs from {name}"


def test_a_library_function_is_defined_in_one_notebook_only() -> None:
    counts = Counter(name for _, name, _ in CELLS)
    assert [name for name, count in counts.items() if count > 1] == []


ROOMS = layout, modulation, sd3, evaluation
TAUGHT_HERE = [item for room in ROOMS for item in taught_in(room, LESSONS).items()]


@pytest.mark.parametrize(("name", "lesson"), TAUGHT_HERE)
def test_what_a_docstring_says_is_taught_has_its_cell(name: str, lesson: str) -> None:
    numbers = [notebook[:2] for notebook, taught, _ in CELLS if taught == name]
    assert numbers == [lesson], f"{name} is to be taught in notebook {lesson}"


@pytest.mark.parametrize(
    ("source", "equal"),
    [
        ('def f(x: int) -> int:\n    """Other words."""\n    return x + 1', True),
        ("def f(\n    x: int\n) -> int:\n    return (\n        x + 1\n    )  # why", True),
        ("def f(x: int) -> int:\n    return x + 2", False),
        ("def f(x: float) -> int:\n    return x + 1", False),
        ("def f(x: int) -> int:\n    x = x + 1\n    return x", False),
    ],
)
def test_only_docstrings_comments_and_layout_may_differ(source: str, equal: bool) -> None:
    theirs = definitions('def f(x: int) -> int:\n    """Words."""\n    return x + 1')
    assert (definitions(source) == theirs) is equal
