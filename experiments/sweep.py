"""Compare settings of the modulation on `tune` scenes; the best becomes the tier's `recommended`.

    python experiments/sweep.py --scenes 96 --dtype bfloat16 --out out/sweep.json
    python experiments/sweep.py --round sweep_fine --scenes 128 --seeds 0 1 --out out/fine.json
    python experiments/sweep.py --scenes 18 --only stock background published

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

import torch

import densenb as dnb
from densenb.evaluation import runner
from densenb.evaluation.suites import build_suite, known
from densenb.evaluation.tables import aligned
from densenb.modulation.baselines import (
    HardMask,
    MultiplyWeights,
    PaintWithWords,
    ScaleByArea,
    ScaleText,
)
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule

ROWS = HardMask.quadrants[:2]  # image->text and image->image: the rows of the image


def behind(**changes: Any) -> DenseConfig:
    """The paper's strengths, text of no region left to the background, and some changes."""
    return DenseConfig(**({"special_tokens": "background"} | changes))


def fixed(image_text: float, image_image: float = 0.0) -> DenseConfig:
    """A fixed bias in logits."""
    same = {"value_range": None, "decay": 0.0, "area": 0.0}
    return behind(**same, image_text=image_text, image_image=image_image)


SETTINGS: dict[str, Rule | None] = {
    "stock": None,
    "hard mask": HardMask(),
    "hard mask, neutral": HardMask(special_tokens="neutral"),
    "hard mask, image-text": HardMask(quadrants=ROWS[:1]),
    "hard mask, image-text and text-image": HardMask(
        quadrants=(HardMask.quadrants[0], HardMask.quadrants[2])
    ),
    "hard mask, image-text and text-text": HardMask(
        quadrants=(HardMask.quadrants[0], HardMask.quadrants[3])
    ),
    "hard mask, image rows": HardMask(quadrants=ROWS),
    "hard mask, image rows and text-image": HardMask(quadrants=HardMask.quadrants[:3]),
    "hard mask, image rows and text-text": HardMask(quadrants=(*ROWS, HardMask.quadrants[3])),
    "hard mask, image rows, alone": HardMask(quadrants=ROWS, encode_phrases_alone=True),
    "hard mask, image rows, window 0.2": HardMask(quadrants=ROWS, window=0.2),
    "hard mask, image rows, window 0.4": HardMask(quadrants=ROWS, window=0.4),
    "transferred": DenseConfig(),
    "published": DenseConfig.published(),
    "negative": DenseConfig(special_tokens="negative"),
    "background": behind(),
    "alone": behind(encode_phrases_alone=True),
    "soft masks": behind(masks="soft"),
    "row range": behind(value_range="row"),
    "by fraction": behind(clock="fraction", decay=1.0),
    "area 0": behind(area=0.0),
    "area 0.5": behind(area=0.5),
    "area 0, image-text 0.5": behind(area=0.0, image_text=0.5),
    "area 0.5, decay 2": behind(area=0.5, decay=2.0),
    "area 0, by fraction": behind(area=0.0, clock="fraction", decay=1.0),
    "area 0, cosine, window 0.5": behind(area=0.0, clock="cosine", decay=1.0, window=0.5),
    "area 0, row range": behind(area=0.0, value_range="row"),
    "area 0, image-image 1, decay 0": behind(area=0.0, image_image=1.0, decay=0.0),
    "alone, area 0": behind(encode_phrases_alone=True, area=0.0),
    "alone, area 0.5": behind(encode_phrases_alone=True, area=0.5),
    "alone, area 0, image-image 0.6": behind(encode_phrases_alone=True, area=0.0, image_image=0.6),
    "alone, area 0, window 0.4": behind(encode_phrases_alone=True, area=0.0, window=0.4),
    "alone, area 0, soft masks": behind(encode_phrases_alone=True, area=0.0, masks="soft"),
}
for number in (0.0, 1.0, 2.0):
    SETTINGS[f"decay {number:g}"] = behind(decay=number)
    SETTINGS[f"area 0, decay {number:g}"] = behind(area=0.0, decay=number)
for number in (0.2, 0.4, 0.5):
    SETTINGS[f"window {number:g}"] = behind(window=number)
    SETTINGS[f"area 0, window {number:g}"] = behind(area=0.0, window=number)
for number in (0.0, 0.1, 0.6, 1.0):
    SETTINGS[f"image-image {number:g}"] = behind(image_image=number)
    SETTINGS[f"area 0, image-image {number:g}"] = behind(area=0.0, image_image=number)
