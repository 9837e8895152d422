"""The checks of notebook 05, its table, and the hand-in file."""

from __future__ import annotations

import ast
import json
import re

import nbformat
import pytest

from densenb.lessons import adaptive_scaling, checking, checks, hand_in, see_joint_attention
from densenb.modulation.formulas import push_pull, value_range
from tools.notebooks import ROOT, tags


def push_only(scores, same, strength, dim=-1):
    high = scores.amax(dim=dim, keepdim=True)
    return scores + (strength * same)[:, None] * (high - scores)


def test_right_answers_pass(capsys):
    adaptive_scaling.check_moved_scores(3.0, -1.0)
    adaptive_scaling.check_moved_scores(3, -1)
    adaptive_scaling.check_push_only(push_only)
    adaptive_scaling.check_value_range(value_range)
    assert capsys.readouterr().out.count("ok: ") == 4


MOVED = {
    "exchanged": ((-1.0, 3.0), "exchanged"),
    "a fixed bias": ((1.5, 0.5), "a fixed bias, in logits"),
    "a share of the whole range": ((5.0, -3.0), "leaves it"),
    "from nothing": ((2.5, -1.5), "has vanished"),
    "not moved": ((1.0, 1.0), "go from the score"),
    "no number": (("3", -1.0), "not a number"),
}


@pytest.mark.parametrize(("guess", "message"), MOVED.values(), ids=MOVED)
def test_a_wrong_prediction_is_told_what_is_wrong(guess, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        adaptive_scaling.check_moved_scores(*guess)


def in_place(scores, same, strength):
    return scores.copy_(push_only(scores, same, strength))


def to_the_overall_maximum(scores, same, strength):
    return scores + (strength * same)[:, None] * (scores.max() - scores)


def fixed(scores, same, strength):
    return scores + (strength * same)[:, None]


PUSHES = {
    "also pulls": (push_pull, "pulls the other pairs down"),
    "transposed": (lambda *given: push_only(*given, dim=-2), "maximum over queries"),
    "one maximum for all": (to_the_overall_maximum, "all queries together"),
    "a fixed bias": (fixed, "of the way to their maximum"),
    "after the softmax": (lambda *given: push_only(*given).softmax(-1), "sum to 1"),
    "the others instead": (lambda s, same, a: push_only(s, 1 - same, a), "have moved"),
    "in place": (in_place, "have changed"),
    "one head": (lambda s, same, a: push_only(s, same, a)[:, :1], "not scores of the shape"),
}


@pytest.mark.parametrize(("answer", "message"), PUSHES.values(), ids=PUSHES)
def test_a_wrong_push_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        adaptive_scaling.check_push_only(answer)


def limits(scores, dim):
    return scores.amin(dim=dim, keepdim=True), scores.amax(dim=dim, keepdim=True)


RANGES = {
    "planted bug": (lambda s: limits(s, -2), "sought over the queries"),
    "of all": (lambda s: (s.min(), s.max()), "one range for all"),
    "no keepdim": (lambda s: (s.amin(-1), s.amax(-1)), "keepdim=True"),
    "of all heads": (lambda s: limits(s, (1, 3)), "keepdim=True"),
    "exchanged": (lambda s: value_range(s)[::-1], "exchanged"),
    "of weights": (lambda s: value_range(s.softmax(-1)), "not the smallest and the largest"),
    "one of them": (lambda s: value_range(s)[0], "not two tensors"),
}


@pytest.mark.parametrize(("answer", "message"), RANGES.values(), ids=RANGES)
def test_a_wrong_range_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        adaptive_scaling.check_value_range(answer)


@pytest.mark.parametrize("wrong", [MOVED, PUSHES, RANGES], ids=["moved", "push", "range"])
def test_wrong_answers_get_different_messages(wrong):
    assert len({message for _, message in wrong.values()}) >= 5


def test_the_table_of_the_notebook_is_that_of_the_measurement():
    notebook = nbformat.read(ROOT / "notebooks" / "05_adaptive_scaling.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "data:docs/measure.json" in tags(cell))
    (table,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assign) and node.targets[0].id == "measured"
    )
    rows = json.loads((ROOT / "docs" / "measure.json").read_text(encoding="utf-8"))
    by_name = {row["method"]: row for row in rows if row["suite"] == "test"}
    for name, numbers in table.items():
        row = by_name[name]
        assert numbers == tuple(round(row[key], 1) for key in ("mIoU", "in_mask", "quality")), name


# ------------------------------------------------------------------------------- the hand-in file
@pytest.fixture
def nothing_passed(monkeypatch):
    monkeypatch.setattr(checking, "PASSED", {})


def test_a_report_lists_what_was_passed(nothing_passed, tmp_path, capsys):
    adaptive_scaling.check_moved_scores(3.0, -1.0)
    with pytest.raises(checking.CheckFailed):
        adaptive_scaling.check_value_range(lambda scores: limits(scores, -2))
    path = hand_in.report(" Ada ", tmp_path / "ada.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["student"] == "Ada" and list(content["exercises"]) == ["check_moved_scores"]
    found = content["exercises"]["check_moved_scores"]
    assert found["notebooks"] == ["05"] and found["said"][0].startswith("1 moves up to 3")
    printed = capsys.readouterr().out
    assert re.search(r"05 +check_moved_scores +1 of 1\n", printed)
    assert re.search(r"05 +check_value_range +0 of 1\n", printed)
    assert re.search(r"1 of \d+ exercises passed", printed)


def test_a_second_session_adds_to_the_report(nothing_passed, tmp_path, monkeypatch):
    adaptive_scaling.check_moved_scores(3.0, -1.0)
    path = hand_in.report("Ada", tmp_path / "ada.json")
    monkeypatch.setattr(checking, "PASSED", {})
    adaptive_scaling.check_value_range(value_range)
    adaptive_scaling.check_value_range(value_range)
    hand_in.report("Ada", path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content["exercises"]) == {"check_moved_scores", "check_value_range"}
    assert len(content["exercises"]["check_value_range"]["said"]) == 1


def test_one_check_of_two_exercises_counts_for_each(nothing_passed, tmp_path, capsys):
    see_joint_attention.check_prediction("up", ["up", "down"], "up", "This is why.")
    path = hand_in.report("Ada", tmp_path / "ada.json")
    assert re.search(r"02, 03 +check_prediction +1 of 2\n", capsys.readouterr().out)
    see_joint_attention.check_prediction("down", ["up", "down"], "down", "Another reason.")
    hand_in.report("Ada", path)
    assert re.search(r"check_prediction +2 of 2\n", capsys.readouterr().out)


def test_a_report_is_never_written_over_something_else(nothing_passed, tmp_path):
    path = hand_in.report("Ada", tmp_path / "ada.json")
    with pytest.raises(ValueError, match="hand-in of 'Ada'"):
        hand_in.report("Grace", path)
    other = tmp_path / "notes.json"
    other.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match="no hand-in file"):
        hand_in.report("Ada", other)
    assert other.read_text(encoding="utf-8") == "[1, 2]"
    with pytest.raises(ValueError, match="give your name"):
        hand_in.report("  ", tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_every_exercise_says_its_notebook():
    found = checking.EXERCISES
    assert set(found) == {name for name in checks.__all__ if name.startswith("check_")}
    assert all(found.values()), found
    listed = [number for numbers in found.values() for number in numbers]
    assert listed.count("04") == listed.count("05") == 3
