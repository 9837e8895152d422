"""The hand-in file of a learner: which exercises the checks have passed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from densenb import checking

NOTEBOOK = re.compile(r"Exercise of\s+notebook\s+(\d\d)")


def exercises() -> dict[str, str]:
    """Every check of an exercise, and its notebook's number as its docstring says it."""
    from densenb import checks  # here, because checks has `report` at hand

    found = {}
    for name in dir(checks):
        if name.startswith("check_"):
            match = NOTEBOOK.search(getattr(checks, name).__doc__ or "")
            found[name] = match[1] if match else "--"
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def report(student: str, path: str | Path = "hand_in.json") -> Path:
    """Write which exercises were passed in this session, print them, and return the file.

    A file of the same student is added to, so that one file can go through all notebooks, each of
    which is a session of its own. ValueError without a name, and for a file that is somebody
    else's or no hand-in. The file says what the checks printed on this machine; it is no proof.
    """
    if not isinstance(student, str) or not student.strip():
        raise ValueError(f'student is {student!r}: give your name, e.g. checks.report("Ada").')
    path = Path(path)
    before = _read(path, student.strip()) if path.exists() else {}
    notebooks, now = exercises(), datetime.now(UTC).isoformat(timespec="seconds")
    passed = before | {
        name: {"notebook": notebooks.get(name, "--"), "passed": now, "said": said}
        for name, said in checking.PASSED.items()
    }
    path.write_text(
        json.dumps({"student": student.strip(), "exercises": passed}, indent=1) + "\n",
        encoding="utf-8",
    )
    for name, number in notebooks.items():
        print(f"{number}  {name:<24}  {'passed' if name in passed else '-'}")
    print(f"{len(passed)} of {len(notebooks)} exercises passed: {path}")
    return path


def _read(path: Path, student: str) -> dict[str, dict[str, str]]:
    """The exercises of a hand-in file that is there already."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        owner, passed = content["student"], dict(content["exercises"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no hand-in file: give another path.") from error
    if owner != student:
        raise ValueError(f"{path} is the hand-in of {owner!r}: give another path.")
    return passed
