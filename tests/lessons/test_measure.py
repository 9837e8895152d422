"""The checks of notebook 08, Kendall's tau, and the committed tables."""

from __future__ import annotations

import itertools
import json
import re
import tomllib

import pytest
import torch

import densenb as dnb
from densenb.evaluation import measured
from densenb.evaluation.metrics import iou
from densenb.evaluation.ranks import kendall_tau
from densenb.evaluation.runner import METHODS
from densenb.evaluation.suites import SUITES
from densenb.evaluation.tables import CEILING, GROUND_TRUTH, settings_of
from densenb.lessons import checking, measure
from tools.notebooks import ROOT
from tools.tables import markdown


def asked(masks):
    return masks.any(-1).any(-1)


def mean_iou(pixels, masks):
    return iou(pixels, masks)[asked(masks)].mean()


def paired(mine, theirs, drawn, tail=0.025):
    means = (mine - theirs)[drawn].mean(1)
    return tuple(means.quantile(torch.tensor([tail, 1 - tail]).double()).tolist())


def tau(first, second, pairs=lambda n: itertools.combinations(range(n), 2)):
    agreed = [
        (1 if (first[i] - first[j]) * (second[i] - second[j]) > 0 else -1)
        for i, j in pairs(len(first))
    ]
    return sum(agreed) / len(agreed)


def test_right_answers_pass(capsys):
    measure.check_mean_iou(mean_iou)
    measure.check_mean_iou(lambda *given: mean_iou(*given).item())
    measure.check_paired_interval(paired)
    measure.check_kendall_tau(tau)
    measure.check_kendall_tau(kendall_tau)
    assert capsys.readouterr().out.count("ok: ") == 5


def by_scene(pixels, masks):
    values = torch.where(asked(masks), iou(pixels, masks), torch.nan)
    return values.nanmean(1).mean()


def pooled(pixels, masks):
    return (pixels & masks).sum() / (pixels | masks).sum()


def share(pixels, masks, of):
    both = (pixels & masks).sum((-2, -1)) / of.sum((-2, -1)).clamp(min=1)
    return both[asked(masks)].mean()


MEANS = {
    "present ones": (lambda p, m: iou(p, m)[asked(p)].mean(), "lost objects are left out"),
    "empty slots": (lambda p, m: iou(p, m).mean(), "empty slots are counted"),
    "pooled": (pooled, "thrown together"),
    "by scene": (by_scene, "mean of the scenes' means"),
    "in-mask": (lambda p, m: share(p, m, p), "that is in-mask"),
    "recall": (lambda p, m: share(p, m, m), "that is recall"),
    "dice": (
        lambda p, m: (2 * iou(p, m) / (1 + iou(p, m)))[asked(m)].mean(),
        "divide what pixels and mask share",
    ),
    "no number": (iou, "not a finite number"),
}


@pytest.mark.parametrize(("answer", "message"), MEANS.values(), ids=MEANS)
def test_a_wrong_mean_iou_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        measure.check_mean_iou(answer)


def unpaired(mine, theirs, drawn):
    means = mine[drawn].mean(1) - theirs[drawn.flip(0)].mean(1)
    return tuple(means.quantile(torch.tensor([0.025, 0.975]).double()).tolist())


INTERVALS = {
    "exchanged": (lambda a, b, drawn: paired(b, a, drawn), "are exchanged"),
    "unpaired": (unpaired, "the same scenes"),
    "one method drawn": (
        lambda a, b, drawn: paired(a, 0 * b + b.mean(), drawn),
        "draw them for both",
    ),
    "of scenes": (
        lambda a, b, drawn: (a - b).quantile(torch.tensor([0.025, 0.975]).double()).tolist(),
        "single scenes",
    ),
    "90 percent": (lambda a, b, drawn: paired(a, b, drawn, 0.05), "2.5 % on either side"),
    "high end first": (lambda a, b, drawn: paired(a, b, drawn)[::-1], "low end comes first"),
    "one method": (lambda a, b, drawn: paired(a, 0 * b, drawn), "differences by scene"),
    "one number": (lambda a, b, drawn: (a - b).mean(), "not two numbers"),
}


@pytest.mark.parametrize(("answer", "message"), INTERVALS.values(), ids=INTERVALS)
def test_a_wrong_interval_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        measure.check_paired_interval(answer)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]).double())[0, 1]


