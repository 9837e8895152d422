"""The checks of notebook 02: right answers pass, each kind of wrong one is told what is wrong."""

from __future__ import annotations

import re

import nbformat
import pytest

from densenb.lessons import checking, checks, see_joint_attention
from tools.notebooks import ROOT

NOTEBOOK = ROOT / "notebooks" / "02_see_joint_attention.ipynb"


# ---------------------------------------------------------------------- where a phrase looks
def test_a_phrase_map_passes(capsys):
    see_joint_attention.check_phrase_map(
        lambda w, words, image: w[:, words, :image].mean(dim=(0, 1))
    )
    see_joint_attention.check_phrase_map(lambda w, words, image: w.mean(0)[words].mean(0)[:image])
    assert capsys.readouterr().out.count("ok: ") == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda w, words, image: None, "gives nothing, not one number"),
        (lambda w, words, image: w[:, words, :image].mean(0), "a tensor of shape (2, 6)"),
        (lambda w, words, image: w[:, :image, words].mean(dim=(0, 2)), "image -> text"),
        (lambda w, words, image: w[:, :image, words].sum(2).mean(0), "image -> text"),
        (lambda w, words, image: w[:, words - image, :image].mean(dim=(0, 1)), "do not subtract"),
        (lambda w, words, image: w[:, words, :image].sum(1).mean(0), "not their mean"),
        (lambda w, words, image: w[:, words, :image].sum(dim=(0, 1)), "not their mean"),
        (lambda w, words, image: w[:, words, :image].mean(dim=(0, 1)).softmax(0), "are not the"),
        (
            lambda w, words, image: (
                w[:, words, :image].mean(dim=(0, 1)) / w[:, words, :image].mean(dim=(0, 1)).sum()
            ),
            "made to sum to 1",
        ),
    ],
)
def test_a_wrong_phrase_map_is_told_why(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        see_joint_attention.check_phrase_map(answer)


# ---------------------------------------------------------------------- text mass
def test_text_mass_passes(capsys):
    see_joint_attention.check_text_mass(
        lambda s, image: s.softmax(-1)[:, :image, image:].sum(-1).mean()
    )
    see_joint_attention.check_text_mass(
        lambda s, image: 1 - s.softmax(-1)[:, :image, :image].sum(-1).mean().item()
    )
    assert capsys.readouterr().out.count("ok: ") == 2


def first_tokens(s, image):
    text = s.shape[-1] - image
    return s.softmax(-1)[:, text:, :text].sum(-1).mean()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, image: None, "gives nothing, not one number"),
        (lambda s, image: s.softmax(-1)[:, :image, image:], "a tensor of shape (2, 6, 4)"),
        (first_tokens, "first tokens for text"),
        (lambda s, image: s.softmax(-1)[:, :image, :image].sum(-1).mean(), "1 minus"),
        (lambda s, image: s[:, :image, image:].softmax(-1).sum(-1).mean(), "over the whole row"),
        (lambda s, image: s.softmax(-2)[:, :image, image:].sum(-1).mean(), "over the queries"),
        (lambda s, image: s.softmax(-1)[..., image:].sum(-1).mean(), "counts text queries"),
        (lambda s, image: s.softmax(-1)[:, :image, image:].mean(), "another share"),
    ],
)
def test_wrong_text_mass_is_told_why(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        see_joint_attention.check_text_mass(answer)


# ---------------------------------------------------------------------- the exercises themselves
@pytest.mark.parametrize(("name", "wrong"), [("ex2", "image -> text"), ("ex3", "first tokens")])
def test_the_stubs_fail_and_the_printed_solutions_pass(name, wrong, capsys):
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    names = {"checks": checks}
    with pytest.raises(checking.CheckFailed, match=re.escape(wrong)):
        exec(cells[name], names)
    (solution,) = re.findall(r"```python\n(.*?)```", cells[f"{name}-text"], re.DOTALL)
    exec(solution, names)
    exec(cells[name].splitlines()[-1], names)  # the check
    assert "ok: " in capsys.readouterr().out
