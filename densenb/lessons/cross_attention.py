"""The checks of the exercises in notebook 03 (its prediction is checked as that of notebook 02)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import diagnose, exercise, expect, expect_form, near
from densenb.lessons.see_joint_attention import N, random_scores


@exercise("03")
def check_own_words_only(biased: Any) -> str:
    """Check that `biased(scores, same, strength)` raises pairs of one region, and no others.

    scores `[B, H, Q, K]`, same and strength `[B, Q, K]`, as for `fixed_bias`.
    """
    scores, strength = random_scores(2), torch.full((1, N, N), 3.0)
    same = (torch.rand(1, N, N, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    before = scores.clone()
    found = biased(scores, same, strength)
    wanted = "scores of the shape that came in: `same` and `strength` have no axis of heads, give"
    expect_form(found, scores.shape, f"{wanted} them one with [:, None].")
    expect(
        torch.equal(scores, before),
        "the scores that came in were changed: return new ones (`scores + ...`, not `+=`).",
    )
    up = (strength * same)[:, None]  # (B, 1, Q, K)
    down = (strength * (1 - same))[:, None]
    turned = scores + up.mT
    mistakes = {
        "other pairs still get less: this is `fixed_bias` itself. Only the first half is asked.": (
            scores + up - down
        ),
        "this is the other half: it lowers pairs of different regions, and leaves the region's own "
        "words where they were.": scores - down,
        "queries and keys are exchanged: `same` is [B, Q, K], leave it that way round.": turned,
        "the strength is missing: this adds one logit whatever it says.": scores + same[:, None],
        "this multiplies: a negative score would fall. Add the logits.": scores * (1 + up),
    }
    otherwise = "the scores are not `scores + strength` where `same` is 1."
    diagnose(found, mistakes, scores + up, otherwise)
    return "the region's own words gain, and nothing else is touched."


@exercise("03")
def check_attends(attends: Any) -> str:
    """Check that `attends(scores, bias)` turns scores into weights, biased in the positive row.

    scores `[2, H, N, N]` of a guided batch, negative prompt first; bias `[N, N]`; gives weights.
    """
    scores = torch.cat([random_scores(4), random_scores(5)])
    bias = torch.randn(N, N, generator=torch.Generator().manual_seed(6))
    before = scores.clone()
    found = attends(scores, bias)
    expect_form(found, scores.shape, "weights of the shape that came in.")
    expect(
        torch.equal(scores, before),
        "the scores that came in were changed: work on a copy (`scores.clone()`).",
    )
    sums = found.sum(dim=-1)
    worst = sums.flatten()[(sums - 1).abs().argmax()]
    none = torch.zeros_like(bias)

    def given(negative: Tensor, positive: Tensor) -> Tensor:
        return torch.stack([scores[0] + negative, scores[1] + positive]).softmax(dim=-1)

    mistakes = {
        f"a row sums to {worst:.2f}, not to 1: add the bias before the softmax, not after it.": (
            not near(sums, 1.0)
        ),
        "both halves of the batch are biased: row 0 is the negative prompt, which knows nothing of "
        "the regions.": given(bias, bias),
        "the wrong half is biased: the negative prompt comes first, so the caption is row 1.": (
            given(bias, none)
        ),
        "the bias is transposed: its rows are queries, as those of the scores are.": (
            given(none, bias.T)
        ),
        "no row is biased: the layout does nothing.": given(none, none),
    }
    otherwise = "these are other weights than softmax(scores + bias)."
    diagnose(found, mistakes, given(none, bias), otherwise)
    return "before the softmax, and in the caption's row alone."
