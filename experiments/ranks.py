"""Does a ranking of methods, or of strengths, hold on other trained states of the miniature?

    make states                                  # states at 25 %, 50 %, 100 %, and a smaller model
    python experiments/ranks.py score --model out/states/model-25 --out "out/ranks/25 %.json"
    python experiments/ranks.py score --out out/ranks/bundled.json
    python experiments/ranks.py table out/ranks/*.json --out docs/ranks.json

A state is named by its file. The table compares every state with the one named "bundled".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import sweep

from densenb.evaluation.ranks import kendall_tau
from densenb.evaluation.tables import aligned

BUNDLED = "bundled"
TUNED = "neutral fixed bias 6, text-image 1"  # `DenseConfig.recommended` as the sweep calls it
METHODS = (
    "stock", "transferred", "published", "background", "area 0", "area 0, image-text 0.5",
    "alone, area 0", "fixed bias 2", "fixed bias 2, image-image 1", "hard mask",
    "hard mask, image rows", "omost", "omost, window 0.3", "mis-dit, all blocks",
    "paint-with-words 0.2", "paint-with-words 0.4", "taca 1.2, window 0.3", TUNED,
)  # fmt: skip
STRENGTHS: dict[str, dict[float, str]] = {
    "image-text": {0.3: "area 0, image-text 0.3", 0.5: "area 0, image-text 0.5", 1.0: "area 0"},
    "image-image": {
        0.0: "area 0, image-image 0",
        0.3: "area 0",
        0.6: "area 0, image-image 0.6",
        1.0: "area 0, image-image 1",
    },
    "window": {
        0.2: "area 0, window 0.2",
        0.3: "area 0",
        0.4: "area 0, window 0.4",
        0.5: "area 0, window 0.5",
    },
    "fixed bias": {float(logits): f"fixed bias {logits}" for logits in (1, 2, 3, 4, 6, 9)},
    "neutral bias": {
        float(logits): f"neutral fixed bias {logits}" for logits in (3, 4, 6, 8, 12)
    },
    "neutral window": {
        0.2: "neutral fixed bias 6, window 0.2",
        0.3: "neutral fixed bias 6",
        0.4: "neutral fixed bias 6, window 0.4",
        0.5: "neutral fixed bias 6, window 0.5",
    },
}  # fmt: skip
"""Of each setting, its values and what the sweep calls them."""


def asked() -> list[str]:
    """Every setting that is ranked, once."""
    strengths = [name for values in STRENGTHS.values() for name in values.values()]
    return list(dict.fromkeys([*METHODS, *strengths]))


def best(scores: dict[str, float], names: dict[float, str]) -> float | None:
    """The strength with the highest mIoU; None where none reaches 1 %, for nothing is drawn."""
    value = max(names, key=lambda value: scores[names[value]])
    return value if scores[names[value]] >= 1 else None


def compared(states: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the table says of states {name: rows of the sweep}: taus and best strengths.

    ValueError when there is no state "bundled", or one lacks a setting.
    """
    if BUNDLED not in states:
        raise ValueError(f"none of {list(states)} is {BUNDLED!r}: score the bundled model, too.")
    scores = {}
    for state, rows in states.items():
        scores[state] = {row["method"]: row["mIoU"] for row in rows}
        missing = [name for name in asked() if name not in scores[state]]
        if missing:
            raise ValueError(f"state {state!r} has no scores of {missing}: score it again.")

    def order(state: str, names: Any) -> list[float]:
        return [scores[state][name] for name in names]

    return {
        state: {
            "stock_presence": next(r["presence"] for r in rows if r["method"] == "stock"),
            "mIoU": {name: scores[state][name] for name in METHODS},
            "tau_methods": kendall_tau(order(state, METHODS), order(BUNDLED, METHODS)),
            "tau_strengths": {
                kind: kendall_tau(order(state, names.values()), order(BUNDLED, names.values()))
                for kind, names in STRENGTHS.items()
            },
            "best": {kind: best(scores[state], names) for kind, names in STRENGTHS.items()},
        }
        for state, rows in states.items()
    }


def table(found: dict[str, Any]) -> str:
    """The comparison as text: a line for each state."""
    lines = [["state", "stock presence", "tau of methods", *(f"best {k} (tau)" for k in STRENGTHS)]]
    for state, facts in found.items():
        cells = []
        for kind in STRENGTHS:
            value, tau = facts["best"][kind], facts["tau_strengths"][kind]
            cells.append("-" if value is None else f"{value:g} ({tau:.2f})")
        lines.append(
            [state, f"{facts['stock_presence']:.1f}", f"{facts['tau_methods']:.2f}", *cells]
        )
    return aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser("score", help="score all settings on one state")
    score.add_argument(
        "--model", default="tiny", help="a trained state; the bundled one by default"
    )
    score.add_argument("--scenes", type=int, default=96)
    score.add_argument("--out", type=Path, required=True, help="named as the state is to be called")
    score.add_argument("rest", nargs="*", help="after --: more options of experiments/sweep.py")
    made = commands.add_parser("table", help="compare the states")
    made.add_argument("states", type=Path, nargs="+", help="files of `score`")
    made.add_argument("--out", type=Path, help="write the comparison to this JSON file")
    options = parser.parse_args(arguments)
    if options.command == "score":
        given = ["--model", options.model, "--scenes", str(options.scenes)]
        sweep.main([*given, "--out", str(options.out), *options.rest, "--only", *asked()])
        return
    states = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in options.states}
    found = compared(states)
    print(table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
