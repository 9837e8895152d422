"""Is the oracle right about *generated* pictures? It against labels given by eye.

    python experiments/labels.py                      # draws the pictures again: minutes on a CPU
    python experiments/labels.py --pictures out/pics  # of `densenb evaluate --pictures`

docs/labels.json lists what a reader without captions saw in each picture, in random order, stock
and steered pictures of a scene mixed: a colour and a noun for each object, "?" where the noun could
not be told. Printed are the share of the
objects asked for that the reader named, and how far oracle and reader agree about them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

import densenb as dnb
from densenb.evaluation import runner
from densenb.evaluation.suites import build_suite, noise
from densenb.evaluation.tables import aligned
from densenb.miniature.oracle import load_oracle
from densenb.miniature.world import NOUNS

LABELS = Path(__file__).parents[1] / "docs" / "labels.json"
LEAST = 24  # of 4,096 places: what the oracle has to give a noun before it counts as seen


def drawn(pipe: Any, suite: Any, method: str, index: int) -> torch.Tensor:
    """One picture of `densenb evaluate` again: `[3, H, W]` in [0, 1]."""
    this = dnb.tier(pipe)
    latents = noise(suite, [index], 0, runner.latent_shape(pipe))
    rule = runner.METHODS[method](pipe)
    return runner.draw(
        pipe, rule, suite.layouts[index : index + 1], latents, this.steps, this.guidance
    )[0]


def pictures(labels: list[dict], suites: dict[str, Any], folder: Path | None) -> Iterator:
    """Every labelled picture, read from a folder or drawn again."""
    pipe = None if folder else dnb.load("tiny", runner.best_device())
    for label in tqdm(labels, unit="picture"):
        suite, method, index = label["suite"], label["method"], label["scene"]
        if folder is None:
            yield drawn(pipe, suites[suite], method, index)
        else:
            path = folder / suite / method / f"scene-{index:03}.png"
            pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB")))
            yield pixels.permute(2, 0, 1).float() / 255


def nouns_found(oracle: Any, picture: torch.Tensor) -> set[str]:
    """The nouns that the oracle sees in a picture."""
    with torch.inference_mode():
        noun = oracle(picture[None].to(next(oracle.parameters()).device)).noun
    count = noun.flatten().bincount(minlength=len(NOUNS) + 1)[1:]
    return {NOUNS[i] for i in (count >= LEAST).nonzero()[:, 0].tolist()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, help="folder of SUITE/METHOD/scene-000.png")
    folder = parser.parse_args(arguments).pictures
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    sizes = {
        name: 1 + max(label["scene"] for label in labels if label["suite"] == name)
        for name in sorted({label["suite"] for label in labels})
    }
    suites = {name: build_suite(name, size) for name, size in sizes.items()}
    oracle = load_oracle(runner.best_device())
    counts: dict[str, list[int]] = {}
    for label, picture in zip(labels, pictures(labels, suites, folder), strict=True):
        asked = suites[label["suite"]].scenes.noun[label["scene"]]
        wanted = {NOUNS[number] for number in asked.tolist() if number >= 0}
        seen = {words.rsplit(" ", 1)[1] for words in label["seen"]}
        found = nouns_found(oracle, picture)
        row = counts.setdefault(label["method"], [0] * 5)
        row[0] += 1
        for noun in wanted:
            row[1] += 1
            row[2] += noun in seen
            row[3] += noun in found
            row[4] += (noun in seen) == (noun in found)
    lines = [["method", "pictures", "objects", "named by eye", "seen by the oracle", "they agree"]]
    counts["all"] = [sum(column) for column in zip(*counts.values())]
    for method, (shown, objects, *numbers) in counts.items():
        shares = (f"{number} ({100 * number / objects:.0f} %)" for number in numbers)
        lines.append([method, str(shown), str(objects), *shares])
    print(aligned(lines))


if __name__ == "__main__":
    sys.exit(main())
