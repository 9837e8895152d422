"""Rows and what compares them: bootstrap by scene, pairs of methods, text and Markdown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from densenb.evaluation import metrics, suites, tables

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import tables as markdown_tool  # noqa: E402

SCENES = 12
FIXED = {
    "suite": "test", "scenes": SCENES, "seed": 0, "seeds": [0, 1], "model": "m", "steps": 2,
    "guidance": 4.0, "dtype": "float32", "judge": "oracle",
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(few_backgrounds):
    return suites.build_suite("test", SCENES)  # one, two and three objects in turn


def scores(iou: torch.Tensor, **fields: torch.Tensor) -> metrics.ObjectScores:
    nothing = torch.full_like(iou, torch.nan)
    names = metrics.ObjectScores._fields
    given = {"iou": iou, "present": iou * 0 + 1} | fields
    return metrics.ObjectScores(**{name: given.get(name, nothing) for name in names})


def random_iou(suite, seed: int) -> torch.Tensor:
    """[seeds * S, N], NaN for the slots that a scene leaves empty."""
    iou = torch.rand(2 * SCENES, 4, generator=torch.Generator().manual_seed(seed))
    return iou.masked_fill((suite.scenes.noun < 0).repeat(2, 1), torch.nan)


def row(suite, method: str, iou: torch.Tensor) -> dict:
    return tables.method_row(method, scores(iou), None, None, suite, FIXED, None)


def test_pairs_see_a_small_difference_that_hard_and_easy_scenes_hide(suite):
    iou = random_iou(suite, 0) * 0.8
    worse, better = row(suite, "worse", iou), row(suite, "better", iou + 0.02)
    assert worse["interval"][1] > better["interval"][0]  # side by side, they overlap
    first, second = tables.compared([worse, better], "worse")
    assert first["against"] is None
    pair = second["against"]
    assert pair["method"] == "worse" and pair["difference"] == pytest.approx(2, abs=0.01)
    assert pair["interval"] == pytest.approx([2, 2], abs=0.01)
    assert (pair["wins"], pair["losses"], pair["ties"]) == (SCENES, 0, 0)
    (back, _) = tables.compared([worse, better], "better")
    assert back["against"]["difference"] == pytest.approx(-2, abs=0.01)
    assert (back["against"]["wins"], back["against"]["losses"]) == (0, SCENES)


def test_a_paired_difference_is_that_of_the_scores_and_its_interval_holds_it(suite):
    rows = [row(suite, name, random_iou(suite, seed)) for seed, name in enumerate("ab")]
    pair = tables.compared(rows, "a")[1]["against"]
    assert pair["difference"] == pytest.approx(rows[1]["mIoU"] - rows[0]["mIoU"], abs=0.01)
    assert pair["interval"][0] < pair["difference"] < pair["interval"][1]
    assert pair["interval"][0] < 0 < pair["interval"][1]  # the same distribution, drawn twice
    assert pair["wins"] + pair["losses"] + pair["ties"] == SCENES


def test_ties_are_within_a_tenth_of_a_point(suite):
    iou = random_iou(suite, 0) * 0.8
    rows = [row(suite, "a", iou), row(suite, "b", iou + 0.0005)]
    pair = tables.compared(rows, "a")[1]["against"]
    assert (pair["wins"], pair["losses"], pair["ties"]) == (0, 0, SCENES)


@pytest.mark.parametrize(
    "change",
    [{"suite": "tune"}, {"model": "n"}, {"steps": 3}, {"seeds": [0]}, {"judge": "another"}],
)
def test_only_what_was_drawn_alike_is_compared(suite, change):
    iou = random_iou(suite, 0)
    rows = [row(suite, "a", iou) | change, row(suite, "b", iou)]
    assert tables.compared(rows, "a")[1]["against"] is None


def test_renders_and_ceilings_are_compared_with_any_sampling(random_pipe, suite):
    iou = random_iou(suite, 0)
    truth = row(suite, tables.GROUND_TRUTH, iou * 0 + 1)
    ceiling = tables.ceiling_row(random_pipe, suite, FIXED, "mIoU")
    rows = tables.compared([truth, ceiling, row(suite, "a", iou)], "a")
    assert truth["steps"] is None and rows[0]["against"]["wins"] == SCENES
    assert 0 < rows[1]["against"]["difference"] < rows[0]["against"]["difference"]


def test_a_judge_that_sees_no_outlines_is_ranked_by_what_it_tells(random_pipe, suite):
    boxes = random_iou(suite, 0)
    seen = scores(boxes * torch.nan, box_iou=boxes)
    found = tables.method_row("a", seen, None, None, suite, FIXED, None)
    assert found["headline"] == "box_iou" and found["mIoU"] is None
    assert found["box_iou_by_scene"][0] == pytest.approx(
        100 * boxes[[0, SCENES]].nanmean().item(), abs=0.01
    )
    assert tables.ceiling_row(random_pipe, suite, FIXED, "box_iou")["box_iou"] > 50
    phrases = scores(boxes * torch.nan, phrase_bound=boxes.round())
    found = tables.method_row("b", phrases, None, None, suite, FIXED, None)
    ceiling = tables.ceiling_row(random_pipe, suite, FIXED, "phrase_binding")
    assert found["headline"] == "phrase_binding" and ceiling["phrase_binding"] is None
    assert "phrase_binding" in tables.table([ceiling, found])
    assert tables.compared([ceiling, found], "b")[0]["against"] is None


def test_the_text_has_a_block_a_suite_and_columns_of_pairs(suite):
    iou = random_iou(suite, 0)
    rows = [row(suite, "a", iou), row(suite, "b", iou * 0.5)]
    other = [row(suite, name, iou) | {"suite": "tune"} for name in "ab"]
    text = tables.table(tables.compared(rows + other, "a"))
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["test, m", "tune, m"]
    assert "vs a" in blocks[0] and "0-12" in blocks[0] and "0-0" in blocks[1]
    assert "vs a" not in tables.table(rows) and tables.table(rows).startswith("method")


def test_markdown_shows_pairs_and_the_headline(suite, tmp_path, capsys):
    iou = random_iou(suite, 0)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row(suite, "a", iou), row(suite, "b", iou * 0.5)]))
    markdown_tool.main([str(path)])
    plain = capsys.readouterr().out
    assert plain.startswith("| method | mIoU |") and "against" not in plain
    markdown_tool.main([str(path), "--against", "a", "--sort"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| against a | won-lost |") and lines[1].count("---") == 9
    assert lines[2].startswith("| b |") and lines[2].endswith("| 0-12 |")
    assert lines[3].endswith("| - | - |")