for number in (0.3, 1.0):
    SETTINGS[f"text-image {number:g}"] = behind(text_image=number)
    SETTINGS[f"text-text {number:g}"] = behind(text_text=number)
    SETTINGS[f"area 0, text-image {number:g}"] = behind(area=0.0, text_image=number)
    SETTINGS[f"area 0, text-text {number:g}"] = behind(area=0.0, text_text=number)
for number in (1.0, 2.0, 3.0, 4.0, 6.0, 9.0):
    SETTINGS[f"fixed bias {number:g}"] = fixed(number)
for number in (0.5, 1.0, 2.0, 4.0):
    SETTINGS[f"fixed bias 2, image-image {number:g}"] = fixed(2.0, number)
    SETTINGS[f"fixed bias 4, image-image {number:g}"] = fixed(4.0, number)

# Around the best of the first round, on more scenes and noises: docs/sweep.md, second table.
HALF = {"area": 0.0, "image_text": 0.5}
FINE: dict[str, Rule | None] = {
    f"{'alone, ' if alone else ''}area {area:g}, image-text {text:g}": behind(
        area=area, image_text=text, encode_phrases_alone=alone
    )
    for alone in (False, True)
    for area, text in ((0, 0.3), (0, 0.4), (0.25, 0.4), (0.25, 0.5), (0.5, 0.5), (0.5, 0.7))
}
for alone in (False, True):
    words = "alone, image-text 0.4" if alone else "image-text 0.4"
    same = {"area": 0.0, "image_text": 0.4, "encode_phrases_alone": alone}
    FINE |= {
        f"{words}, image-image 0.5": behind(**same, image_image=0.5),
        f"{words}, soft masks": behind(**same, masks="soft"),
        f"{words}, window 0.4": behind(**same, window=0.4),
        f"{words}, by fraction": behind(**same, clock="fraction", decay=1.0),
        f"{words}, text-text 0.3": behind(**same, text_text=0.3),
    }
FINE |= {
    "alone, image-text 0.3, image-image 0.6": behind(
        area=0.0, image_text=0.3, image_image=0.6, encode_phrases_alone=True
    ),
    "alone, area 0, image-text 0.5": behind(**HALF, encode_phrases_alone=True),
    "fixed bias 2.5, image-image 1": fixed(2.5, 1.0),
    "fixed bias 2, image-image 1, alone": replace(fixed(2.0, 1.0), encode_phrases_alone=True),
}
# Each rival gets its choice as well.
EVERY_OTHER = tuple(range(0, 6, 2))
RIVALS: dict[str, Rule | None] = {
    "alternating, window 1": HardMask(blocks=EVERY_OTHER, window=1.0),
    "alternating, image rows": HardMask(blocks=EVERY_OTHER, quadrants=ROWS),
    "taca 1.5": ScaleText(scale=1.5),
    "taca 1.2, window 0.3": ScaleText(window=0.3),
    "taca 1.5, window 0.3": ScaleText(scale=1.5, window=0.3),
    "omost": ScaleByArea(),
    "omost, window 0.3": ScaleByArea(window=0.3),
    "omost, alone": ScaleByArea(encode_phrases_alone=True),
    "mis-dit, half": MultiplyWeights(image_text=2.5, image_image=1.75, text_text=1.75),
    "mis-dit, all blocks": MultiplyWeights(),
    "mis-dit, double": MultiplyWeights(image_text=10, image_image=7, text_text=7),
    "mis-dit, triple": MultiplyWeights(image_text=15, image_image=10.5, text_text=10.5),
    "mis-dit, double, window 0.3": MultiplyWeights(
        image_text=10, image_image=7, text_text=7, window=0.3
    ),
    "mis-dit, double, caption": MultiplyWeights(
        image_text=10, image_image=7, text_text=7, encode_phrases_alone=False
    ),
}
for number in (0.1, 0.2, 0.3, 0.4, 0.8):
    RIVALS[f"paint-with-words {number:g}"] = PaintWithWords(weight=number)
    RIVALS[f"paint-with-words {number:g}, alone"] = PaintWithWords(
        weight=number, encode_phrases_alone=True
    )
for number in (0.2, 0.4):
    RIVALS[f"paint-with-words {number:g}, window 0.3"] = PaintWithWords(weight=number, window=0.3)


def words(logits: float, **changes: Any) -> DenseConfig:
    """A fixed bias from image to text alone, text of no region left as it is."""
    same = {"value_range": None, "decay": 0.0, "area": 0.0, "image_image": 0.0}
    return DenseConfig(**(same | {"image_text": logits} | changes))


