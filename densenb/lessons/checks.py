"""Checks of the exercises: each prints "ok: ..." or raises `CheckFailed` with what to try next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.layout.masks import Mask
from densenb.lessons.attention_checks import (
    check_attends,
    check_own_words_only,
    check_phrase_map,
    check_prediction,
    check_text_mass,
)
from densenb.lessons.checking import CheckFailed, described, expect, passed
from densenb.lessons.hand_in import report
from densenb.lessons.measure_checks import check_kendall_tau, check_mean_iou, check_paired_interval
from densenb.lessons.scaling_checks import (
    check_moved_scores,
    check_own_share,
    check_push_only,
    check_region_bias,
    check_same_pixels,
    check_value_range,
)
from densenb.lessons.segments_checks import check_soft_masks, check_substitute, check_token_count
from densenb.lessons.transfer_checks import (
    check_masked_row,
    check_renormalised,
    check_scaled_scores,
)

__all__ = [
    "CheckFailed", "check_attends", "check_four_bits", "check_guidance", "check_kendall_tau",
    "check_layout_moved", "check_masked_row", "check_mean_iou", "check_moved_scores",
    "check_own_share", "check_own_words_only", "check_paired_interval", "check_phrase_map",
    "check_prediction", "check_push_only", "check_region_bias", "check_renormalised",
    "check_same_pixels", "check_scaled_scores", "check_soft_masks", "check_substitute",
    "check_text_mass", "check_token_count", "check_value_range", "report",
]  # fmt: skip

SIDE = 256  # pixels on which masks are compared
MOST = 0.9  # share of a region that counts as "in" a place
SMALLEST = 0.5  # of its former area, for a region that was to be moved


def check_layout_moved(before: Layout, after: Any, phrase: str, place: Mask) -> None:
    """Whether `after` is `before` with the region of `phrase`, and nothing else, moved to `place`.

    Most of the region (90 %) has to lie in the place, and at least half of its area has to be left.
    Masks count by the pixels they cover, so a painted box is as good as `box(...)`. Exercise of
    notebook 00.
    """
    expect(
        isinstance(after, Layout),
        f"this is a {type(after).__name__}, not a layout: write dnb.Layout(caption, [regions]).",
    )
    expect(
        after.caption == before.caption,
        f"the caption is now {after.caption!r}: keep {before.caption!r}, or nobody can say whether "
        "the words or the region moved the object.",
    )
    wanted, given = (sorted(layout.phrases) for layout in (before, after))
    expect(
        given == wanted,
        f"the phrases are now {listed(given)}: keep {listed(wanted)}, each with one region.",
    )
    old, new = by_phrase(before), by_phrase(after)
    others = [name for name in old if name != phrase and not torch.equal(old[name], new[name])]
    here = torch.equal(old[phrase], new[phrase])
    expect(
        not (here and others),
        f'you moved {listed(others)}: put it back, and move "{phrase}" instead.',
    )
    expect(
        not here,
        f'"{phrase}" is still where it was: give its region a new mask, such as '
        "dnb.box(x0, y0, x1, y1).",
    )
    expect(
        not others,
        f'"{phrase}" moved, but so did {listed(others)}: move one thing at a time.',
    )
    target = place.raster(SIDE, SIDE)
    inside = (new[phrase] * target).sum() / new[phrase].sum()
    expect(
        inside >= MOST,
        f'only {int(100 * inside)}% of the region of "{phrase}" lies in the place asked for, not '
        f"{MOST:.0%}: x runs to the right, y runs DOWN from 0 at the top.",
    )
    left = new[phrase].sum() / old[phrase].sum()
    expect(
        left >= SMALLEST,
        f'the region of "{phrase}" has shrunk to {int(100 * left)}% of its area: an object needs '
        f"room, keep at least {SMALLEST:.0%}.",
    )
    passed(f'"{phrase}" has moved, and everything else stayed.')


def check_guidance(guided: Any) -> None:
    """Whether `guided(negative, positive, scale)` is classifier-free guidance. Exercise of notebook
    01."""
    random = torch.Generator().manual_seed(0)
    negative, positive = torch.randn(2, 1, 4, 3, 3, generator=random)
    found = guided(negative, positive, 4.0)
    expect(
        torch.is_tensor(found) and found.shape == negative.shape,
        f"this gives {described(found)}, not a tensor of the shape of its arguments: return one "
        "velocity, as large as either of the two.",
    )
    right = negative + 4.0 * (positive - negative)
    expect(
        not torch.allclose(found, positive + 4.0 * (positive - negative), atol=1e-5),
        "you start from the positive prediction: start from the negative one, so that scale 1 "
        "leaves the positive one as it is.",
    )
    expect(
        not torch.allclose(found, positive + 4.0 * (negative - positive), atol=1e-5),
        "negative and positive are exchanged: this walks away from the caption.",
    )
    expect(
        torch.allclose(guided(negative, positive, 1.0), positive, atol=1e-5),
        "at scale 1 the result has to be the positive prediction, and it is not.",
    )
    expect(
        torch.allclose(found, right, atol=1e-5),
        "at scale 4 the result has to lie on the line from negative through positive, four times "
        "as far from negative as positive does.",
    )
    passed("scale 0 ignores the caption, 1 follows it, and more exaggerates what it changes.")


def check_four_bits(gib: Any) -> None:
    """Whether `gib(n)` is what n weights take in NF4, in GiB. Exercise of notebook 01."""
    weights = 64 * 2**30
    found, right = gib(weights), weights * (4 / 8 + 4 / 64) / 2**30
    expect(
        isinstance(found, (int, float)),
        f"this gives {described(found)}, not a number: return GiB.",
    )

    def near(value: float) -> bool:
        return abs(found - value) < 1e-3 * value

    expect(not near(weights / 2 / 2**30), "the scales are missing: one float32 for 64 weights.")
    expect(not near(right * 2**30 / 1e9), "these are GB, 10^9 bytes: a GiB has 2^30.")
    expect(not near(right * 2**30), "these are bytes: divide by 2^30.")
    expect(not near(8 * right), "these are bits: eight of them are a byte.")
    expect(
        near(right),
        f"for {weights} weights this gives {found:g} GiB, not {right:g}: half a byte for each "
        "weight, and four bytes for every 64 of them.",
    )
    passed("half a byte and a bit more for each weight.")


def by_phrase(layout: Layout) -> dict[str, Tensor]:
    """Each phrase and the pixels of its region, float `[SIDE, SIDE]`."""
    masks = layout.pixel_masks(SIDE, SIDE)
    return {region.phrase: mask for region, mask in zip(layout.regions, masks, strict=True)}


def listed(phrases: list[str]) -> str:
    """The phrases in quotes, with commas."""
    return ", ".join(f'"{phrase}"' for phrase in phrases)
