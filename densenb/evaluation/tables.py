"""Rows of an evaluation: scores of one method on one suite, their intervals, and comparisons.

Rows hold percentages, except `quality` (KID times 1000, lower is better) and the settings.
Comparisons need nothing but rows, so they also work on a committed table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densenb.evaluation import metrics
from densenb.evaluation.suites import Suite
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.modulation.rule import Rule

GROUND_TRUTH = "ground-truth"
CEILING = "token-grid ceiling"
FEWEST_FOR_QUALITY = 32  # pictures; with fewer, the distance is meaningless
CLOSE = 0.1  # percentage points; a smaller difference is a tie
HEADLINES = ("mIoU", "box_iou", "phrase_binding")  # scores to rank by
SAMPLING = ("seeds", "steps", "guidance", "dtype")  # None for renders and ceilings


def method_row(
    method: str,
    scores: metrics.ObjectScores,
    features: Tensor | None,
    reference: Tensor | None,
    suite: Suite,
    fixed: dict[str, Any],
    rule: Rule | None,
    headline: str | None = None,
) -> dict[str, Any]:
    """The row of a method.

    Args:
        scores: [seeds * S, N], all scenes of the first seed, then of the next.
        features: [seeds * S, d] of its pictures, or None.
        reference: [S, d] of renders, or None.
        fixed: values that all rows of a table share.
        headline: the score to rank by; by default see `headline_of`.
    """
    headline = headline or headline_of(suite, scores)
    values = getattr(scores, metrics.SCORES[headline])  # (seeds * S, N)
    by_scene = torch.cat(values.split(len(suite)), 1)  # (S, seeds * N)
    interval = metrics.bootstrap_interval(by_scene, torch.Generator().manual_seed(0))
    objects = (suite.scenes.noun >= 0).sum(1)  # (S,)
    repeated = objects.repeat(len(values) // len(suite))  # (seeds * S,)
    quality = None
    known = features is not None and reference is not None
    if known and min(len(features), len(reference)) >= FEWEST_FOR_QUALITY:
        quality = metrics.kid(features, reference, torch.Generator().manual_seed(0))[0]
    row = {
        "method": method,
        **metrics.aggregate(scores),
        "headline": headline,
        "interval": [100 * end for end in interval],
        f"{headline}_by_scene": (100 * by_scene.nanmean(1)).tolist(),
        "objects_by_scene": objects.tolist(),
        "presence_by_objects": {
            str(number): 100 * scores.present[repeated == number].nanmean().item()
            for number in objects.unique().tolist()
        },
        "quality": quality,
        **fixed,
        "settings": settings_of(rule),
    }
    if method in (GROUND_TRUTH, CEILING):  # nothing was sampled
        row |= dict.fromkeys(SAMPLING)
    return plain(row)


def headline_of(suite: Suite, scores: metrics.ObjectScores) -> str:
    """The score to rank by: the suite's, or the first that this judge defines."""
    for name in (suite.headline, *HEADLINES):
        if not getattr(scores, metrics.SCORES[name]).isnan().all():
            return name
    return suite.headline


def ceiling_row(
    pipe: Pipeline, suite: Suite, fixed: dict[str, Any], headline: str
) -> dict[str, Any]:
    """The score of a method that follows the token grid perfectly, for mIoU and box IoU."""
    this = tier(pipe)
    token = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    rows, cols = this.height // token, this.width // token
    best = metrics.token_grid_ceiling(suite.masks, rows, cols, boxes=headline == "box_iou")
    scores = metrics.ObjectScores.undefined(*best.shape)  # (S, N)
    if headline != "phrase_binding":  # it is not an overlap
        scores = scores._replace(**{metrics.SCORES[headline]: best})
    row = method_row(CEILING, scores, None, None, suite, fixed, None, headline)
    return row | {"presence_by_objects": {}}


def settings_of(rule: Rule | None) -> dict[str, Any]:
    """A rule's name and settings; empty for the stock pipeline."""
    return {} if rule is None else {"rule": type(rule).__name__, **dataclasses.asdict(rule)}


