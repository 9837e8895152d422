"""Turn rows of `densenb evaluate` or of the sweep into a Markdown table.

python tools/tables.py docs/sweep.json --sort > out/sweep.md
python tools/tables.py table.json --suite test-tiny --against hard-mask-image
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from densenb.evaluation.suites import known
from densenb.evaluation.tables import compared, ends, number, won_lost

COLUMNS = {
    "mIoU": "mIoU",
    "in_mask": "in-mask",
    "presence": "presence",
    "colour_binding": "colour binding",
    "leakage": "leakage",
    "quality": "KID",
}
BOXES = {"box_iou": "box IoU"}  # instead of mIoU, where masks are no silhouettes


def markdown(rows: list[dict[str, Any]], first: str = "method", against: str | None = None) -> str:
    """The rows as a table: the headline score with its interval, then the others.

    With `against`, also the difference from that method with its interval, and the scenes won and
    lost.
    """
    boxes = rows[0].get("headline") == "box_iou"
    columns = BOXES | {k: v for k, v in COLUMNS.items() if k != "mIoU"} if boxes else COLUMNS
    extra = [] if against is None else [f"against {against}", "won-lost"]
    lines = [[first, *columns.values(), *extra]]
    lines.append(["---"] * len(lines[0]))
    for row in rows if against is None else compared(rows, against):
        cells = [number(row[name]) for name in columns]
        cells[0] += f" ({ends(row['interval'])})"
        if extra and (pair := row["against"]):
            difference = number(pair["difference"], sign="+")
            cells += [f"{difference} ({ends(pair['interval'], '+')})", won_lost(pair)]
        elif extra:
            cells += ["-", "-"]
        lines.append([row["method"], *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, nargs="+", help="JSON files of rows")
    parser.add_argument("--suite", help="only the rows of this suite")
    parser.add_argument("--methods", help="only these, in this order: stock,recommended")
    parser.add_argument("--against", help="compare with this method, scene by scene")
    parser.add_argument("--sort", action="store_true", help="by mIoU")
    options = parser.parse_args(arguments)
    rows = [row for path in options.rows for row in json.loads(path.read_text(encoding="utf-8"))]
    if options.suite:
        rows = [row for row in rows if row["suite"] == options.suite]
    if options.methods:
        by_name = {row["method"]: row for row in rows}
        rows = [by_name[known(name, by_name, "method")] for name in options.methods.split(",")]
    if options.sort:
        rows.sort(key=lambda row: row[row.get("headline", "mIoU")])
    print(markdown(rows, against=options.against))


if __name__ == "__main__":
    sys.exit(main())
