"""The checks of notebook 04: right answers pass, each kind of wrong one is told what is wrong."""

from __future__ import annotations

import re

import pytest
import torch

from densenb.lessons import checking, self_attention
from densenb.modulation.formulas import same_region


def region_bias(pixels, bias):
    return bias * (2 * same_region(pixels, pixels) - 1) * ~pixels[..., -1:]


def same_pixels(pixels):
    return same_region(pixels, pixels)


def test_right_answers_pass(capsys):
    self_attention.check_own_share(0.71)
    self_attention.check_own_share(0.73, share=0.5, bias=0.5)
    self_attention.check_region_bias(region_bias)
    self_attention.check_same_pixels(same_pixels)
    self_attention.check_same_pixels(lambda pixels: same_region(pixels, pixels).bool())
    assert capsys.readouterr().out.count("ok: ") == 5


SHARES = {
    "unchanged": (0.25, "does more than that"),
    "added to the odds": (0.44, "does more than that"),
    "one logit apart": (0.475, "part by twice the bias"),
    "not normalised, once": (0.68, "divide by their sum"),
    "not normalised, twice": (1.0, "divide by their sum"),
    "a score, not a share": (1.85, "1.85 is not a share"),
    "a guess": (0.6, "not within 2 points"),
    "not a number": ("71 %", "a str, not a number"),
}


@pytest.mark.parametrize(("guess", "message"), SHARES.values(), ids=SHARES)
def test_a_wrong_share_is_told_what_is_wrong(guess, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        self_attention.check_own_share(guess)


def full(pixels, bias):
    return bias * (2 * same_region(pixels, pixels) - 1)


BIASES = {
    "everywhere": (full, "still moved"),
    "transposed": (lambda p, b: full(p, b) * ~p[..., -1][:, None, :], "columns are keys"),
    "the background alone": (lambda p, b: full(p, b) * p[..., -1:], "the other way round"),
    "no push": (lambda p, b: b * same_region(p, p) * ~p[..., -1:], "lose as much"),
    "sign": (lambda p, b: -region_bias(p, b), "queries in a region: +bias"),
    "one picture": (lambda p, b: region_bias(p[:1], b), "not a bias [B, P, P]"),
    "forgotten return": (lambda p, b: None, "gives nothing"),
}


@pytest.mark.parametrize(("answer", "message"), BIASES.values(), ids=BIASES)
def test_a_wrong_bias_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        self_attention.check_region_bias(answer)


SAMES = {
    "planted bug": (lambda p: same_region(p[..., :-1], p[..., :-1]), "keep its column"),
    "other regions": (lambda p: 1 - same_region(p, p), "where the regions differ"),
    "counted twice": (lambda p: p.float() @ p.float().transpose(1, 2), "counts 2 times"),
    "not itself": (lambda p: same_region(p, p) * ~torch.eye(p.shape[1], dtype=bool), "diagonal"),
    "everything": (lambda p: torch.ones(len(p), p.shape[1], p.shape[1]), "0 for all others"),
    "regions, not pixels": (lambda p: same_region(p.mT, p.mT), "a tensor of shape (2, 3, 3)"),
}


@pytest.mark.parametrize(("answer", "message"), SAMES.values(), ids=SAMES)
def test_a_wrong_same_is_told_what_is_wrong(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        self_attention.check_same_pixels(answer)


@pytest.mark.parametrize("wrong", [SHARES, BIASES, SAMES], ids=["share", "bias", "same"])
def test_wrong_answers_get_different_messages(wrong):
    assert len({message for _, message in wrong.values()}) >= 5
