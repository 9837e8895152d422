"""The log of an evaluation: what it keeps, what it forgives, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from densenb.evaluation import metrics
from densenb.evaluation.log import Key, Log, features_of, results, run_id, scores_of

FIELDS = metrics.ObjectScores._fields
SETTINGS = {"method": "stock", "suite": "test", "steps": 2}


def line(scene: int, run: str = run_id(SETTINGS), seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(scene)
    scores = metrics.ObjectScores(*(torch.rand(1, 3, generator=g) for _ in FIELDS))
    scores.iou[0, 2] = torch.nan
    (kept,) = results([Key(run, seed, scene)], scores, torch.randn(1, 80, generator=g))
    return kept


@pytest.fixture
def path(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.start(SETTINGS)
    log.add([line(0), line(1)])
    log.add([line(2)])
    return log.path


def test_scores_and_features_come_back(path):
    lines = Log(path).of_run(run_id(SETTINGS), [0], 3)
    assert lines == [line(0), line(1), line(2)]
    scores = scores_of(lines)
    assert scores.iou.shape == (3, 3) and scores.iou[:, 2].isnan().all()
    g = torch.Generator().manual_seed(1)
    first = torch.rand(3, generator=g)
    assert scores.iou[1, :2].tolist() == pytest.approx(first[:2].tolist(), abs=1e-5)
    for _ in FIELDS[1:]:
        last = torch.rand(3, generator=g)
    assert getattr(scores, FIELDS[-1])[1].tolist() == pytest.approx(last.tolist(), abs=1e-5)
    features = features_of(lines)
    assert torch.allclose(features[1], torch.randn(80, generator=g), rtol=1e-3, atol=1e-4)


def test_half_precision_features_do_not_move_the_quality():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, 80, generator=g), 0.5 + torch.randn(200, 80, generator=g)
    halves = [
        features_of(results([Key("r", 0, i) for i in range(200)], None, rows)) for rows in (a, b)
    ]
    exact, kept = (
        metrics.kid(*pair, torch.Generator().manual_seed(0))[0] for pair in ((a, b), halves)
    )
    assert exact > 5 and kept == pytest.approx(exact, rel=2e-3)


def test_a_picture_without_scores_or_features():
    (kept,) = results([Key("r", 0, 0)], None, None)
    assert kept["scores"] is None and features_of([kept]) is None


def test_a_line_is_small_so_that_a_hundred_thousand_fit():
    assert len(json.dumps(line(0), separators=(",", ":"))) < 600


def test_a_torn_last_line_is_forgiven_and_the_next_one_is_whole(path):
    with open(path, "ab") as file:
        file.write(json.dumps(line(3)).encode()[:100])
    with pytest.warns(UserWarning, match=r"1 broken line\(s\)"):
        log = Log(path)
    assert len(log.lines) == 3
    log.add([line(3)])
    with pytest.warns(UserWarning, match=r"1 broken line\(s\)"):
        assert len(Log(path).lines) == 4


@pytest.mark.parametrize("text", ["a shopping list\n", '[{"method": "stock"}]\n', '{"run": 1}\n'])
def test_another_file_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a log of `densenb evaluate`"):
        Log(path)
    assert path.read_text() == text


def test_an_empty_file_is_a_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.touch()
    assert not Log(path).lines


def test_joined_logs_count_each_picture_once(path, tmp_path):
    other = Log(tmp_path / "other.jsonl")
    other.start(SETTINGS)
    other.add([line(2), line(3)])
    path.write_bytes(path.read_bytes() + other.path.read_bytes())
    assert len(Log(path).lines) == 4


def test_two_writers_share_a_file(path):
    one, two = Log(path), Log(path, leads=False)
    assert two.start(SETTINGS | {"steps": 3}) != one.start(SETTINGS)
    one.add([line(3)])
    two.add([line(4)])
    one.merge([line(4), line(5)])  # 5 was written to the disk of another machine
    assert len(one.lines) == 6
    again = path.read_text().splitlines()
    assert len(again) == 1 + 6 and Log(path).lines == one.lines


def test_the_warning_names_what_differs_and_no_more(tmp_path):
    path, given = tmp_path / "new.jsonl", SETTINGS | {"size": (16, 32, 32)}  # a list when read back
    Log(path).start(given)
    with pytest.warns(UserWarning, match="pictures of other steps: they are kept"):
        Log(path).start(given | {"steps": 3})


def test_settings_are_told_apart_by_value_not_by_order():
    assert run_id({"b": [1, 2], "a": 0.5}) == run_id({"a": 0.5, "b": (1, 2)})
    assert run_id({"a": 0.5}) != run_id({"a": 0.25})
