"""Turn rows of `densenb evaluate` or of the sweep into a Markdown table.

python tools/tables.py docs/sweep.json --sort > out/sweep.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = {
    "mIoU": "mIoU",
    "in_mask": "in-mask",
    "presence": "presence",
    "colour_binding": "colour binding",
    "leakage": "leakage",
    "quality": "KID",
}


def markdown(rows: list[dict[str, Any]], first: str = "method") -> str:
    """The rows as a table: mIoU with its interval, then the other scores."""
    lines = [[first, *COLUMNS.values()], ["---"] * (1 + len(COLUMNS))]
    for row in rows:
        cells = ["-" if row[name] is None else f"{row[name]:.1f}" for name in COLUMNS]
        low, high = row["interval"]
        cells[0] += f" ({low:.1f}-{high:.1f})"
        lines.append([row["method"], *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, nargs="+", help="JSON files of rows")
    parser.add_argument("--sort", action="store_true", help="by mIoU")
    options = parser.parse_args(arguments)
    rows = [row for path in options.rows for row in json.loads(path.read_text(encoding="utf-8"))]
    if options.sort:
        rows.sort(key=lambda row: row["mIoU"])
    print(markdown(rows))


if __name__ == "__main__":
    sys.exit(main())
