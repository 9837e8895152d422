"""The check of the exercise in notebook 00."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.layout.masks import Mask
from densenb.lessons.checking import exercise, expect

SIDE = 256  # pixels on which masks are compared
MOST = 0.9  # share of a region that counts as "in" a place
SMALLEST = 0.5  # of its former area, for a region that was to be moved


@exercise("00")
def check_layout_moved(before: Layout, after: Any, phrase: str, place: Mask) -> str:
    """Check that `after` is `before` with only the region of `phrase` moved to `place`.

    Most of the region (90 %) has to lie in the place, and at least half of its area has to be left.
    Masks count by the pixels they cover, so a painted box is as good as `box(...)`.
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
        f"the phrases are now {_listed(given)}: keep {_listed(wanted)}, each with one region.",
    )
    old, new = _pixels(before), _pixels(after)
    here = torch.equal(old[phrase], new[phrase])
    others = [name for name in old if name != phrase and not torch.equal(old[name], new[name])]
    expect(
        not (here and others),
        f'you moved {_listed(others)}: put it back, and move "{phrase}" instead.',
    )
    expect(
        not here,
        f'"{phrase}" is still where it was: give its region a new mask, such as '
        "dnb.box(x0, y0, x1, y1).",
    )
    expect(not others, f'"{phrase}" moved, but so did {_listed(others)}: move one thing at a time.')
    inside = (new[phrase] * place.raster(SIDE, SIDE)).sum() / new[phrase].sum()
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
    return f'"{phrase}" has moved, and everything else stayed.'


def _pixels(layout: Layout) -> dict[str, Tensor]:
    """Each phrase and the pixels of its region, float `[SIDE, SIDE]`."""
    masks = layout.pixel_masks(SIDE, SIDE)
    return {region.phrase: mask for region, mask in zip(layout.regions, masks, strict=True)}


def _listed(phrases: list[str]) -> str:
    return ", ".join(f'"{phrase}"' for phrase in phrases)