def spearman(a, b):
    return correlation(a.argsort().argsort(), b.argsort().argsort())


TAUS = {
    "sign": (lambda a, b: -tau(a, b), "the sign is wrong"),
    "share": (lambda a, b: (tau(a, b) + 1) / 2, "share of pairs in the same order"),
    "itself": (
        lambda a, b: ((a[:, None] - a).sign() * (b[:, None] - b).sign()).mean(),
        "compared with itself",
    ),
    "scores": (correlation, "correlation of the scores"),
    "spearman": (spearman, "Spearman"),
    "a number of pairs": (lambda a, b: tau(a, b) * 15, "number of pairs"),
    "neighbours": (
        lambda a, b: tau(a, b, lambda n: zip(range(n), range(1, n))),
        "for each pair of methods",
    ),
    "nothing": (lambda a, b: None, "not a finite number"),
}


@pytest.mark.parametrize(("answer", "message"), TAUS.values(), ids=TAUS)
def test_a_wrong_tau_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        measure.check_kendall_tau(answer)


@pytest.mark.parametrize("wrong", [MEANS, INTERVALS, TAUS], ids=["mean", "interval", "tau"])
def test_wrong_answers_get_different_messages(wrong):
    assert len({message for _, message in wrong.values()}) == len(wrong)


# ---------------------------------------------------------------------------------- Kendall's tau
def test_tau_of_equal_and_of_opposite_orders():
    assert kendall_tau([1, 2, 3, 4], [10, 20, 21, 50]) == 1
    assert kendall_tau([1, 2, 3, 4], [5, 4, 3, -2]) == -1
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3), "a tie counts for neither"


def test_tau_of_random_orders_is_about_nothing():
    random = torch.Generator().manual_seed(0)
    found = [kendall_tau(*torch.rand(2, 12, generator=random)) for _ in range(300)]
    assert abs(sum(found) / len(found)) < 0.05


@pytest.mark.parametrize(("first", "second"), [([1], [2]), ([1, 2], [1, 2, 3]), ([], [])])
def test_tau_needs_two_lists_of_the_same_methods(first, second):
    with pytest.raises(ValueError, match=f"got {len(first)} and {len(second)} scores"):
        kendall_tau(first, second)


# ------------------------------------------------------------------------------ committed tables
def test_a_committed_table_is_read_by_name():
    assert {"stock", "recommended"} <= {row["method"] for row in measured.table("measure")}


def test_an_unknown_table_is_told_with_those_there_are():
    with pytest.raises(ValueError, match="no table 'measures': known are .*measure"):
        measured.table("measures")


def test_the_table_of_methods_is_of_these_methods_and_whole_suites():
    """A table whose method has since changed must be made again."""
    pipe = dnb.load("tiny")
    for row in measured.table("measure"):
        kind, name = SUITES[row["suite"]], row["method"]
        assert row["scenes"] == kind.scenes == len(row[f"{row['headline']}_by_scene"]), name
        if name in (GROUND_TRUTH, CEILING):
            continue
        assert row["seeds"] == list(range(kind.seeds)), name
        now = json.loads(json.dumps(settings_of(METHODS[name](pipe))))
        assert {key for key in now if now[key] != row["settings"][key]} <= {"backend"}, name


def test_the_page_shows_the_table_as_it_is():
    page = (ROOT / "docs" / "measure.md").read_text(encoding="utf-8")
    for name, rows in itertools.groupby(measured.table("measure"), lambda row: row["suite"]):
        rows = sorted(rows, key=lambda row: row[row["headline"]])
        about = SUITES[name].about
        section = f"## {name}\n\n{about[0].upper()}{about[1:]}.\n\n"
        assert section + markdown(rows, against="recommended") + "\n" in page, name


def test_installed_the_tables_are_inside_the_package(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.json").write_text(json.dumps([{"method": "stock"}]))
    monkeypatch.setattr(measured, "PACKAGE", tmp_path)
    assert measured.table("one") == [{"method": "stock"}]


def test_the_tables_are_package_data():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert project["setuptools"]["package-dir"] == {"densenb.docs": "docs"}
    assert project["setuptools"]["package-data"]["densenb.docs"] == ["*.json"]
