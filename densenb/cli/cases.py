"""The prompts of the demo and the gallery: layouts whose phrases name objects the oracle knows."""

from __future__ import annotations

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import Mask, box, ellipse


def _layout(caption: str, masks: dict[str, Mask], background: str | None = None) -> Layout:
    return Layout(caption, [Region(*each) for each in masks.items()], background)


CASES: dict[str, Layout] = {
    "cat-umbrella": _layout(
        "cat with red umbrella",
        {"cat": box(0.06, 0.42, 0.50, 0.96), "red umbrella": ellipse(0.70, 0.30, 0.26, 0.25)},
    ),
    "squid-rose-garden": _layout(
        "A magnificent squid, shimmering in shades of deep indigo and vibrant teal, glides "
        "gracefully through an enchanting rose garden where blossoms of crimson, blush, and "
        "gold radiate under the soft, dappled sunlight",
        {
            "A magnificent squid, shimmering in shades of deep indigo and vibrant teal": ellipse(
                0.36, 0.52, 0.30, 0.36
            )
        },
        "an enchanting rose garden",
    ),
    "left-right": _layout(
        "a blue cat and an orange umbrella in a rose garden",
        {
            "a blue cat": box(0.05, 0.35, 0.50, 0.95),
            "an orange umbrella": ellipse(0.72, 0.40, 0.22, 0.30),
        },
        "a rose garden",
    ),
    "three-objects": _layout(
        "a green frog, a purple octopus and a red fish on a beach",
        {
            "a green frog": box(0.04, 0.54, 0.44, 0.96),
            "a purple octopus": ellipse(0.30, 0.25, 0.22, 0.21),
            "a red fish": box(0.54, 0.40, 0.97, 0.80),
        },
    ),
    "against-the-caption": _layout(
        "a gray dog on the left and an orange cat on the right in a meadow",
        {
            "a gray dog": box(0.53, 0.38, 0.96, 0.94),
            "an orange cat": box(0.05, 0.38, 0.48, 0.94),
        },
    ),
}
"""Name -> layout. The first two are the prompts of the first report."""