# What the rivals taught: leave all other text alone, and let words win.
NEUTRAL: dict[str, Rule | None] = {
    f"neutral fixed bias {number}": words(float(number)) for number in (3, 4, 5, 6, 8, 10, 12)
}
for number in (4, 6, 8):
    NEUTRAL[f"neutral fixed bias {number}, alone"] = words(number, encode_phrases_alone=True)
for number, window in ((6, 0.2), (6, 0.4), (6, 0.5), (4, 0.5), (8, 0.2)):
    NEUTRAL[f"neutral fixed bias {number}, window {window}"] = words(number, window=window)
for number in (0.3, 0.5, 0.7, 1.0):
    NEUTRAL[f"neutral row range {number}"] = words(number, value_range="row")
NEUTRAL |= {
    "neutral fixed bias 6, image-image 0.25": words(6.0, image_image=0.25),
    "neutral fixed bias 6, image-image 0.5": words(6.0, image_image=0.5),
    "neutral fixed bias 6, soft masks": words(6.0, masks="soft"),
    "neutral fixed bias 6, text-image 1": words(6.0, text_image=1.0),
    "neutral fixed bias 6, text-text 1": words(6.0, text_text=1.0),
    "neutral fixed bias 8, by fraction, window 0.5": words(
        8.0, clock="fraction", decay=1.0, window=0.5
    ),
    "neutral quadrant range 1": words(1.0, value_range="quadrant"),
}

# Masks that are no outlines, `--suite tune-brush` and `tune-boxes`: who does not fill them?
PAINTED: dict[str, Rule | None] = {
    "range": behind(**HALF),
    "range, window 0.2": behind(**HALF, window=0.2),
    "fixed bias 2, image-image 1": fixed(2.0, 1.0),
}
for number, window in (
    (6, 0.3), (6, 0.25), (6, 0.2), (6, 0.15), (6, 0.1), (3, 0.3), (3, 0.2), (3, 0.15), (2, 0.3),
    (2, 0.2), (1, 0.3),
):  # fmt: skip
    PAINTED[f"{number} logits, window {window}"] = words(
        float(number), text_image=1.0, window=window
    )
PAINTED["6 logits, soft masks"] = words(6.0, text_image=1.0, masks="soft")
PAINTED["6 logits, by fraction"] = words(6.0, text_image=1.0, clock="fraction", decay=1.0)
PAINTED["6 logits, decay 5"] = words(6.0, text_image=1.0, decay=5.0)

ROUNDS: dict[str, dict[str, Rule | None]] = {
    "sweep": SETTINGS,
    "sweep_fine": FINE,
    "sweep_rivals": RIVALS,
    "sweep_neutral": NEUTRAL,
    "sweep_painted": PAINTED,
}
"""Rounds of the sweep, each after the last had been looked at: docs/ROUND.json has its rows."""
ALL = {name: rule for settings in ROUNDS.values() for name, rule in settings.items()}

COLUMNS = ("mIoU", "box_iou", "in_mask", "presence", "colour_binding", "leakage", "quality")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, or a trained state of the miniature")
    parser.add_argument("--suite", default="tune", help="(%(default)s)")
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0, help="of scenes and noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="more noise")
    parser.add_argument("--round", choices=list(ROUNDS), default="sweep", help="(%(default)s)")
    parser.add_argument("--only", nargs="+", help="names of any round, instead of a whole one")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path("out/sweep.json"))
    options = parser.parse_args(arguments)

    names = options.only or ["stock", *ROUNDS[options.round]]
    chosen = {known(name, ALL, "setting"): ALL[name] for name in names}
    runner.METHODS.update({name: lambda pipe, rule=rule: rule for name, rule in chosen.items()})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    device = runner.best_device()
    pipe = dnb.load(options.model, device, getattr(torch, options.dtype))
    suite = build_suite(options.suite, options.scenes, options.seed, device)
    rows = []
    for row in runner.evaluate_each(
        pipe, list(chosen), suite, options.seeds, batch_size=options.batch_size
    ):
        rows.append(row)
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    rows.sort(key=lambda row: row[row["headline"]])
    lines = [["setting", *COLUMNS]]
    for row in rows:
        values = (row[name] for name in COLUMNS)
        lines.append([row["method"], *("-" if v is None else f"{v:.1f}" for v in values)])
    print(aligned(lines))


if __name__ == "__main__":
    sys.exit(main())
