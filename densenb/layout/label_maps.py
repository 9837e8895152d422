"""Regions from a painted label map: one color for each phrase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import ImageColor

from densenb.layout.layout import Region
from densenb.layout.mask_files import read_picture


def regions_from_label_map(
    picture: str | Path | np.ndarray, phrases: Mapping[str, str], tolerance: int = 16
) -> list[Region]:
    """Make one region for each color of a painted map.

    Args:
        picture: The map: a file, or uint8 `[height, width, 3]`.
        phrases: The phrase for each color, e.g. `{"#ff8800": "a blue cat"}`.
        tolerance: A pixel belongs to the nearest color if no channel differs by more than this (of
            255), and to no region otherwise. Painting programs blur edges.

    Returns:
        The regions, in the order of `phrases`.

    Raises:
        ValueError: For a map of another shape, no colors, or a color without a pixel.
    """
    if isinstance(picture, (str, Path)):
        picture = (read_picture(picture)[..., :3] * 255).round()
    labels = np.asarray(picture)
    if labels.ndim != 3 or labels.shape[-1] not in (3, 4):
        raise ValueError(
            f"label map has shape {list(labels.shape)}: give [height, width, 3], 0 to 255."
        )
    if not phrases:
        raise ValueError('label map has no colors: give {"#rrggbb": "phrase", ...}.')
    colours = np.array([ImageColor.getrgb(colour)[:3] for colour in phrases])  # (R, 3)
    distance = np.stack(  # (R, H, W)
        [np.abs(labels[..., :3] - rgb.astype(float)).max(-1) for rgb in colours]
    )
    nearest = np.where(distance.min(axis=0) <= tolerance, distance.argmin(axis=0), -1)
    for i, colour in enumerate(phrases):
        if not (nearest == i).any():
            counts = Counter(map(tuple, labels[..., :3].reshape(-1, 3).astype(int).tolist()))
            common = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb, _ in counts.most_common(6)]
            raise ValueError(
                f"no pixel of the label map is {colour}: use its colors, e.g. {', '.join(common)}."
            )
    return [Region(phrase, nearest == i) for i, phrase in enumerate(phrases.values())]
