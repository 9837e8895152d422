"""Checks of the exercises about attention and its modulation (notebooks 02 and 03).

A checked function is tried on small random scores, and its answer is compared with the right one
and with those of the usual mistakes, so that each of them is told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import described, expect, passed

HEADS, IMAGE, TEXT = 2, 6, 4
N = IMAGE + TEXT


def check_prediction(predicted: Any, choices: Sequence[str], measured: str, why: str) -> None:
    """Whether a prediction was made, and what was measured came of it. Exercise of notebook 02,
    and of 03."""
    known = ", ".join(repr(choice) for choice in choices)
    expect(predicted is not None, f"predict first: choose one of {known}.")
    expect(predicted in choices, f"{predicted!r} is none of the choices: {known}.")
    expect(
        predicted == measured,
        f"you expected {predicted!r}, and measured was {measured!r}. {why}",
    )
    passed(f"measured was {measured!r}, as you expected. {why}")


def check_phrase_map(phrase_map: Any) -> None:
    """Whether `phrase_map(weights, words, image)` is where a phrase looks at the picture.

    weights `[H, N, N]`, words the phrase's places among the N tokens, image the count of image
    tokens; gives `[image]`: a word's attention to each image token, mean over words and heads.
    Exercise of notebook 02.
    """
    weights = _scores(0)[0].softmax(dim=-1)
    words = torch.tensor([IMAGE + 1, IMAGE + 3])
    found = phrase_map(weights, words, IMAGE)
    right = weights[:, words, :IMAGE].mean(dim=(0, 1))
    expect(
        torch.is_tensor(found) and found.shape == right.shape,
        f"this gives {described(found)}, not one number for each of the {IMAGE} image tokens: the "
        "words are queries, so average over them, and over the heads.",
    )
    from_image = weights[:, :IMAGE, words]
    expect(
        not (_near(found, from_image.mean(dim=(0, 2))) or _near(found, from_image.sum(2).mean(0))),
        "this is how the picture looks at the words (image -> text): queries are rows, keys are "
        "columns, and here the words ask.",
    )
    expect(
        not _near(found, weights[:, words - IMAGE, :IMAGE].mean(dim=(0, 1))),
        "these are other tokens' rows: `words` are places in the joint sequence already, image "
        "first, so do not subtract the image tokens.",
    )
    expect(
        not _near(found, 2 * right, 4 * right),
        "this is a sum over words, or over heads, not their mean: a longer phrase would always "
        "look stronger.",
    )
    expect(
        not _near(found, right / right.sum()),
        "this was made to sum to 1: leave it, for what is missing went to the text, and that is "
        "worth knowing.",
    )
    expect(_near(found, right), "these are not the mean weights of the phrase's rows.")
    passed("rows of the phrase, columns of the picture, mean over words and heads.")


def check_text_mass(text_mass: Any) -> None:
    """Whether `text_mass(scores, image)` is the share of image tokens' attention that text gets.

    scores `[H, N, N]`, image the count of image tokens; gives one number. Exercise of notebook 02.
    """
    scores = _scores(1)[0]
    weights = scores.softmax(dim=-1)
    found = text_mass(scores, IMAGE)
    expect(
        isinstance(found, float) or (torch.is_tensor(found) and found.numel() == 1),
        f"this gives {described(found)}, not one number: sum over the text's keys, then take the "
        "mean over heads and queries.",
    )
    found = torch.as_tensor(found, dtype=torch.float32).reshape(())
    expect(
        not _near(found, weights[:, TEXT:, :TEXT].sum(-1).mean()),
        "this takes the first tokens for text, as other models have it: here image tokens come "
        "first.",
    )
    expect(
        not _near(found, weights[:, :IMAGE, :IMAGE].sum(-1).mean()),
        "this is what the image's own keys get: 1 minus what is asked for.",
    )
    expect(
        not _near(found, torch.tensor(1.0)),
        "this is 1: over the text's scores alone a softmax sums to 1. Take it over the whole row, "
        "and cut afterwards.",
    )
    expect(
        not _near(found, scores.softmax(dim=-2)[:, :IMAGE, IMAGE:].sum(-1).mean()),
        "this softmax runs over the queries: each row, not each column, has to sum to 1 (dim=-1).",
    )
    expect(
        not _near(found, weights[..., IMAGE:].sum(-1).mean()),
        "this counts text queries too: only the rows of the image ask here.",
    )
    expect(_near(found, weights[:, :IMAGE, IMAGE:].sum(-1).mean()), "this is another share.")
    passed("softmax over the whole row, image rows, text columns.")


def check_own_words_only(biased: Any) -> None:
    """Whether `biased(scores, same, strength)` raises pairs of one region, and leaves all others.

    scores `[B, H, Q, K]`, same and strength `[B, Q, K]`, as for `fixed_bias`. Exercise of notebook
    03.
    """
    scores, strength = _scores(2), torch.full((1, N, N), 3.0)
    same = (torch.rand(1, N, N, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    before = scores.clone()
    found = biased(scores, same, strength)
    expect(
        torch.is_tensor(found) and found.shape == scores.shape,
        f"this gives {described(found)}, not scores of the shape that came in: `same` and "
        "`strength` have no axis of heads, give them one with [:, None].",
    )
    expect(
        torch.equal(scores, before),
        "the scores that came in were changed: return new ones (`scores + ...`, not `+=`).",
    )
    up = (strength * same)[:, None]
    down = (strength * (1 - same))[:, None]
    expect(
        not _near(found, scores + up - down),
        "other pairs still get less: this is `fixed_bias` itself. Only the first half is asked.",
    )
    expect(
        not _near(found, scores - down),
        "this is the other half: it lowers pairs of different regions, and leaves the region's own "
        "words where they were.",
    )
    expect(
        not _near(found, scores + up.transpose(-1, -2)),
        "queries and keys are exchanged: `same` is [B, Q, K], leave it that way round.",
    )
    expect(
        not _near(found, scores + same[:, None]),
        "the strength is missing: this adds one logit whatever it says.",
    )
    expect(
        not _near(found, scores * (1 + up)),
        "this multiplies: a negative score would fall. Add the logits.",
    )
    expect(_near(found, scores + up), "the scores are not `scores + strength` where `same` is 1.")
    passed("the region's own words gain, and nothing else is touched.")


def check_attends(attends: Any) -> None:
    """Whether `attends(scores, bias)` turns scores into weights, biased in the positive row alone.

    scores `[2, H, N, N]` of a guided batch, negative prompt first; bias `[N, N]`; gives weights.
    Exercise of notebook 03.
    """
    scores = torch.cat([_scores(4), _scores(5)])
    bias = torch.randn(N, N, generator=torch.Generator().manual_seed(6))
    before = scores.clone()
    found = attends(scores, bias)
    expect(
        torch.is_tensor(found) and found.shape == scores.shape,
        f"this gives {described(found)}, not weights of the shape that came in.",
    )
    expect(
        torch.equal(scores, before),
        "the scores that came in were changed: work on a copy (`scores.clone()`).",
    )
    sums = found.sum(dim=-1)
    expect(
        _near(sums, torch.ones_like(sums)),
        f"a row sums to {sums.flatten()[(sums - 1).abs().argmax()]:.2f}, not to 1: add the bias "
        "before the softmax, not after it.",
    )

    def given(negative: Tensor, positive: Tensor) -> Tensor:
        return torch.stack([scores[0] + negative, scores[1] + positive]).softmax(dim=-1)

    none = torch.zeros_like(bias)
    expect(
        not _near(found, given(bias, bias)),
        "both halves of the batch are biased: row 0 is the negative prompt, which knows nothing of "
        "the regions.",
    )
    expect(
        not _near(found, given(bias, none)),
        "the wrong half is biased: the negative prompt comes first, so the caption is row 1.",
    )
    expect(
        not _near(found, given(none, bias.T)),
        "the bias is transposed: its rows are queries, as those of the scores are.",
    )
    expect(not _near(found, given(none, none)), "no row is biased: the layout does nothing.")
    expect(_near(found, given(none, bias)), "these are other weights than softmax(scores + bias).")
    passed("before the softmax, and in the caption's row alone.")


def _scores(seed: int) -> Tensor:
    """Random scores `[1, H, N, N]`."""
    return 2 * torch.randn(1, HEADS, N, N, generator=torch.Generator().manual_seed(seed))


def _near(found: Tensor, *wanted: Tensor) -> bool:
    return any(torch.allclose(found.float(), each.float(), atol=1e-5) for each in wanted)
