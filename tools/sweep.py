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
from pathlib import Path

import densenb as dnb
from densenb import evaluate
from densenb.modulation import DenseConfig, Rule
from densenb.suites import build_suite, known

GENTLE = {"decay": 1.0, "area": 0.0}  # a weaker decay, large regions not spared
FOUR = {"text_image": 1.0, "text_text": 1.0}
NEGATIVE = {"special_tokens": "negative"}
ALONE = {"encode_phrases_alone": True}

SETTINGS: dict[str, Rule | None] = {
    "stock": None,
    "hard mask": dnb.HardMask(),
    "hard mask, negative": dnb.HardMask(special_tokens="negative"),
    "transferred": DenseConfig(),
    "published": DenseConfig.published(),
    "negative": DenseConfig(**NEGATIVE),
    "negative, alone": DenseConfig(**NEGATIVE, **ALONE),
    "gentle": DenseConfig(**GENTLE),
    "gentle, alone": DenseConfig(**GENTLE, **ALONE),
    "gentle, negative": DenseConfig(**GENTLE, **NEGATIVE),
    "gentle, half of the steps": DenseConfig(**GENTLE, window=0.5),
    "gentle, four quadrants": DenseConfig(**GENTLE, **FOUR),
    "gentle, four quadrants, negative": DenseConfig(**GENTLE, **FOUR, **NEGATIVE),
    "gentle, four quadrants, image-image 0.5, negative, alone": DenseConfig(
        **GENTLE, **FOUR, **NEGATIVE, **ALONE, image_image=0.5
    ),
    "gentle, four quadrants, image-image 0.5, half of the steps": DenseConfig(
        **GENTLE, **FOUR, image_image=0.5, window=0.5
    ),
    "constant, four quadrants at 1, negative": DenseConfig(
        **FOUR, **NEGATIVE, decay=0.0, area=0.0, image_image=1.0
    ),
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
    pipe = dnb.load("tiny", device=evaluate.best_device())
    suite = build_suite("tune", options.scenes, options.seed)
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
