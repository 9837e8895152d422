"""The committed measurements: rows of `densenb evaluate` and of the sweep, in docs/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


def table(name: str) -> Any:
    """The table docs/`name`.json, such as "measure": mostly a list of rows.

    ValueError, with the tables that there are, for any other name.
    """
    # beside the package in a copy of the repository, inside it when installed
    folder = next(f for f in (PACKAGE / "docs", PACKAGE.parent / "docs") if f.is_dir())
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.json")))
        raise ValueError(f"there is no table {name!r}: known are {known}.")
    return json.loads(path.read_text(encoding="utf-8"))
