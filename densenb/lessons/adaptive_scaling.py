"""The checks of the exercises in notebook 05."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import diagnose, exercise, expect, expect_form, expect_numbers, near
from densenb.modulation.formulas import push_pull, value_range


@exercise("05")
def check_moved_scores(
    same: Any, other: Any, score: float = 1.0, low: float = -3.0, high: float = 5.0, a: float = 0.5
) -> str:
    """Check that `same` and `other` are where the rule moves a score within its query's range."""
    expect_numbers(same, other)
    up, down, span = score + a * (high - score), score - a * (score - low), a * (high - low)
    fixed, whole, alone = (score + a, score - a), (score + span, score - span), (a * high, a * low)
    mistakes = {
        "the two are exchanged: pairs of the same region move up, others down.": (down, up),
        "that is a fixed bias, in logits: the strength is a share of the way to the limit.": fixed,
        "that is a share of the whole range, and leaves it: take a share of the way left.": whole,
        "the score itself has vanished: start from it, and go a share of the way.": alone,
    }
    otherwise = "go from the score a share of the way to the maximum, or the minimum."
    diagnose((same, other), mistakes, (up, down), otherwise, atol=0.01)
    return f"{score:g} moves up to {up:g}, or down to {down:g}, and never beyond the limits."


@exercise("05")
def check_push_only(push_only: Any) -> str:
    """Check that `push_only(scores, same, strength)` raises pairs of a region, and no others.

    Shapes as for `modulation.formulas.push_pull`.
    """
    scores, same, strength = _quadrant()
    before = scores.clone()
    found = push_only(scores, same, strength)
    kept = torch.equal(scores, before)
    expect(kept, "the scores that you were given have changed: return new ones.")
    expect_form(found, scores.shape, "scores of the shape that you were given.")
    weights, both = near(found.sum(dim=-1), 1.0, atol=1e-4), push_pull(scores, same, strength)
    moved = not near(found * (same == 0)[:, None], scores * (same == 0)[:, None])

    def raised(high: Tensor) -> Tensor:
        return scores + (strength * same)[:, None] * (high - scores)

    overall, columns, right = (
        raised(high) for high in (scores.max(), scores.amax(-2, True), scores.amax(-1, True))
    )
    mistakes = {
        "these sum to 1, so they are weights: edit the scores, the softmax comes later.": weights,
        "this also pulls the other pairs down: leave them as they are.": both,
        "pairs of different regions have moved: their scores have to stay.": moved,
        "that is the maximum of all queries together: each query has its own (dim=-1).": overall,
        "that is the maximum over queries: take it over keys, the last dimension.": columns,
    }
    otherwise = (
        "pairs of the same region have to go the share `strength` of the way to their maximum."
    )
    diagnose(found, mistakes, right, otherwise)
    return "the same region is raised, nothing is lowered, and no score leaves its range."


@exercise("05")
def check_value_range(limits: Any) -> str:
    """Check that `limits(scores)` is each query's own range.

    scores `[B, H, Q, K]` to the minimum and the maximum, `[B, H, Q, 1]`.
    """
    scores, _, _ = _quadrant()
    found = limits(scores)
    two = isinstance(found, tuple) and len(found) == 2 and all(map(torch.is_tensor, found))
    expect_form(found, two, "two tensors: the minimum, then the maximum.")
    low, high = (list(limit.shape) for limit in found)
    queries = [*scores.shape[:-1], 1]
    expect(
        low != [*scores.shape[:-2], 1, scores.shape[-1]],
        "there is a limit for each key, so they were sought over the queries: a query's range is "
        "over its keys, dim=-1.",
    )
    expect(
        found[0].numel() != 1,
        "one range for all queries is no range of theirs: some never score so high.",
    )
    expect(
        low == queries == high,
        f"the limits have shapes {low} and {high}: with keepdim=True they would be {queries}, and "
        "fit the scores.",
    )
    right = torch.stack(value_range(scores))
    diagnose(
        torch.stack(found),
        {"the two are exchanged: the minimum comes first.": right.flip(0)},
        right,
        "these are not the smallest and the largest score of each query, in each head.",
    )
    return "each query of each head has its own range."


def _quadrant() -> tuple[Tensor, Tensor, Tensor]:
    """Scores `[2, 3, 5, 7]`, same `[2, 5, 7]` and strength `[2, 5, 7]` of a made-up quadrant."""
    random = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 3, 5, 7, generator=random)
    same = (torch.rand(2, 5, 7, generator=random) < 0.4).float()
    return scores, same, torch.full((2, 5, 7), 0.4)
