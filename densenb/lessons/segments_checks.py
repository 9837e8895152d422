"""Checks of the exercises of notebook 06."""

from __future__ import annotations

from typing import Any

import torch

from densenb.layout.layout import LATENT_PIXELS, TOKEN_PIXELS
from densenb.lessons.checking import described, expect, passed
from densenb.sd3.prompts import substitute


def check_token_count(guess: Any, side: int = 40) -> None:
    """Whether `guess` is how many image tokens a square of side x side pixels gets.

    It has a corner in a corner of the picture; a token is in when half of it is covered. Exercise
    of notebook 06.
    """
    number = isinstance(guess, (int, float)) and not isinstance(guess, bool)
    expect(number, f"this is {described(guess)}, not a number: write your prediction.")
    axis = [min(1.0, max(0.0, side / TOKEN_PIXELS - i)) for i in range(-(-side // TOKEN_PIXELS))]
    right = sum(row * column >= 0.5 for row in axis for column in axis)
    expect(guess != side**2, "those are pixels: a token is 16 x 16 of them.")
    expect(guess != (side / LATENT_PIXELS) ** 2, "those are latents: a token is 2 x 2 of them.")
    expect(
        guess != (side / TOKEN_PIXELS) ** 2,
        "that is its area in tokens, but a token is in or out: there are no quarters.",
    )
    expect(
        guess != (side // TOKEN_PIXELS) ** 2,
        "you counted tokens that are covered all over: half of one is enough.",
    )
    expect(
        guess != len(axis) ** 2,
        "you counted every token that it touches: of the one in the corner it covers a quarter.",
    )
    expect(guess == right, "go token by token: which share of it lies in the square?")
    passed(f"{right} tokens: all whole ones, and those of which half is covered.")


def check_soft_masks(soft: Any) -> None:
    """Whether `soft(covered)` lets regions that overlap share a token: `[R, h, w]` to the same.

    A token's shares sum to at most 1, and stay as they are where they already do. Exercise of
    notebook 06.
    """
    covered = torch.tensor(
        [[[1.0, 0.5, 0.25, 0.0]], [[1.0, 0.25, 0.0, 0.0]], [[0.0, 0.75, 0.0, 0.0]]]
    )
    before = covered.clone()
    found = soft(covered)
    expect(
        torch.equal(covered, before), "the masks that you were given have changed: return new ones."
    )
    expect(
        torch.is_tensor(found) and found.shape == covered.shape,
        f"this gives {described(found)}, not masks of the shape that you were given.",
    )
    expect(found.isfinite().all(), "a token that nobody covers became NaN: you divide by 0 there.")
    expect(
        not torch.allclose(found, covered),
        "the first token has 1 of two regions, 2 in all: overlapping regions have to share it.",
    )
    expect(
        found[0, 0, 3] == 0,
        "a token that no region covers got a share: a softmax gives something to all.",
    )
    expect(
        torch.allclose(found[:, 0, 2], covered[:, 0, 2]),
        "a token of which one region covers a quarter is no longer a quarter that region's: divide "
        "only where the sum is above 1.",
    )
    expect(
        found.sum(dim=0).max() <= 1 + 1e-5,
        f"a token's shares sum to {found.sum(dim=0).max():.2f}: there is one token to share.",
    )
    expect(
        torch.allclose(found, covered / covered.sum(dim=0).clamp(min=1)),
        "divide a token's shares by their sum, where that is above 1: each keeps its proportion.",
    )
    passed("overlapping regions share a token, and a lone region keeps what it covers.")


def check_substitute(put: Any) -> None:
    """Whether `put(caption, phrase, to, source)` puts a phrase's tokens where the phrase stands.

    Shapes as for `tokens.substitute`. Exercise of notebook 06.
    """
    random = torch.Generator().manual_seed(0)
    caption, phrase = torch.randn(2, 8, 3, generator=random)
    before = caption.clone()
    to, source = (4, 5), (1, 2)
    found = put(caption, phrase, to, source)
    expect(torch.equal(caption, before), "the caption's tokens have changed: work on a clone.")
    expect(
        torch.is_tensor(found) and found.shape == caption.shape,
        f"this gives {described(found)}, not tokens [L, D] like the caption's.",
    )
    here = found[list(to)]
    expect(not torch.equal(found, caption), "nothing was put in: these are the caption's tokens.")
    expect(
        not torch.equal(here, phrase[: len(to)]),
        "the first token put in is BOS: in CLIP a phrase that stands alone starts at 1, as "
        "`source` says.",
    )
    expect(
        not torch.equal(here, phrase[list(to)]),
        "you read the phrase where it stands in the caption: alone it stands at `source`.",
    )
    expect(
        torch.equal(here, phrase[list(source)]),
        "the tokens at `to` are not those that the phrase has at `source`.",
    )
    others = [i for i in range(len(caption)) if i not in to]
    expect(
        torch.equal(found[others], caption[others]),
        "other words changed, too: replace the tokens at `to` and no others.",
    )
    try:
        cut = put(caption, phrase, to[:1], source)
    except (RuntimeError, IndexError, ValueError):
        cut = None
    expect(
        cut is not None and torch.equal(cut, substitute(caption, phrase, to[:1], source)),
        "a phrase that is cut off in the caption has fewer places than tokens: put in the first.",
    )
    passed("the phrase's own tokens stand in the caption, and all other words are as they were.")
