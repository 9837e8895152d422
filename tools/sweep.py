"""Compare settings of the modulation on `tune` scenes; the best becomes the tier's `tuned`.

    python tools/sweep.py --scenes 96 --out out/sweep.json
    python tools/sweep.py --scenes 18 --only stock negative published

One row a setting, the best printed last; the file is rewritten after every setting, so that an
interrupted sweep keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import densenb as dnb
from densenb import evaluate
from densenb.modulation import DenseConfig, Rule
from densenb.suites import build_suite, known

NEGATIVE = {"special_tokens": "negative"}


def negative(**changes: Any) -> DenseConfig:
    """The paper's strengths and treatment of special tokens, with some settings changed."""
    return DenseConfig(**(NEGATIVE | changes))


SETTINGS: dict[str, Rule | None] = {
    "stock": None,
    "hard mask": dnb.HardMask(),
    "hard mask, negative": dnb.HardMask(special_tokens="negative"),
    "hard mask, negative, alone": dnb.HardMask(
        special_tokens="negative", encode_phrases_alone=True
    ),
    "transferred": DenseConfig(),
    "published": DenseConfig.published(),
    "published, masks by area": replace(DenseConfig.published(), masks="area"),
    "negative": negative(),
    "alone": negative(encode_phrases_alone=True),
    "no background": negative(unassigned="none"),
    "alone, no background": negative(encode_phrases_alone=True, unassigned="none"),
    "decay 1": negative(decay=1.0),
    "decay 2": negative(decay=2.0),
    "area 0": negative(area=0.0),
    "area 0.5": negative(area=0.5),
    "window 0.2": negative(window=0.2),
    "window 0.5": negative(window=0.5),
    "window 0.5, decay 2": negative(window=0.5, decay=2.0),
    "image-text 0.5": negative(image_text=0.5),
    "image-image 0": negative(image_image=0.0),
    "image-image 0.1": negative(image_image=0.1),
    "image-image 0.6": negative(image_image=0.6),
    "image-image 1": negative(image_image=1.0),
    "text-image 0.3": negative(text_image=0.3),
    "text-image 1": negative(text_image=1.0),
    "text-text 0.3": negative(text_text=0.3),
    "text-text 1": negative(text_text=1.0),
    "text 0.3": negative(text_image=0.3, text_text=0.3),
    "row range": negative(value_range="row"),
    "alone, image-image 0.6": negative(encode_phrases_alone=True, image_image=0.6),
    "alone, area 0.5": negative(encode_phrases_alone=True, area=0.5),
    "alone, decay 2": negative(encode_phrases_alone=True, decay=2.0),
    "alone, text-text 0.3": negative(encode_phrases_alone=True, text_text=0.3),
}
COLUMNS = ("mIoU", "in_mask", "presence", "colour_binding", "leakage", "quality")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), help="names; all by default")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out", type=Path, default=Path("out/sweep.json"))
    options = parser.parse_args(arguments)

    chosen = {known(name, SETTINGS, "setting"): SETTINGS[name] for name in options.only}
    evaluate.METHODS.update({name: lambda pipe, rule=rule: rule for name, rule in chosen.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    device = evaluate.best_device()
    pipe = dnb.load("tiny", device)
    suite = build_suite("tune", options.scenes, options.seed, device)
    rows = []
    for row in evaluate.evaluate_each(pipe, list(chosen), suite, batch_size=options.batch_size):
        rows.append(row)
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    rows.sort(key=lambda row: row["mIoU"])
    lines = [["setting", *COLUMNS]]
    for row in rows:
        values = (row[name] for name in COLUMNS)
        lines.append([row["method"], *("-" if v is None else f"{v:.1f}" for v in values)])
    print(evaluate.aligned(lines))


if __name__ == "__main__":
    sys.exit(main())
