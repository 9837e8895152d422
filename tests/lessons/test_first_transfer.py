"""The checks of notebook 07, and its table."""

from __future__ import annotations

import ast
import json
import re

import nbformat
import pytest

from densenb.lessons import checking, first_transfer
from tools.notebooks import ROOT, tags


def renormalised(scores, mask):
    weights = scores.softmax(-1) * open_rows(mask)[:, None]
    return weights / weights.sum(-1, keepdim=True)


def open_rows(mask):
    return mask.where(mask.any(-1, keepdim=True), 1.0)


def in_place(scores, mask):
    return renormalised(scores.mul_(1.01), mask)


def scaled(query, key):
    return query @ key.mT / query.shape[-1] ** 0.5


def test_right_answers_pass(capsys):
    first_transfer.check_masked_row(0.4, 0.5)
    first_transfer.check_renormalised(renormalised)
    first_transfer.check_scaled_scores(scaled)
    assert capsys.readouterr().out.count("ok: ") == 3


ROWS = {
    "a softmax sums to 1": ((1.0, 0.2), "nothing is put back"),
    "special tokens cut off": ((0.2, 1.0), "this mask spares such text"),
    "what is taken": ((0.6, 0.5), "what does it leave"),
    "not added up": ((0.8, 0.5), "add up"),
    "not divided": ((0.4, 0.2), "now divide by the sum"),
    "all of it": ((0.4, 1.0), "take their part"),
    "divided by something else": ((0.4, 0.33), "by the sum that is left"),
    "no number": (("0.4", 0.5), "not a number"),
}


@pytest.mark.parametrize(("guess", "message"), ROWS.values(), ids=ROWS)
def test_a_wrong_row_is_told_what_is_wrong(guess, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        first_transfer.check_masked_row(*guess)


def columns(scores, mask):
    weights = scores.softmax(-1) * mask[:, None]
    return weights / weights.sum(-2, keepdim=True)


ANSWERS = {
    "the report": (lambda s, m: s.softmax(-1) * m[:, None], "the report's weights"),
    "scores of 0": (lambda s, m: (s * m[:, None]).softmax(-1), "is not nothing"),
    "columns": (columns, "each column sums to 1"),
    "empty rows": (
        lambda s, m: s.masked_fill(m[:, None] == 0, float("-inf")).softmax(-1),
        "there are NaN",
    ),
    "no mask": (lambda s, m: s.softmax(-1), "still get weight"),
    "only divided by 2": (
        lambda s, m: s.softmax(-1) * open_rows(m)[:, None] / 2,
        "do not all sum to 1",
    ),
    "equal weights": (
        lambda s, m: (open_rows(m) / open_rows(m).sum(-1, keepdim=True))[:, None].expand_as(s),
        "keep their proportions",
    ),
    "in place": (in_place, "have changed"),
    "one head": (lambda s, m: renormalised(s, m)[:, 0], "not weights"),
}


@pytest.mark.parametrize(("answer", "message"), ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_renormalisation_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        first_transfer.check_renormalised(answer)


SCALES = {
    "planted bug": (lambda q, k: q @ k.mT / (q.shape[1] * q.shape[-1]) ** 0.5, "sqrt(d_model)"),
    "no root": (lambda q, k: q @ k.mT / q.shape[-1], "take its square root"),
    "no scale": (lambda q, k: q @ k.mT, "nothing is divided"),
    "heads": (lambda q, k: q @ k.mT / q.shape[1] ** 0.5, "number of heads"),
    "tokens": (lambda q, k: q @ k.mT / q.shape[2] ** 0.5, "number of tokens"),
    "multiplied": (lambda q, k: q @ k.mT * q.shape[-1] ** 0.5, "divide query . key"),
    "no scores": (lambda q, k: None, "not scores"),
}


@pytest.mark.parametrize(("answer", "message"), SCALES.values(), ids=SCALES)
def test_a_wrong_scale_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        first_transfer.check_scaled_scores(answer)


@pytest.mark.parametrize("wrong", [ROWS, ANSWERS, SCALES], ids=["row", "within", "scale"])
def test_wrong_answers_get_different_messages(wrong):
    assert len({message for _, message in wrong.values()}) >= 5


def test_the_table_of_the_notebook_is_that_of_the_measurement():
    notebook = nbformat.read(
        ROOT / "notebooks" / "07_why_the_first_transfer_failed.ipynb", as_version=4
    )
    (cell,) = (cell for cell in notebook.cells if "data:docs/transfer.json" in tags(cell))
    table, stock = (
        next(
            ast.literal_eval(node.value)
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Assign) and node.targets[0].id == name
        )
        for name in ("measured", "stock")
    )
    by_name = rows_of("transfer.json")
    for name, numbers in table.items():
        row = by_name[name]
        keys = ("mIoU", "presence", "quality")
        assert numbers == tuple(round(row[key], 1) for key in keys), name
    assert stock == round(rows_of("measure.json")["stock"]["mIoU"], 1)


def rows_of(name):
    rows = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
    return {row["method"]: row for row in rows if row["suite"] == "test"}
