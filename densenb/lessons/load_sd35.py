"""The checks of the exercises in notebook 01."""

from __future__ import annotations

from typing import Any

import torch

from densenb.lessons.checking import diagnose, exercise, expect_form, near


@exercise("01")
def check_guidance(guided: Any) -> str:
    """Check that `guided(negative, positive, scale)` is classifier-free guidance."""
    random = torch.Generator().manual_seed(0)
    negative, positive = torch.randn(2, 1, 4, 3, 3, generator=random)
    difference = positive - negative
    exchanged = positive - 4 * difference
    once, found = guided(negative, positive, 1.0), guided(negative, positive, 4.0)
    wanted = "a tensor of the shape of its arguments: return one velocity, as large as either"
    expect_form(found, negative.shape, f"{wanted} of the two.")
    elsewhere = not near(once, positive)
    mistakes = {
        "you start from the positive prediction: start from the negative one, so that scale 1 "
        "leaves the positive one as it is.": positive + 4 * difference,
        "negative and positive are exchanged: this walks away from the caption.": exchanged,
        "at scale 1 the result has to be the positive prediction, and it is not.": elsewhere,
    }
    otherwise = (
        "at scale 4 the result has to lie on the line from negative through positive, four times "
        "as far from negative as positive does."
    )
    diagnose(found, mistakes, negative + 4 * difference, otherwise)
    return "scale 0 ignores the caption, 1 follows it, and more exaggerates what it changes."


@exercise("01")
def check_four_bits(gib: Any) -> str:
    """Check that `gib(n)` is the size of n weights in NF4, in GiB."""
    weights = 64 * 2**30
    found, right = gib(weights), weights * (4 / 8 + 4 / 64) / 2**30
    expect_form(found, isinstance(found, (int, float)), "a number: return GiB.")
    mistakes = {
        "the scales are missing: one float32 for 64 weights.": weights / 2 / 2**30,
        "these are GB, 10^9 bytes: a GiB has 2^30.": right * 2**30 / 1e9,
        "these are bytes: divide by 2^30.": right * 2**30,
        "these are bits: eight of them are a byte.": 8 * right,
    }
    otherwise = (
        f"for {weights} weights this gives {found:g} GiB, not {right:g}: half a byte for each "
        "weight, and four bytes for every 64 of them."
    )
    diagnose(found, mistakes, right, otherwise, atol=0, rtol=1e-3)
    return "half a byte and a bit more for each weight."
