"""The checks of the exercises in notebook 06."""

from __future__ import annotations

import math
from typing import Any

import torch

from densenb.layout.layout import LATENT_PIXELS, TOKEN_PIXELS
from densenb.lessons.checking import diagnose, exercise, expect, expect_form, expect_numbers, near
from densenb.sd3.prompts import substitute


@exercise("06")
def check_token_count(guess: Any, side: int = 40) -> str:
    """Check that `guess` is how many image tokens a square of side x side pixels gets.

    It has a corner in a corner of the picture; a token is in when half of it is covered.
    """
    expect_numbers(guess)
    tokens = side / TOKEN_PIXELS
    axis = [min(1.0, max(0.0, tokens - i)) for i in range(math.ceil(tokens))]
    right = sum(row * column >= 0.5 for row in axis for column in axis)
    mistakes = {
        "those are pixels: a token is 16 x 16 of them.": side**2,
        "those are latents: a token is 2 x 2 of them.": (side / LATENT_PIXELS) ** 2,
        "that is its area in tokens, but a token is in or out: there are no quarters.": tokens**2,
        "you counted tokens that are covered all over: half of one is enough.": int(tokens) ** 2,
        "you counted every token that it touches: of the one in the corner it covers a quarter.": (
            len(axis) ** 2
        ),
    }
    diagnose(guess, mistakes, right, "go token by token: which share of it lies in the square?")
    return f"{right} tokens: all whole ones, and those of which half is covered."


@exercise("06")
def check_soft_masks(soft: Any) -> str:
    """Check that `soft(covered)` lets regions that overlap share a token: `[R, h, w]` to the same.

    A token's shares sum to at most 1, and stay as they are where they already do.
    """
    rows = [[1.0, 0.5, 0.25, 0.0], [1.0, 0.25, 0.0, 0.0], [0.0, 0.75, 0.0, 0.0]]
    covered = torch.tensor(rows)[:, None]  # (R, h, w)
    before = covered.clone()
    found = soft(covered)
    kept = torch.equal(covered, before)
    expect(kept, "the masks that you were given have changed: return new ones.")
    expect_form(found, covered.shape, "masks of the shape that you were given.")
    most, lonely = found.sum(dim=0).max(), found[0, 0, 3]  # lonely: no region covers it
    mistakes = {
        "a token that nobody covers became NaN: you divide by 0 there.": ~found.isfinite().all(),
        "the first token has 1 of two regions, 2 in all: overlapping regions have to share it.": (
            covered
        ),
        "a token that no region covers got a share: a softmax gives something to all.": lonely != 0,
        "a token of which one region covers a quarter is no longer a quarter that region's: divide "
        "only where the sum is above 1.": not near(found[:, 0, 2], covered[:, 0, 2]),
        f"a token's shares sum to {most:.2f}: there is one token to share.": most > 1 + 1e-5,
    }
    right = covered / covered.sum(dim=0).clamp(min=1)
    otherwise = (
        "divide a token's shares by their sum, where that is above 1: each keeps its proportion."
    )
    diagnose(found, mistakes, right, otherwise)
    return "overlapping regions share a token, and a lone region keeps what it covers."


@exercise("06")
def check_substitute(put: Any) -> str:
    """Check that `put(caption, phrase, to, source)` puts a phrase's tokens where the phrase stands.

    Shapes as for `sd3.prompts.substitute`.
    """
    random = torch.Generator().manual_seed(0)
    caption, phrase = torch.randn(2, 8, 3, generator=random)
    before = caption.clone()
    to, source = (4, 5), (1, 2)
    found = put(caption, phrase, to, source)
    expect(torch.equal(caption, before), "the caption's tokens have changed: work on a clone.")
    expect_form(found, caption.shape, "tokens [L, D] like the caption's.")
    here, stands = found[list(to)], near(found[list(to)], phrase[list(to)])
    others = not near(here, phrase[list(source)])
    mistakes = {
        "nothing was put in: these are the caption's tokens.": caption,
        "the first token put in is BOS: in CLIP a phrase that stands alone starts at 1, as "
        "`source` says.": near(here, phrase[: len(to)]),
        "you read the phrase where it stands in the caption: alone it stands at `source`.": stands,
        "the tokens at `to` are not those that the phrase has at `source`.": others,
    }
    right = substitute(caption, phrase, to, source)
    otherwise = "other words changed, too: replace the tokens at `to` and no others."
    diagnose(found, mistakes, right, otherwise)
    try:
        cut = put(caption, phrase, to[:1], source)
    except (RuntimeError, IndexError, ValueError):
        cut = None
    expect(
        cut is not None and torch.equal(cut, substitute(caption, phrase, to[:1], source)),
        "a phrase that is cut off in the caption has fewer places than tokens: put in the first.",
    )
    return "the phrase's own tokens stand in the caption, and all other words are as they were."
