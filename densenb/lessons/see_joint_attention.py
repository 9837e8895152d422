"""The checks of the exercises in notebook 02.

A function is tried on small random scores. Its answer is compared with those of the usual mistakes,
so that each of them gets its own advice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from densenb.lessons.checking import diagnose, exercise, expect, expect_form

HEADS, IMAGE, TEXT = 2, 6, 4
N = IMAGE + TEXT


@exercise("02", "03")
def check_prediction(predicted: Any, choices: Sequence[str], measured: str, why: str) -> str:
    """Check that a prediction was made, and that it agrees with the measurement."""
    known = ", ".join(repr(choice) for choice in choices)
    expect(predicted is not None, f"predict first: choose one of {known}.")
    expect(predicted in choices, f"{predicted!r} is none of the choices: {known}.")
    expect(
        predicted == measured, f"you expected {predicted!r}, and measured was {measured!r}. {why}"
    )
    return f"measured was {measured!r}, as you expected. {why}"


@exercise("02")
def check_phrase_map(phrase_map: Any) -> str:
    """Check that `phrase_map(weights, words, image)` is where a phrase looks in the image.

    weights `[H, N, N]`, words the phrase's places among the N tokens, image the count of image
    tokens; gives `[image]`: a word's attention to each image token, mean over words and heads.
    """
    weights = random_scores(0)[0].softmax(dim=-1)  # (H, N, N)
    words = torch.tensor([IMAGE + 1, IMAGE + 3])
    found = phrase_map(weights, words, IMAGE)
    right = weights[:, words, :IMAGE].mean(dim=(0, 1))
    wanted = f"one number for each of the {IMAGE} image tokens: the words are queries, so average"
    expect_form(found, right.shape, f"{wanted} over them, and over the heads.")
    from_image = weights[:, :IMAGE, words]
    mistakes = {
        "this is how the picture looks at the words (image -> text): queries are rows, keys are "
        "columns, and here the words ask.": [
            from_image.mean(dim=(0, 2)),
            from_image.sum(2).mean(0),
        ],
        "these are other tokens' rows: `words` are places in the joint sequence already, image "
        "first, so do not subtract the image tokens.": (
            weights[:, words - IMAGE, :IMAGE].mean(dim=(0, 1))
        ),
        "this is a sum over words, or over heads, not their mean: a longer phrase would always "
        "look stronger.": [2 * right, 4 * right],
        "this was made to sum to 1: leave the sum as it is. What is missing went to the text, and "
        "that is worth knowing.": right / right.sum(),
    }
    diagnose(found, mistakes, right, "these are not the mean weights of the phrase's rows.")
    return "rows of the phrase, columns of the picture, mean over words and heads."


@exercise("02")
def check_text_mass(text_mass: Any) -> str:
    """Check that `text_mass(scores, image)` is the share of the image's attention that text gets.

    scores `[H, N, N]`, image the count of image tokens; gives one number.
    """
    scores = random_scores(1)[0]  # (H, N, N)
    weights = scores.softmax(dim=-1)
    found = text_mass(scores, IMAGE)
    one = isinstance(found, float) or (torch.is_tensor(found) and found.numel() == 1)
    wanted = "one number: sum over the text's keys, then take the mean over heads and queries."
    expect_form(found, one, wanted)

    def mass(weights: Tensor) -> Tensor:
        return weights.sum(dim=-1).mean()

    own = mass(weights[:, :IMAGE, :IMAGE])
    mistakes = {
        "this takes the first tokens for text, as other models have it: here image tokens come "
        "first.": mass(weights[:, TEXT:, :TEXT]),
        "this is what the image's own keys get: 1 minus what is asked for.": own,
        "this is 1: over the text's scores alone a softmax sums to 1. Take it over the whole row, "
        "and cut afterwards.": 1.0,
        "this softmax runs over the queries: each row, not each column, has to sum to 1 "
        "(dim=-1).": mass(scores.softmax(dim=-2)[:, :IMAGE, IMAGE:]),
        "this counts text queries too: only the rows of the image ask here.": mass(
            weights[..., IMAGE:]
        ),
    }
    diagnose(found, mistakes, mass(weights[:, :IMAGE, IMAGE:]), "this is another share.")
    return "softmax over the whole row, image rows, text columns."


def random_scores(seed: int) -> Tensor:
    """Random scores `[1, H, N, N]`."""
    return 2 * torch.randn(1, HEADS, N, N, generator=torch.Generator().manual_seed(seed))
