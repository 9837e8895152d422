"""The hand-in file of a learner: which exercises the checks have passed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from densenb.lessons import checking

NOTEBOOKS = re.compile(r"Exercises?\s+of\s+notebooks?\s+(\d\d)(?:,?\s+and\s+(?:of\s+)?(\d\d))?")


def exercises() -> dict[str, list[str]]:
    """Every check, and the notebooks with an exercise of it, as its docstring says them."""
    from densenb.lessons import checks  # here, because checks has `report` at hand

    found = {}
    for name in dir(checks):
        if name.startswith("check_"):
            match = NOTEBOOKS.search(getattr(checks, name).__doc__ or "")
            found[name] = [number for number in match.groups() if number] if match else []
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def report(student: str, path: str | Path = "hand_in.json") -> Path:
    """Write which exercises were passed in this session, print them, and return the file.

    A file of the same student is added to, so that one file can go through all notebooks, each of
    which is a session of its own. ValueError without a name, and for a file that is somebody
    else's or no hand-in. The file says what the checks printed on this machine; it is no proof.
    """
    if not isinstance(student, str) or not student.strip():
        raise ValueError(f'student is {student!r}: give your name, e.g. checks.report("Ada").')
    path, student = Path(path), student.strip()
    passed = _read(path, student) if path.exists() else {}
    known, now = exercises(), datetime.now(UTC).isoformat(timespec="seconds")
    for name, said in checking.PASSED.items():
        before = passed.get(name, {}).get("said", [])
        passed[name] = {
            "notebooks": known.get(name, []),
            "said": list(dict.fromkeys([*before, *said])),
            "passed": now,
        }
    content = {"student": student, "exercises": passed}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    done = 0
    for name, notebooks in known.items():
        count = min(len(passed[name]["said"]), len(notebooks)) if name in passed else 0
        done += count
        print(f"{', '.join(notebooks):6}  {name:<24}  {count} of {len(notebooks)}")
    print(f"{done} of {sum(map(len, known.values()))} exercises passed: {path}")
    return path


def _read(path: Path, student: str) -> dict[str, dict]:
    """The exercises of a hand-in file that is there already."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        owner, passed = content["student"], dict(content["exercises"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no hand-in file: give another path.") from error
    if owner != student:
        raise ValueError(f"{path} is the hand-in of {owner!r}: give another path.")
    return passed
