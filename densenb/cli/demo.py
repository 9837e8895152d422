"""A demonstration: five prompts, the stock picture beside the steered one, and the scores."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from densenb.evaluation import metrics
from densenb.evaluation.measure import score_layout
from densenb.evaluation.runner import best_device, draw, latent_shape
from densenb.evaluation.tables import aligned, number, plain, settings_of
from densenb.layout.layout import Layout, Region
from densenb.layout.masks import Mask, box, ellipse
from densenb.miniature.oracle import load_oracle
from densenb.models.load import load
from densenb.models.tiers import tier
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule
from densenb.plots import layouts, pictures
from densenb.sampling import generators

SEEDS = (0, 1)
COLUMNS = ("presence", "in_mask", "mIoU", "colour_binding", "leakage")


@dataclass(frozen=True)
class Case:
    """A layout whose phrases name objects that the oracle knows."""

    name: str
    layout: Layout


def _case(name: str, caption: str, masks: dict[str, Mask], background: str | None = None) -> Case:
    regions = [Region(phrase, mask) for phrase, mask in masks.items()]
    return Case(name, Layout(caption, regions, background))


CASES = (
    _case(
        "cat-umbrella",
        "cat with red umbrella",
        {"cat": box(0.06, 0.42, 0.50, 0.96), "red umbrella": ellipse(0.70, 0.30, 0.26, 0.25)},
    ),
    _case(
        "squid-rose-garden",
        "A magnificent squid, shimmering in shades of deep indigo and vibrant teal, glides "
        "gracefully through an enchanting rose garden where blossoms of crimson, blush, and "
        "gold radiate under the soft, dappled sunlight",
        {
            "A magnificent squid, shimmering in shades of deep indigo and vibrant teal": ellipse(
                0.36, 0.52, 0.30, 0.36
            )
        },
        "an enchanting rose garden",
    ),
    _case(
        "left-right",
        "a blue cat and an orange umbrella in a rose garden",
        {
            "a blue cat": box(0.05, 0.35, 0.50, 0.95),
            "an orange umbrella": ellipse(0.72, 0.40, 0.22, 0.30),
        },
        "a rose garden",
    ),
    _case(
        "three-objects",
        "a green frog, a purple octopus and a red fish on a beach",
        {
            "a green frog": box(0.04, 0.54, 0.44, 0.96),
            "a purple octopus": ellipse(0.30, 0.25, 0.22, 0.21),
            "a red fish": box(0.54, 0.40, 0.97, 0.80),
        },
    ),
    _case(
        "against-the-caption",
        "a gray dog on the left and an orange cat on the right in a meadow",
        {
            "a gray dog": box(0.53, 0.38, 0.96, 0.94),
            "an orange cat": box(0.05, 0.38, 0.48, 0.94),
        },
    ),
)


def run(
    out: str | Path = "out/demo",
    fast: bool = False,
    *,
    pipe: Any = None,
    oracle: Any = None,
    cases: Sequence[Case] = CASES,
    config: Rule | None = None,
) -> dict[str, Any]:
    """Draw every case without and with its layout, score both, and write it all under `out`.

    Writes a figure for each case (layout, stock, dense; masks drawn), the plain pictures under
    `pictures/`, `overview.png` and `metrics.json`; prints a table and where things are.

    Args:
        out: the folder, created when missing.
        fast: one seed a case instead of two.
        pipe: by default the bundled miniature.
        oracle: by default the bundled one.
        cases: the prompts and layouts to draw.
        config: how pictures are steered; by default the best setting measured for the miniature.

    Returns:
        The content of `metrics.json`: settings, one row for each case and run, and the means.
    """
    began = time.perf_counter()
    out = Path(out)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    pipe = load(device=best_device()) if pipe is None else pipe
    oracle = load_oracle(str(pipe.device)) if oracle is None else oracle
    config = DenseConfig.recommended(pipe) if config is None else config
    this, seeds = tier(pipe), SEEDS[:1] if fast else SEEDS
    footer = f"{this.stamp(seeds)} from the top"
    rows, scores = [], {"stock": [], "dense": []}
    overview: dict[str, list[Image.Image]] = {"stock": [], "dense": []}
    total = len(cases) * len(seeds) * len(scores)
    with tqdm(total=total, unit="picture") as bar:
        for place, case in enumerate(cases, 1):
            bar.set_description(f"{place}/{len(cases)} {case.name}")
            drawn = {}
            masks = case.layout.pixel_masks(this.height, this.width)
            for name, rule in (("stock", None), ("dense", config)):
                images = []
                for generator in generators(seeds):
                    # the same noise as in generate(), so that `densenb generate` agrees
                    latents = torch.randn((1, *latent_shape(pipe)), generator=generator)
                    picture = draw(pipe, rule, [case.layout], latents, this.steps, this.guidance)
                    images.append(picture)  # (1, 3, H, W)
                    bar.update()
                found = score_layout(torch.cat(images), case.layout, oracle)
                scores[name].append(found)
                rows.append({"case": case.name, "run": name, **metrics.aggregate(found)})
                drawn[name] = [pictures.to_image(image[0]) for image in images]
                overview[name].append(pictures.overlay(drawn[name][0], masks))
                for seed, picture in zip(seeds, drawn[name], strict=True):
                    picture.save(out / "pictures" / f"{case.name}-{name}-seed-{seed}.png")
            figure = layouts.before_after(
                drawn["stock"], drawn["dense"], case.layout, case.layout.text, footer
            )
            figure.savefig(out / f"{place}-{case.name}.png", dpi=110)
    pictures.sheet(overview, side=192).save(out / "overview.png")
    means = [{"case": "all", "run": name, **_mean(parts)} for name, parts in scores.items()]
    report = plain(
        {
            "model": this.label,
            "steps": this.steps,
            "guidance": this.guidance,
            "seeds": list(seeds),
            "settings": settings_of(config),
            "layouts": {case.name: case.layout.to_dict() for case in cases},
            "rows": rows,
            "means": means,
        }
    )
    (out / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(report["rows"] + report["means"]))
    print(
        "All scores in percent; leakage: lower is better. "
        f"{total} pictures in {time.perf_counter() - began:.0f} s."
    )
    print(f"Pictures: {out / 'overview.png'} and one figure a prompt in {out}/")
    print(f"Scores:   {out / 'metrics.json'}")
    return report


def _mean(parts: list[metrics.ObjectScores]) -> dict[str, float]:
    """Over the objects of all cases, however many each has."""
    fields = zip(*parts, strict=True)
    joined = (torch.cat([values.flatten() for values in field]) for field in fields)
    return metrics.aggregate(metrics.ObjectScores(*joined))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Stock and dense under each other, a pair of lines for each case."""
    lines = [["case", "run", *COLUMNS]]
    for row in rows:
        cells = [number(row[name], 0) for name in COLUMNS]
        lines.append([row["case"], row["run"], *cells])
    return aligned(lines)
