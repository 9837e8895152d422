"""The page of failures: which scenes, which pictures, and that it stands alone."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from densenb.evaluation import failures, suites

SCENES = 5


@pytest.fixture(scope="module")
def suite(few_backgrounds):
    return suites.build_suite("test", SCENES)


def row(method: str, by_scene: list[float | None], **changes) -> dict:
    return {
        "method": method, "headline": "mIoU", "mIoU": 50.0, "interval": [40.0, 60.0],
        "mIoU_by_scene": by_scene, "seeds": [3, 4, 5],
    } | changes  # fmt: skip


def flat(value: float):
    """An artist of grey pictures that remembers what it was asked for."""
    asked = []

    def draw(pairs):
        asked.extend(pairs)
        return torch.full((len(pairs), 3, 256, 256), value)

    draw.asked = asked
    return draw


def test_the_lowest_scenes_come_first_and_undefined_ones_never():
    scores = row("a", [30.0, None, 10.0, 20.0, 90.0])
    assert failures.worst_scenes(scores, 3) == [(2, 10.0), (3, 20.0), (0, 30.0)]
    assert len(failures.worst_scenes(scores, 9)) == 4


def test_the_page_shows_each_method_beside_render_and_rival(suite, tmp_path):
    artists = {"a<b": flat(0.2), "rival": flat(0.8)}
    pair = {"method": "rival", "difference": -3.0, "interval": [-5.0, -1.0], "wins": 1, "losses": 4}
    rows = [
        row("ground-truth", [100.0] * SCENES),
        row("a<b", [5.0, 4.0, 3.0, 2.0, 1.0], against=pair),
        row("rival", [1.0, 2.0, 3.0, 4.0, 5.0], against=None),
    ]
    found = failures.section(
        tmp_path, suite, rows, artists.__getitem__, worst=2, seeds=2, against="rival"
    )
    page = failures.write(tmp_path, "What fails", [found])
    assert artists["a<b"].asked == [(3, 4), (3, 3), (4, 4), (4, 3)]
    assert artists["rival"].asked == [(3, 4), (3, 3), (3, 0), (3, 1), (4, 0), (4, 1)]
    text = page.read_text(encoding="utf-8")
    assert "a&lt;b" in text and "a<b" not in text and "ground-truth" not in text
    assert "-3.0 (-5.0 to -1.0) against rival, scenes won-lost 1-4" in text
    assert text.index("scene 4, mIoU 1.0") < text.index("scene 3, mIoU 2.0")
    assert text.count("<article>") == 4
    sources = re.findall(r"src='([^']+)'", text)
    assert len(sources) == 2 * (1 + 2 + 1) + 2 * (1 + 2)
    for source in sources:  # beside the page, and nothing from anywhere else
        assert Image.open(tmp_path / re.sub("&lt;", "<", source)).format == "WEBP"
    assert "http" not in text


def test_no_more_pictures_are_drawn_at_a_time_than_asked_for(suite, tmp_path):
    sizes = []

    def draw(pairs):
        sizes.append(len(pairs))
        return torch.zeros(len(pairs), 3, 256, 256)

    rows = [row("a", [1.0] * SCENES)]
    failures.section(tmp_path, suite, rows, lambda name: draw, seeds=1, batch_size=2)
    assert sizes == [2, 2, 1]


def test_pictures_of_an_earlier_page_are_drawn_anew(suite, tmp_path):
    for value in (0.2, 0.8):
        rows = [row("a", [1.0] * SCENES)]
        failures.section(tmp_path, suite, rows, lambda name, v=value: flat(v), worst=1, seeds=1)
    (path,) = (tmp_path / "pictures/test/a").iterdir()
    assert Image.open(path).getpixel((0, 0))[0] == pytest.approx(204, abs=6)
