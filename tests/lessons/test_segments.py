"""The checks of notebook 06."""

from __future__ import annotations

import re

import pytest

from densenb.lessons import checking, segments
from densenb.sd3.prompts import substitute


def soft(covered):
    return covered / covered.sum(dim=0).clamp(min=1)


def test_right_answers_pass(capsys):
    segments.check_token_count(8)
    segments.check_soft_masks(soft)
    segments.check_substitute(substitute)
    assert capsys.readouterr().out.count("ok: ") == 3


COUNTS = {
    "touched": (9, "covers a quarter"),
    "whole": (4, "covered all over"),
    "area": (6.25, "no quarters"),
    "latents": (25, "those are latents"),
    "pixels": (1600, "those are pixels"),
    "something": (7, "token by token"),
    "no number": ("8", "not a number"),
}
SOFTS = {
    "planted": (lambda covered: covered.clone(), "have to share it"),
    "always divided": (lambda c: c / c.sum(0).clamp(min=1e-6), "no longer a quarter"),
    "by zero": (lambda c: c / c.sum(0), "divide by 0"),
    "softmax": (lambda c: c.softmax(0), "a softmax gives something to all"),
    "too little": (lambda c: c / c.sum(0).clamp(min=1).sqrt(), "there is one token"),
    "winner": (lambda c: c * (c == c.amax(0)) / (1 + (c[:2].sum(0) > 1)), "its proportion"),
    "in place": (lambda c: c.div_(c.sum(0).clamp(min=1)), "have changed"),
    "one region": (lambda c: soft(c)[:1], "not masks of the shape"),
}


def without_bos(caption, phrase, to, source):
    return substitute(caption, phrase, to, range(len(to)))


def in_place(caption, phrase, to, source):
    return caption.copy_(substitute(caption, phrase, to, source))


def uncut(caption, phrase, to, source):
    caption = caption.clone()
    caption[list(to)] = phrase[list(source)]
    return caption


PUTS = {
    "planted": (without_bos, "is BOS"),
    "in place": (in_place, "work on a clone"),
    "nothing": (lambda caption, *_: caption.clone(), "nothing was put in"),
    "at the caption's place": (lambda c, p, to, _: substitute(c, p, to, to), "alone it stands"),
    "reversed": (lambda c, p, to, s: substitute(c, p, to, s[::-1]), "are not those"),
    "all": (lambda c, p, to, s: substitute(p, p, to, s), "other words changed"),
    "uncut": (uncut, "cut off"),
    "no text": (lambda c, p, to, s: substitute(c, p, to, s)[:2], "not tokens [L, D]"),
}


@pytest.mark.parametrize(("answer", "message"), COUNTS.values(), ids=COUNTS)
def test_a_wrong_count_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        segments.check_token_count(answer)


@pytest.mark.parametrize(("answer", "message"), SOFTS.values(), ids=SOFTS)
def test_a_wrong_sharing_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        segments.check_soft_masks(answer)


@pytest.mark.parametrize(("answer", "message"), PUTS.values(), ids=PUTS)
def test_a_wrong_substitution_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        segments.check_substitute(answer)
