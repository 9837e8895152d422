"""`densenb demo`: five prompts, the stock picture beside the steered one, and their scores."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import densenb as dnb
from densenb.cli.options import folder

if TYPE_CHECKING:
    from densenb.evaluation.metrics import ObjectScores

SEEDS = (0, 1)
COLUMNS = ("presence", "in_mask", "mIoU", "colour_binding", "leakage")


def add(commands: argparse._SubParsersAction) -> None:
    """The command's options."""
    command = commands.add_parser("demo", help="draw five prompts, stock and steered, and score")
    command.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)"
    )
    command.add_argument("--fast", action="store_true", help="one seed per prompt instead of two")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw every case without and with its layout, score both, and write it all under `--out`.

    Writes a figure per case (layout, stock, dense; masks drawn), the plain pictures under
    `pictures/`, `overview.png` and `metrics.json` (settings, scores of each case and run, and the
    means). Prints the scores as a table, and where the files are.
    """
    out, began = options.out, time.perf_counter()
    folder(out)
    from tqdm.auto import tqdm

    from densenb.cli.cases import CASES
    from densenb.evaluation import metrics, runner, tables
    from densenb.evaluation.measure import score_layout
    from densenb.plots import layouts, pictures

    (out / "pictures").mkdir(exist_ok=True)
    pipe = dnb.load(device=runner.best_device())
    config = dnb.DenseConfig.recommended(pipe)
    this, seeds = dnb.tier(pipe), SEEDS[:1] if options.fast else SEEDS
    footer = f"{this.stamp(seeds)} from the top"
    rows, scores, overview = [], {"stock": [], "dense": []}, {"stock": [], "dense": []}
    total = len(CASES) * len(seeds) * len(scores)
    with tqdm(total=total * this.steps, unit="step") as bar:
        for place, (case, layout) in enumerate(CASES.items(), 1):
            bar.set_description(f"{place}/{len(CASES)} {case}")
            drawn = {}
            masks = layout.pixel_masks(this.height, this.width)
            for name, rule in (("stock", None), ("dense", config)):
                images = dnb.generate(pipe, layout, seeds, rule, progress=lambda *_: bar.update())
                found = score_layout(images, layout)
                scores[name].append(found)
                rows.append({"case": case, "run": name, **metrics.aggregate(found)})
                drawn[name] = images
                overview[name].append(pictures.overlay(images[0], masks))
                for seed, image in zip(seeds, images, strict=True):
                    image.save(out / "pictures" / f"{case}-{name}-seed-{seed}.png")
            figure = layouts.before_after(*drawn.values(), layout, layout.text, footer)
            figure.savefig(out / f"{place}-{case}.png", dpi=110)
    pictures.sheet(overview, side=192).save(out / "overview.png")
    report = tables.plain(
        {
            "model": this.label,
            "steps": this.steps,
            "guidance": this.guidance,
            "seeds": list(seeds),
            "settings": tables.settings_of(config),
            "layouts": {case: layout.to_dict() for case, layout in CASES.items()},
            "rows": rows,
            "means": [{"case": "all", "run": name, **mean(s)} for name, s in scores.items()],
        }
    )
    (out / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report["rows"] + report["means"]))
    print(
        "All scores are percentages; for leakage, lower is better. "
        f"{total} pictures in {time.perf_counter() - began:.0f} s."
    )
    print(f"Pictures: {out / 'overview.png'}, and one figure per prompt in {out}/")
    print(f"Scores:   {out / 'metrics.json'}")


def mean(parts: Sequence[ObjectScores]) -> dict[str, float]:
    """The mean scores over the objects of all cases, however many each case has."""
    import torch

    from densenb.evaluation.metrics import ObjectScores, aggregate

    fields = zip(*parts, strict=True)
    return aggregate(ObjectScores(*(torch.cat([v.flatten() for v in field]) for field in fields)))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The scores as text: for each case a line for stock and a line for dense."""
    from densenb.evaluation.tables import aligned, number

    cells = [[row["case"], row["run"], *(number(row[c], 0) for c in COLUMNS)] for row in rows]
    return aligned([["case", "run", *COLUMNS], *cells])
