"""Checks of the exercises of notebook 07."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import described, expect, passed


def check_masked_row(left: Any, own: Any) -> None:
    """Whether `left` and `own` are what a 0/1 mask leaves of the weights 0.2, 0.6 and 0.2.

    0.2 go to the query's own segment, 0.6 to other segments, 0.2 to special tokens, which the mask
    spares. left: the sum after the mask. own: the own segment's share, once divided by that sum.
    Exercise of notebook 07.
    """
    for guess in (left, own):
        number = isinstance(guess, (int, float)) and not isinstance(guess, bool)
        expect(number, f"this is {described(guess)}, not a number: write your prediction.")

    def near(guess: float, value: float) -> bool:
        return abs(guess - value) < 0.01

    expect(
        not near(left, 1.0),
        "a row sums to 1 after its softmax; here weights are taken away after it, and nothing is "
        "put back.",
    )
    expect(
        not near(left, 0.2), "special tokens belong to no segment, and this mask spares such text."
    )
    expect(not near(left, 0.6), "that is what the mask takes away: what does it leave?")
    expect(near(left, 0.4), "add up what the mask leaves: the own segment and special tokens.")
    expect(not near(own, 0.2), "that is the own segment's weight before: now divide by the sum.")
    expect(
        not near(own, 1.0),
        "special tokens are still in the row, and take their part of what was set free.",
    )
    expect(near(own, 0.5), "divide the own segment's weight by the sum that is left.")
    passed("0.4 is left; divided by it, the own segment has half, and special tokens the rest.")


def check_renormalised(renormalised: Any) -> None:
    """Whether `renormalised(scores, mask)` is attention within a mask, with rows that sum to 1.

    scores `[B, H, Q, K]`, mask `[B, Q, K]` of 0 and 1, to weights `[B, H, Q, K]`. A query that may
    see nothing sees everything. Exercise of notebook 07.
    """
    random = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 3, 5, 7, generator=random)
    mask = (torch.rand(2, 5, 7, generator=random) < 0.5).float()
    mask[:, :, 0], mask[0, 2] = 1, 0  # one row is all 0
    given = scores.clone()
    found = renormalised(scores, mask)
    expect(
        torch.is_tensor(found) and found.shape == scores.shape,
        f"this gives {described(found)}, not weights [B, H, Q, K].",
    )
    expect(torch.equal(scores, given), "the scores have changed: do not edit them in place.")
    expect(
        not found.isnan().any(),
        "there are NaN: a query that may see nothing is divided by 0. Let it see everything.",
    )
    wide = mask[:, None].expand_as(scores).bool()
    some = wide.any(dim=-1, keepdim=True)
    stock = scores.softmax(dim=-1)
    expect(
        not torch.allclose(found, stock * wide, atol=1e-5),
        "these are the report's weights: rows sum to less than 1. Divide each by its sum.",
    )
    expect(
        not torch.allclose(found, (scores * wide).softmax(dim=-1), atol=1e-5),
        "a score of 0 is not nothing: its weight is e to the power of 0, before the division. "
        "A masked score has to be minus infinity.",
    )
    masked = stock * wide
    expect(
        not torch.allclose(found * some, masked / masked.sum(dim=-2, keepdim=True), atol=1e-5),
        "each column sums to 1, not each row: a query shares itself out among its keys.",
    )
    expect(
        (found * ~wide * some).abs().max() < 1e-6,
        "keys outside of the mask still get weight.",
    )
    expect(
        torch.allclose(found.sum(dim=-1), torch.ones_like(found[..., 0]), atol=1e-5),
        "the rows do not all sum to 1.",
    )
    expect(
        torch.allclose(found, _attention_within(scores, wide | ~some), atol=1e-5),
        "rows sum to 1, but keys inside of the mask have to keep their proportions; and a query "
        "that may see nothing its stock weights.",
    )
    passed("a mask after the softmax, renormalised, is a mask before it.")


def check_scaled_scores(scaled_scores: Any) -> None:
    """Whether `scaled_scores(query, key)` divides by the square root of the head size.

    query and key `[B, H, N, D]` to `[B, H, N, N]`. Exercise of notebook 07.
    """
    random = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 3, 5, 16, generator=random)  # 2 rows, 3 heads, 5 tokens of 16
    found, products = scaled_scores(query, key), query @ key.mT
    expect(
        torch.is_tensor(found) and found.shape == products.shape,
        f"this gives {described(found)}, not scores [B, H, N, N].",
    )

    def is_over(value: float) -> bool:
        return torch.allclose(found, products / value, atol=1e-5)

    expect(not is_over(48**0.5), "still sqrt(d_model), the size of all heads together.")
    expect(not is_over(16), "divided by the head size itself: take its square root.")
    expect(not is_over(1), "nothing is divided: scores grow with the head size.")
    expect(not is_over(3**0.5), "that is the square root of the number of heads.")
    expect(not is_over(5**0.5), "that is the square root of the number of tokens.")
    expect(is_over(4), "divide query . key by the square root of the head size, the last one.")
    passed("each head compares vectors of its own size.")


def _attention_within(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
