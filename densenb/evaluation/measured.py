"""The committed measurements: rows of `densenb evaluate` and of the sweep, in docs/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


def names() -> list[str]:
    """The names of all tables."""
    return sorted(each.stem for each in _folder().glob("*.json"))


def table(name: str) -> Any:
    """The table docs/`name`.json, such as "measure": mostly a list of rows.

    Raises ValueError, with the names of all tables, for any other name.
    """
    if name not in names():
        raise ValueError(f"there is no table {name!r}: known are {', '.join(names())}.")
    return json.loads((_folder() / f"{name}.json").read_text(encoding="utf-8"))


def _folder() -> Path:
    # next to the package in a clone of the repository, inside it when installed
    return next(f for f in (PACKAGE / "docs", PACKAGE.parent / "docs") if f.is_dir())
