"""Checks of the exercises of notebooks 04 and 05."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import described, expect, passed
from densenb.modulation.formulas import push_pull, same_region, value_range


# --------------------------------------------------------------------------------- notebook 04
def check_own_share(guess: Any, share: float = 0.25, bias: float = 1.0) -> None:
    """Whether `guess` is the share of attention that a query's own region gets under a fixed bias.

    `share` is what it had before. Exercise of notebook 04.
    """
    _number(guess)

    def near(value: float) -> bool:
        return abs(guess - value) < 0.02

    odds = share / (1 - share) * math.exp(2 * bias)
    expect(0 <= guess <= 1, f"{guess:g} is not a share: a softmax gives 0 to 1.")
    expect(
        not near(share + bias * share * (1 - share)) and not near(share),
        "a bias of a logit does more than that: it multiplies weights, by e to its power.",
    )
    once = share / (1 - share) * math.exp(bias)
    expect(
        not near(once / (1 + once)),
        f"you raised the own region by {bias:g} logit; the others fall by as much at the same "
        "time, so that the two part by twice the bias.",
    )
    expect(
        not near(share * math.exp(bias)) and not near(min(1.0, share * math.exp(2 * bias))),
        "the weights no longer sum to 1: divide by their sum, as the softmax does.",
    )
    right = odds / (1 + odds)
    expect(
        near(right),
        "not within 2 points: multiply the odds share / (1 - share) by e to the power of twice the "
        "bias, then turn odds into a share again.",
    )
    passed(f"{share:.0%} become {right:.0%}: odds grow by e to the power of twice the bias.")


def check_region_bias(region_bias: Any) -> None:
    """Whether `region_bias(pixels, bias)` leaves the background's queries alone.

    pixels `[B, P, R]`, the last column the background, to `[B, P, P]`. Exercise of notebook 04.
    """
    pixels = _pixels()
    found = region_bias(pixels, 1.5)
    queries = pixels.shape[1]
    expect(
        torch.is_tensor(found) and found.shape == (len(pixels), queries, queries),
        f"this gives {described(found)}, not a bias [B, P, P] for each query and key.",
    )
    full = 1.5 * (2 * same_region(pixels, pixels) - 1)
    behind = pixels[..., -1]
    expect(
        not torch.allclose(found, full),
        "the background's queries are still moved: multiply their rows by 0.",
    )
    expect(
        not torch.allclose(found, full * ~behind[:, None, :]),
        "you spared the background as keys: rows of the matrix are queries, columns are keys.",
    )
    expect(
        not torch.allclose(found, full * behind[:, :, None]),
        "it is the other way round: now the background alone is moved.",
    )
    expect(
        not torch.allclose(found, (1.5 * same_region(pixels, pixels)) * ~behind[:, :, None]),
        "pairs of different regions have to lose as much as pairs of the same region gain.",
    )
    expect(
        torch.allclose(found, full * ~behind[:, :, None]),
        "queries in a region: +bias for keys of the same region, -bias for all others; queries of "
        "the background: 0.",
    )
    passed("regions are isolated, and the background looks where it likes.")


def check_same_pixels(same_pixels: Any) -> None:
    """Whether `same_pixels(pixels)` knows which pairs of pixels share a region.

    pixels `[B, P, R]` to `[B, P, P]`; the background is a region. Exercise of notebook 04.
    """
    pixels = _pixels()
    found = same_pixels(pixels)
    queries = pixels.shape[1]
    expect(
        torch.is_tensor(found) and found.shape == (len(pixels), queries, queries),
        f"this gives {described(found)}, not [B, P, P], a number for each pair of pixels.",
    )
    found = found.float()
    own = found.diagonal(dim1=1, dim2=2)
    right = same_region(pixels, pixels)
    expect(
        not (own[~pixels[..., -1]] == 1).all() or not (own[pixels[..., -1]] == 0).all(),
        "a pixel of the background shares no region even with itself, so that it is pushed away "
        "from everything: the background is the last region, keep its column.",
    )
    expect(
        not torch.allclose(found, 1 - right), "this is 1 where the regions differ: turn it round."
    )
    expect(
        found.max() <= 1,
        f"a pair that shares two regions counts {found.max():.0f} times: limit it to 1.",
    )
    expect((own == 1).all(), "a pixel shares its region with itself: the diagonal has to be 1.")
    expect(torch.allclose(found, right), "1 for pixels that share a region, 0 for all others.")
    passed("every pixel, the background's too, has its own region to look at.")


# --------------------------------------------------------------------------------- notebook 05
def check_moved_scores(
    same: Any, other: Any, score: float = 1.0, low: float = -3.0, high: float = 5.0, a: float = 0.5
) -> None:
    """Whether `same` and `other` are where the rule moves a score within its query's range.

    Exercise of notebook 05.
    """
    for guess in (same, other):
        _number(guess)
    up, down = score + a * (high - score), score - a * (score - low)

    def near(one: float, two: float) -> bool:
        return abs(same - one) < 0.01 and abs(other - two) < 0.01

    expect(
        not near(down, up),
        "the two are exchanged: pairs of the same region move up, others down.",
    )
    expect(
        not near(score + a, score - a),
        "that is a fixed bias, in logits: here the strength is a share of the way to the limit.",
    )
    span = a * (high - low)
    expect(
        not near(score + span, score - span),
        "that is a share of the whole range, and leaves it: take a share of what is left to go.",
    )
    expect(
        not near(a * high, a * low),
        "the score itself has vanished: start from it, and go a share of the way.",
    )
    expect(near(up, down), "go from the score a share of the way to the maximum, or the minimum.")
    passed(f"{score:g} moves up to {up:g}, or down to {down:g}, and never beyond the limits.")


def check_push_only(push_only: Any) -> None:
    """Whether `push_only(scores, same, strength)` raises pairs of a region and leaves the others.

    Shapes as for `modulation.push_pull`. Exercise of notebook 05.
    """
    scores, same, strength = _quadrant()
    before = scores.clone()
    found = push_only(scores, same, strength)
    expect(
        torch.equal(scores, before),
        "the scores that you were given have changed: return new ones.",
    )
    expect(
        torch.is_tensor(found) and found.shape == scores.shape,
        f"this gives {described(found)}, not scores of the shape that you were given.",
    )
    expect(
        not torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-4),
        "these sum to 1, so they are weights: edit the scores, the softmax comes later.",
    )
    pairs = (same > 0)[:, None].expand_as(scores)
    expect(
        not torch.allclose(found, push_pull(scores, same, strength)),
        "this also pulls the other pairs down: leave them as they are.",
    )
    expect(
        torch.allclose(found[~pairs], scores[~pairs]),
        "pairs of different regions have moved: their scores have to stay.",
    )
    own = scores + strength[:, None] * (scores.amax(dim=-1, keepdim=True) - scores)
    whole = scores + strength[:, None] * (scores.max() - scores)
    across = scores + strength[:, None] * (scores.amax(dim=-2, keepdim=True) - scores)
    expect(
        not torch.allclose(found[pairs], whole[pairs]),
        "that is the maximum of all queries together: each query has its own (dim=-1).",
    )
    expect(
        not torch.allclose(found[pairs], across[pairs]),
        "that is the maximum over queries: take it over keys, the last dimension.",
    )
    expect(
        torch.allclose(found[pairs], own[pairs]),
        "pairs of the same region have to go the share `strength` of the way to their maximum.",
    )
    passed("the same region is raised, nothing is lowered, and no score leaves its range.")


def check_value_range(limits: Any) -> None:
    """Whether `limits(scores)` is each query's own range: `[B, H, Q, K]` to two `[B, H, Q, 1]`.

    Exercise of notebook 05.
    """
    scores, _, _ = _quadrant()
    found = limits(scores)
    expect(
        isinstance(found, tuple) and len(found) == 2 and all(map(torch.is_tensor, found)),
        f"this gives {described(found)}, not two tensors: the minimum, then the maximum.",
    )
    low, high = found
    queries = [*scores.shape[:-1], 1]
    expect(
        list(low.shape) != [*scores.shape[:-2], 1, scores.shape[-1]],
        "there is a limit for each key, so they were sought over the queries: a query's range is "
        "over its keys, dim=-1.",
    )
    expect(
        low.numel() != 1,
        "one range for all queries is no range of theirs: some never score so high.",
    )
    expect(
        list(low.shape) == queries == list(high.shape),
        f"the limits have shapes {list(low.shape)} and {list(high.shape)}: with keepdim=True they "
        f"would be {queries}, and fit the scores.",
    )
    right = value_range(scores)
    expect(
        not (torch.equal(low, right[1]) and torch.equal(high, right[0])),
        "the two are exchanged: the minimum comes first.",
    )
    expect(
        torch.equal(low, right[0]) and torch.equal(high, right[1]),
        "these are not the smallest and the largest score of each query, in each head.",
    )
    passed("each query of each head has its own range.")


# --------------------------------------------------------------------------------- what they use
def _number(guess: Any) -> None:
    number = isinstance(guess, (int, float)) and not isinstance(guess, bool)
    expect(number, f"this is {described(guess)}, not a number: write your prediction.")


def _pixels() -> Tensor:
    """Seven pixels of a picture: in region 0, 0, both, 1, 1, and two in the background."""
    rows = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    one = torch.tensor(rows, dtype=torch.bool)
    return torch.stack([one, one.flip(0)])


def _quadrant() -> tuple[Tensor, Tensor, Tensor]:
    """Scores `[2, 3, 5, 7]`, same `[2, 5, 7]` and strength `[2, 5, 7]` of a made-up quadrant."""
    random = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 3, 5, 7, generator=random)
    same = (torch.rand(2, 5, 7, generator=random) < 0.4).float()
    return scores, same, torch.full((2, 5, 7), 0.4)
