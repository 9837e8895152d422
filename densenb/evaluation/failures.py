"""A page of failures: the scenes that each method gets most wrong, to look at.

A table says how often a method fails, pictures say how. The page is plain HTML beside a folder of
small pictures: it opens from a disk, and can be sent as it is. Its pictures are drawn again, from
the same noise, so that an evaluation need not keep any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from densenb.evaluation.runner import Artist, renders
from densenb.evaluation.suites import SUITES, Suite, batches
from densenb.evaluation.tables import CEILING, GROUND_TRUTH, ends, number, won_lost
from densenb.plots.pictures import overlay, region_colour

QUALITY = 80  # of WebP
PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("densenb.evaluation"),
    autoescape=jinja2.select_autoescape(["html"]),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
"""The templates of all pages, in densenb/templates."""


def worst_scenes(row: dict[str, Any], count: int) -> list[tuple[int, float]]:
    """Scenes with the lowest headline score of a row, the lowest first: (scene, percent)."""
    scores = row[f"{row['headline']}_by_scene"]
    known = [(scene, score) for scene, score in enumerate(scores) if score is not None]
    return sorted(known, key=lambda pair: pair[1])[:count]


def section(
    folder: Path,
    suite: Suite,
    rows: Sequence[dict[str, Any]],
    draw: Callable[[str], Artist],
    worst: int = 8,
    seeds: int = 2,
    against: str | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """The part of the page for one suite, for `write`; its pictures are written into the folder.

    Args:
        folder: of the page.
        rows: of this suite, from `evaluate`.
        draw: from a method's name to what draws it.
        worst: scenes for each method.
        seeds: noise seeds to show, the first ones.
        against: a method whose picture of the same scene is shown beside.
        batch_size: pictures to draw at a time.
    """
    drawn: set[Path] = set()

    def saved(name: str, artist: Artist, seed: int, scenes: list[int]) -> dict[int, str]:
        """Draw the scenes that are not drawn yet; scene -> its file, relative to the folder."""
        place = Path("pictures", suite.name, name)
        (folder / place).mkdir(parents=True, exist_ok=True)
        files = {scene: place / f"scene-{scene:03}-seed-{seed}.webp" for scene in scenes}
        missing = [scene for scene in scenes if files[scene] not in drawn]
        for part in batches(missing, batch_size):
            pictures = artist([(seed, scene) for scene in part])  # (B, 3, H, W)
            for scene, picture in zip(part, pictures, strict=True):
                masks = suite.layouts[scene].pixel_masks(*picture.shape[-2:])
                overlay(picture, masks).save(folder / files[scene], quality=QUALITY)
        drawn.update(files.values())
        return {scene: file.as_posix() for scene, file in files.items()}

    methods = []
    for row in rows:
        name = row["method"]
        if name in (GROUND_TRUTH, CEILING):
            continue
        scores = dict(worst_scenes(row, worst))
        figures = {"render": saved("renders", renders(suite), 0, list(scores))}
        shown = [(name, seed) for seed in row["seeds"][:seeds]]
        if against not in (None, name):
            shown.append((against, row["seeds"][0]))
        for method, seed in shown:
            files = saved(method, draw(method), seed, list(scores))
            figures[f"{method}, seed {seed}"] = files
        methods.append({"row": row, "scores": scores, "figures": figures})
    return {
        "name": suite.name,
        "about": SUITES[suite.name].about,
        "layouts": suite.layouts,
        "methods": methods,
    }


def write(folder: Path, title: str, sections: Sequence[dict[str, Any]]) -> Path:
    """The page of all sections: `index.html` in the folder."""
    page = PAGES.get_template("failures.html").render(
        title=title,
        sections=sections,
        number=number,
        ends=ends,
        won_lost=won_lost,
        region_colour=region_colour,
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path
