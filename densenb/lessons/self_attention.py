"""The checks of the exercises in notebook 04."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import diagnose, exercise, expect, expect_form, expect_numbers
from densenb.modulation.formulas import same_region


@exercise("04")
def check_own_share(guess: Any, share: float = 0.25, bias: float = 1.0) -> str:
    """Check that `guess` is the share of a query's attention that its own region gets.

    `share` is its share before a fixed bias, and `bias` that bias in logits.
    """
    expect_numbers(guess)
    expect(0 <= guess <= 1, f"{guess:g} is not a share: a softmax gives 0 to 1.")
    once, twice = (share / (1 - share) * math.exp(times * bias) for times in (1, 2))  # odds
    right = twice / (1 + twice)
    mistakes = {
        "a bias of a logit does more than that: it multiplies weights, by e to its power.": [
            share + bias * share * (1 - share),
            share,
        ],
        f"you raised the own region by {bias:g} logit; the others fall by as much at the same "
        "time, so that the two part by twice the bias.": once / (1 + once),
        "the weights no longer sum to 1: divide by their sum, as the softmax does.": [
            share * math.exp(bias),
            min(1.0, share * math.exp(2 * bias)),
        ],
    }
    otherwise = (
        "not within 2 points: multiply the odds share / (1 - share) by e to the power of twice the "
        "bias, then turn odds into a share again."
    )
    diagnose(guess, mistakes, right, otherwise, atol=0.02)
    return f"{share:.0%} become {right:.0%}: odds grow by e to the power of twice the bias."


@exercise("04")
def check_region_bias(region_bias: Any) -> str:
    """Check that `region_bias(pixels, bias)` leaves the background's queries alone.

    pixels `[B, P, R]`, the last column the background, to `[B, P, P]`.
    """
    pixels = _pixels()
    found, same = region_bias(pixels, 1.5), same_region(pixels, pixels)
    expect_form(found, same.shape, "a bias [B, P, P] for each query and key.")
    full, query = 1.5 * (2 * same - 1), pixels[..., -1:]  # query (B, P, 1): is it background?
    raised = 1.5 * same * ~query
    mistakes = {
        "the background's queries are still moved: multiply their rows by 0.": full,
        "you spared the background as keys: rows of the matrix are queries, columns are keys.": (
            full * ~query.mT
        ),
        "it is the other way round: now the background alone is moved.": full * query,
        "pairs of different regions have to lose as much as pairs of the same region gain.": raised,
    }
    otherwise = (
        "queries in a region: +bias for keys of the same region, -bias for all others; queries of "
        "the background: 0."
    )
    diagnose(found, mistakes, full * ~query, otherwise)
    return "regions are isolated, and the background looks where it likes."


@exercise("04")
def check_same_pixels(same_pixels: Any) -> str:
    """Check that `same_pixels(pixels)` says which pairs of pixels share a region.

    pixels `[B, P, R]` to `[B, P, P]`; the background is a region.
    """
    pixels = _pixels()
    found, right = same_pixels(pixels), same_region(pixels, pixels)
    expect_form(found, right.shape, "[B, P, P], a number for each pair of pixels.")
    found = found.float()
    own, most = found.diagonal(dim1=1, dim2=2), found.max()  # own (B, P): each pixel with itself
    outside = torch.equal(own, (~pixels[..., -1]).float())
    mistakes = {
        "a pixel of the background shares no region even with itself, so that it is pushed away "
        "from everything: the background is the last region, keep its column.": outside,
        "this is 1 where the regions differ: turn it round.": 1 - right,
        f"a pair that shares two regions counts {most:.0f} times: limit it to 1.": most > 1,
        "a pixel shares its region with itself: the diagonal has to be 1.": (own != 1).any(),
    }
    diagnose(found, mistakes, right, "1 for pixels that share a region, 0 for all others.")
    return "every pixel, the background's too, has its own region to look at."


def _pixels() -> Tensor:
    """Seven pixels of a picture: in region 0, 0, both, 1, 1, and two in the background."""
    rows = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    one = torch.tensor(rows, dtype=torch.bool)
    return torch.stack([one, one.flip(0)])
