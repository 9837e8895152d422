"""The checks of the exercises in notebook 07."""

from __future__ import annotations

from typing import Any

import torch

from densenb.lessons.checking import diagnose, exercise, expect, expect_form, expect_numbers, near


@exercise("07")
def check_masked_row(left: Any, own: Any) -> str:
    """Check that `left` and `own` are what a 0/1 mask leaves of the weights 0.2, 0.6 and 0.2.

    0.2 go to the query's own segment, 0.6 to other segments, 0.2 to special tokens, which the mask
    spares. left: the sum after the mask. own: the own segment's share, once divided by that sum.
    """
    expect_numbers(left, own)
    mistakes = {
        "a row sums to 1 after its softmax; here weights are taken away after it, and nothing is "
        "put back.": 1.0,
        "special tokens belong to no segment, and this mask spares such text.": 0.2,
        "that is what the mask takes away: what does it leave?": 0.6,
    }
    otherwise = "add up what the mask leaves: the own segment and special tokens."
    diagnose(left, mistakes, 0.4, otherwise, atol=0.01)
    mistakes = {
        "that is the own segment's weight before: now divide by the sum.": 0.2,
        "special tokens are still in the row, and take their part of what was set free.": 1.0,
    }
    otherwise = "divide the own segment's weight by the sum that is left."
    diagnose(own, mistakes, 0.5, otherwise, atol=0.01)
    return "0.4 is left; divided by it, the own segment has half, and special tokens the rest."


@exercise("07")
def check_renormalised(renormalised: Any) -> str:
    """Check that `renormalised(scores, mask)` is attention within a mask, with rows that sum to 1.

    scores `[B, H, Q, K]`, mask `[B, Q, K]` of 0 and 1, to weights `[B, H, Q, K]`. A query that may
    see nothing sees everything.
    """
    random = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 3, 5, 7, generator=random)
    mask = (torch.rand(2, 5, 7, generator=random) < 0.5).float()
    mask[:, :, 0], mask[0, 2] = 1, 0  # one row is all 0
    before = scores.clone()
    found = renormalised(scores, mask)
    expect_form(found, scores.shape, "weights [B, H, Q, K].")
    expect(torch.equal(scores, before), "the scores have changed: do not edit them in place.")
    wide = mask[:, None].expand_as(scores).bool()
    some = wide.any(dim=-1, keepdim=True)  # (B, H, Q, 1)
    masked = scores.softmax(dim=-1) * wide
    nans, outside = found.isnan().any(), (found * ~wide * some).abs().max()
    mistakes = {
        "there are NaN: a query that may see nothing is divided by 0. Let it see everything.": nans,
        "these are the report's weights: rows sum to less than 1. Divide each by its sum.": masked,
        "a score of 0 is not nothing: its weight is e to the power of 0, before the division. "
        "A masked score has to be minus infinity.": (scores * wide).softmax(dim=-1),
        "each column sums to 1, not each row: a query divides its attention among its keys.": (
            near(found * some, masked / masked.sum(dim=-2, keepdim=True))
        ),
        "keys outside of the mask still get weight.": outside >= 1e-6,
        "the rows do not all sum to 1.": not near(found.sum(dim=-1), 1.0),
    }
    right = scores.masked_fill(~wide & some, float("-inf")).softmax(dim=-1)
    otherwise = (
        "rows sum to 1, but keys inside of the mask have to keep their proportions; and a query "
        "that may see nothing its stock weights."
    )
    diagnose(found, mistakes, right, otherwise)
    return "a mask after the softmax, renormalised, is a mask before it."


@exercise("07")
def check_scaled_scores(scaled_scores: Any) -> str:
    """Check that `scaled_scores(query, key)` divides by the square root of the head size.

    query and key `[B, H, N, D]` to `[B, H, N, N]`.
    """
    random = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 3, 5, 16, generator=random)  # 2 rows, 3 heads, 5 tokens of 16
    found, products = scaled_scores(query, key), query @ key.mT
    expect_form(found, products.shape, "scores [B, H, N, N].")
    mistakes = {
        "still sqrt(d_model), the size of all heads together.": products / 48**0.5,
        "divided by the head size itself: take its square root.": products / 16,
        "nothing is divided: scores grow with the head size.": products,
        "that is the square root of the number of heads.": products / 3**0.5,
        "that is the square root of the number of tokens.": products / 5**0.5,
    }
    otherwise = "divide query . key by the square root of the head size, the last one."
    diagnose(found, mistakes, products / 4, otherwise)
    return "each head compares vectors of its own size."