def plain(value: Any) -> Any:
    """The value with numbers rounded and NaN as None, ready for JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return value


# ------------------------------------------------------------------------------------- comparisons
def compared(rows: Sequence[dict[str, Any]], against: str) -> list[dict[str, Any]]:
    """The rows, each with `against`: how it differs from one method on the same scenes and noise.

    `against` has the method's name, difference (of the headline score, in percentage points; above
    0, the row is better), interval (95 %, by bootstrap over scenes of the differences: scenes are
    hard or easy for all methods, so this is narrower than two intervals side by side), and how many
    scenes the row wins, loses and ties (within 0.1 points). It is None for the method itself, and
    when that method has no row of the same suite, model, steps, guidance and dtype.
    """
    result = []
    for row in rows:
        others = (o for o in rows if o["method"] == against != row["method"] and _same(row, o))
        pairs = (paired(row, other) for other in others)
        defined = (pair for pair in pairs if pair["difference"] is not None)
        result.append(row | {"against": next(defined, None)})
    return result


def _same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows have the same scenes, drawn alike; renders were not drawn by a model."""
    scenes = ("suite", "seed", "scenes", "model", "judge", "headline")
    names = scenes if row["steps"] is None else (*scenes, *SAMPLING)
    return all(row[name] == other[name] for name in names)


def paired(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One row against another of the same suite: see `compared`."""
    scores = [each[f"{row['headline']}_by_scene"] for each in (row, other)]
    known = np.array(scores, dtype=np.float32)  # (2, S); None becomes NaN
    mine, theirs = torch.from_numpy(known).double()
    difference = mine - theirs
    # a scene counts as often as it has objects, as in the score itself
    objects = torch.tensor(row["objects_by_scene"])
    slots = torch.arange(int(objects.max())) < objects[:, None]  # (S, N)
    by_object = torch.where(slots, difference[:, None], torch.nan)  # (S, N)
    interval = metrics.bootstrap_interval(by_object, torch.Generator().manual_seed(0))
    return plain(
        {
            "method": other["method"],
            "difference": by_object.nanmean().item(),
            "interval": interval,
            "wins": int((difference > CLOSE).sum()),
            "losses": int((difference < -CLOSE).sum()),
            "ties": int((difference.abs() <= CLOSE).sum()),
        }
    )


# -------------------------------------------------------------------------------------------- text
def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text, a block for each suite; a dash where a score is not defined."""
    suites: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        suites.setdefault(f"{row['suite']}, {row['model']}", []).append(row)
    if len(suites) == 1:
        return _block(rows)
    return "\n\n".join(f"{title}\n{_block(chosen)}" for title, chosen in suites.items())


def _block(rows: Sequence[dict[str, Any]]) -> str:
    headline = rows[0]["headline"]
    others = [name for name in metrics.SCORES if name != headline]
    counts = sorted({count for row in rows for count in row["presence_by_objects"]})
    against = next((row["against"]["method"] for row in rows if row.get("against")), None)
    head = ["method", headline, "95 %", *others, *(f"pres. {count}" for count in counts), "KID"]
    if against:
        head += [f"vs {against}", "95 %", "won-lost"]
    lines = [head]
    for row in rows:
        presence = [row["presence_by_objects"].get(count) for count in counts]
        line = [row["method"], number(row[headline]), ends(row["interval"])]
        line += map(number, [*(row[name] for name in others), *presence])
        line.append(number(row["quality"], 2))
        if against and (pair := row["against"]):
            line += [number(pair["difference"], sign="+"), ends(pair["interval"], "+")]
            line.append(won_lost(pair))
        elif against:
            line += ["-"] * 3
        lines.append(line)
    return aligned(lines)


def number(value: float | None, digits: int = 1, sign: str = "") -> str:
    """A number, or a dash for None; `sign` is "+" for differences."""
    return "-" if value is None else f"{value:{sign}z.{digits}f}"


def ends(interval: Sequence[float | None], sign: str = "") -> str:
    """An interval, such as 61.0-63.5, or with a sign, +0.4 to +1.2; a dash where undefined."""
    if None in interval:
        return "-"
    return (" to " if sign else "-").join(number(end, sign=sign) for end in interval)


def won_lost(pair: dict[str, Any]) -> str:
    """Scenes won and lost."""
    return f"{pair['wins']}-{pair['losses']}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text under a ruled head: the first flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()
        for first, *others in lines
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([rows[0], rule, *rows[1:]])
