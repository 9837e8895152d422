"""The hand-in file of a learner: which exercises the checks have passed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from densenb.lessons import checking


def report(student: str, path: str | Path = "hand_in.json") -> Path:
    """Write which exercises were passed in this session, print them, and return the file.

    An existing file of the same student is extended, so that one file can collect all notebooks,
    each of which is a session of its own. The file says what the checks printed on this machine; it
    is no proof.

    Raises:
        ValueError: Without a name, and for a file that is another student's or no hand-in.
    """
    if not isinstance(student, str) or not student.strip():
        raise ValueError(f'student is {student!r}: give your name, e.g. checks.report("Ada").')
    path, student = Path(path), student.strip()
    passed = _read(path, student) if path.exists() else {}
    known = dict(sorted(checking.EXERCISES.items(), key=lambda item: (item[1], item[0])))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for name, said in checking.PASSED.items():
        before = passed.get(name, {}).get("said", [])
        passed[name] = {
            "notebooks": known[name],
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
