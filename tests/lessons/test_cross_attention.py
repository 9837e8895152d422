"""The checks of notebook 03: right answers pass, each kind of wrong one is told what is wrong."""

from __future__ import annotations

import re

import nbformat
import pytest
import torch

from densenb.lessons import checking, checks, cross_attention, see_joint_attention
from densenb.modulation.formulas import fixed_bias
from tools.notebooks import ROOT

NOTEBOOK = ROOT / "notebooks" / "03_cross_attention_modulation.ipynb"
CHOICES = ("rises", "falls")


# ---------------------------------------------------------------------- predict, then run
def test_a_right_prediction_passes(capsys):
    see_joint_attention.check_prediction("falls", CHOICES, "falls", "Because.")
    assert capsys.readouterr().out == "ok: measured was 'falls', as you expected. Because.\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "predict first: choose one of 'rises', 'falls'"),
        ("sinks", "'sinks' is none of the choices: 'rises', 'falls'"),
        (0.3, "0.3 is none of the choices"),
        ("rises", "you expected 'rises', and measured was 'falls'. Because."),
    ],
)
def test_a_wrong_prediction_is_told_why(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        see_joint_attention.check_prediction(answer, CHOICES, "falls", "Because.")


# ---------------------------------------------------------------------- the positive half alone
def own(scores, same, strength):
    return scores + (strength * same)[:, None]


def test_own_words_only_passes(capsys):
    cross_attention.check_own_words_only(own)
    cross_attention.check_own_words_only(
        lambda s, m, b: torch.where(m[:, None] > 0, s + b[:, None], s)
    )
    assert capsys.readouterr().out.count("ok: ") == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, m, b: None, "gives nothing, not scores"),
        (lambda s, m, b: (s + (b * m)[:, None])[0], "a tensor of shape (2, 10, 10)"),
        (lambda s, m, b: s.add_((b * m)[:, None]), "were changed"),
        (lambda s, m, b: s + (b * (2 * m - 1))[:, None], "`fixed_bias` itself"),
        (lambda s, m, b: s - (b * (1 - m))[:, None], "the other half"),
        (lambda s, m, b: s + (b * m)[:, None].mT, "exchanged"),
        (lambda s, m, b: s + m[:, None], "strength is missing"),
        (lambda s, m, b: s * (1 + (b * m)[:, None]), "multiplies"),
        (lambda s, m, b: s.softmax(-1) * m[:, None], "are not `scores + strength`"),
    ],
)
def test_own_words_only_tells_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        cross_attention.check_own_words_only(answer)


# ---------------------------------------------------------------------- a biased guided batch
def attends(scores, bias):
    biased = scores.clone()
    biased[1] += bias
    return biased.softmax(dim=-1)


def in_place(scores, bias):
    scores[1] += bias
    return scores.softmax(dim=-1)


def first_half(scores, bias):
    biased = scores.clone()
    biased[0] += bias
    return biased.softmax(dim=-1)


def transposed(scores, bias):
    return attends(scores, bias.T)


def after_the_softmax(scores, bias):
    weights = scores.softmax(dim=-1)
    return torch.stack([weights[0], weights[1] + bias])


def masked_after_the_softmax(scores, bias):
    return scores.softmax(dim=-1) * (bias > 0)


def masked_and_renormalised(scores, bias):
    weights = scores.softmax(dim=-1)
    weights = torch.stack([weights[0], weights[1] * (1 + bias.abs())])
    return weights / weights.sum(dim=-1, keepdim=True)


def test_attends_passes(capsys):
    cross_attention.check_attends(attends)
    zeros = torch.zeros(1, 1, 1)
    cross_attention.check_attends(lambda s, b: (s + torch.stack([zeros * b, b[None]])).softmax(-1))
    assert capsys.readouterr().out.count("ok: ") == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, b: None, "gives nothing, not weights"),
        (lambda s, b: attends(s, b)[1], "a tensor of shape (2, 10, 10)"),
        (in_place, "were changed"),
        (after_the_softmax, "before the softmax, not after it"),
        (masked_after_the_softmax, "before the softmax, not after it"),
        (lambda s, b: (s + b).softmax(dim=-1), "both halves"),
        (first_half, "the wrong half"),
        (transposed, "transposed"),
        (lambda s, b: s.softmax(dim=-1), "no row is biased"),
        (masked_and_renormalised, "other weights"),
    ],
)
def test_attends_tells_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        cross_attention.check_attends(answer)


# ---------------------------------------------------------------------- the exercises themselves
@pytest.mark.parametrize(
    ("name", "wrong"), [("ex2", "`fixed_bias` itself"), ("ex3", "not to 1: add the bias before")]
)
def test_the_stubs_fail_and_the_printed_solutions_pass(name, wrong, capsys):
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    names = {"checks": checks, "fixed_bias": fixed_bias}
    with pytest.raises(checking.CheckFailed, match=re.escape(wrong)):
        exec(cells[name], names)
    (solution,) = re.findall(r"```python\n(.*?)```", cells[f"{name}-text"], re.DOTALL)
    exec(solution, names)
    exec(cells[name].splitlines()[-1], names)  # the check
    assert "ok: " in capsys.readouterr().out
