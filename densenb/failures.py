"""A page of failures: the scenes that each method gets most wrong, to be looked at.

A table says how often a method fails, pictures say how. The page is plain HTML beside a folder of
small pictures: it opens from a disk, and can be sent as it is. Pictures are drawn again for it,
from the same noise, so that an evaluation need not keep any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from densenb.layout import Layout
from densenb.pictures import overlay, region_colour
from densenb.suites import SUITES, Suite
from densenb.tables import CEILING, GROUND_TRUTH, ends, number, won_lost

Draw = Callable[[Sequence[tuple[int, int]]], torch.Tensor]
"""From (noise seed, scene) pairs to pictures [B, 3, H, W] in [0, 1]: see `evaluate.artist`."""

QUALITY = 80  # of WebP

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 1rem; }
nav a { margin-right: 1em; white-space: nowrap; }
summary { cursor: pointer; padding: .3em 0; }
.scenes { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); }
article { border: 1px solid #8886; border-radius: 6px; padding: .6rem; }
article p { margin: 0 0 .4rem; }
.row { display: grid; gap: 4px; grid-auto-columns: minmax(0, 1fr); grid-auto-flow: column; }
figure { margin: 0; }
img { display: block; height: auto; width: 100%; }
figcaption { font-size: 12px; }
b { border-bottom: 3px solid; }
"""


def worst_scenes(row: dict[str, Any], count: int) -> list[tuple[int, float]]:
    """Scenes with the lowest headline score of a row, the lowest first: (scene, percent)."""
    scores = row[f"{row['headline']}_by_scene"]
    known = [(scene, score) for scene, score in enumerate(scores) if score is not None]
    return sorted(known, key=lambda pair: pair[1])[:count]


def section(
    folder: Path,
    suite: Suite,
    rows: Sequence[dict[str, Any]],
    draw: Callable[[str], Draw],
    worst: int = 8,
    seeds: int = 2,
    against: str | None = None,
    batch_size: int = 8,
) -> str:
    """The part of the page for one suite, as HTML; its pictures are written into the folder.

    Args:
        folder: of the page.
        rows: of this suite, from `evaluate`.
        draw: from a method's name to what draws it.
        worst: scenes for each method.
        seeds: noise seeds to show, the first ones.
        against: a method whose picture of the same scene is shown beside.
        batch_size: pictures to draw at a time.
    """
    methods = [row for row in rows if row["method"] not in (GROUND_TRUTH, CEILING)]
    parts = [f"<h2 id='{escape(suite.name)}'>{escape(suite.name)}</h2>"]
    parts.append(f"<p>{escape(SUITES[suite.name].about)}</p>")
    drawn: set[Path] = set()
    for row in methods:
        scenes = worst_scenes(row, worst)
        shown = [scene for scene, _ in scenes]
        columns = [("renders", _renders(suite), 0)]
        columns += [(row["method"], draw(row["method"]), seed) for seed in row["seeds"][:seeds]]
        if against not in (None, row["method"]):
            columns.append((against, draw(against), row["seeds"][0]))
        pictures = [_save(folder, suite, drawn, *column, shown, batch_size) for column in columns]
        cards = [
            _card(suite.layouts[scene], scene, score, row, columns, files)
            for (scene, score), *files in zip(scenes, *pictures, strict=True)
        ]
        parts.append(
            f"<details><summary>{_summary(row)}</summary><div class='scenes'>{''.join(cards)}"
            "</div></details>"
        )
    return "\n".join(parts)


def write(folder: Path, title: str, sections: dict[str, str]) -> Path:
    """The page of all sections (suite -> HTML): `index.html` in the folder."""
    links = "".join(f"<a href='#{escape(name)}'>{escape(name)}</a>" for name in sections)
    path = folder / "index.html"
    path.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style><h1>{escape(title)}</h1><p>For each method, the scenes that it "
        "gets most wrong, the worst first. Outlines are the masks that were asked for; scores are "
        f"means over all noise seeds, in percent.</p><nav>{links}</nav>\n"
        + "\n".join(sections.values())
        + "</html>\n",
        encoding="utf-8",
    )
    return path


def _renders(suite: Suite) -> Draw:
    return lambda pairs: suite.images[[scene for _, scene in pairs]].float() / 255


def _save(
    folder: Path,
    suite: Suite,
    drawn: set[Path],
    name: str,
    draw: Draw,
    seed: int,
    scenes: Sequence[int],
    batch_size: int,
) -> list[str]:
    """Draw scenes into files, but those of `drawn`, which grows; their paths from the folder on."""
    place = Path("pictures", suite.name, name)
    (folder / place).mkdir(parents=True, exist_ok=True)
    files = {scene: place / f"scene-{scene:03}-seed-{seed}.webp" for scene in scenes}
    missing = [scene for scene in scenes if files[scene] not in drawn]
    for start in range(0, len(missing), batch_size):
        part = missing[start : start + batch_size]
        for scene, picture in zip(part, draw([(seed, scene) for scene in part]), strict=True):
            masks = suite.layouts[scene].pixel_masks(*picture.shape[-2:])
            overlay(picture, masks).save(folder / files[scene], quality=QUALITY)
    drawn.update(files.values())
    return [files[scene].as_posix() for scene in scenes]


def _summary(row: dict[str, Any]) -> str:
    words = f"<strong>{escape(row['method'])}</strong> {row['headline']} "
    words += f"{number(row[row['headline']])} ({ends(row['interval'])})"
    if pair := row.get("against"):
        words += (
            f", {number(pair['difference'], sign='+')} ({ends(pair['interval'], '+')}) against "
        )
        words += f"{escape(pair['method'])}, scenes won-lost {won_lost(pair)}"
    return words


def _card(
    layout: Layout,
    scene: int,
    score: float,
    row: dict[str, Any],
    columns: Sequence[tuple[str, Draw, int]],
    files: Sequence[str],
) -> str:
    figures = []
    for (name, _, seed), file in zip(columns, files, strict=True):
        words = "render" if name == "renders" else f"{escape(name)}, seed {seed}"
        figures.append(
            f"<figure><img loading='lazy' src='{escape(file)}' alt='scene {scene}, {words}'>"
            f"<figcaption>{words}</figcaption></figure>"
        )
    phrases = ", ".join(
        f"<b style='border-color:{region_colour(index)}'>{escape(phrase)}</b>"
        for index, phrase in enumerate(layout.phrases)
    )
    return (
        f"<article><p>scene {scene}, {row['headline']} {score:.1f}: {escape(layout.caption)}</p>"
        f"<p>{phrases}</p><div class='row'>{''.join(figures)}</div></article>"
    )
