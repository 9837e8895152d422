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
    """One region per colour of a painted map (a file, or uint8 `[height, width, 3]`).

    `phrases` maps colours such as "#ff8800" to phrases. A pixel goes to the nearest of them when no
    channel is off by more than `tolerance` of 255 (painting programs blur edges), else to none.
    """
    if isinstance(picture, (str, Path)):
        picture = (read_picture(picture)[..., :3] * 255).round()
    labels = np.asarray(picture)
    if labels.ndim != 3 or labels.shape[-1] not in (3, 4):
        raise ValueError(
            f"label map has shape {list(labels.shape)}: give [height, width, 3], 0 to 255."
        )
    if not phrases:
        raise ValueError('label map has no colours: give {"#rrggbb": "phrase", ...}.')
    colours = np.array([ImageColor.getrgb(colour)[:3] for colour in phrases])
    distance = np.stack([np.abs(labels[..., :3] - rgb.astype(float)).max(-1) for rgb in colours])
    nearest = np.where(distance.min(axis=0) <= tolerance, distance.argmin(axis=0), -1)
    for i, colour in enumerate(phrases):
        if not (nearest == i).any():
            counts = Counter(map(tuple, labels[..., :3].reshape(-1, 3).astype(int).tolist()))
            common = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb, _ in counts.most_common(6)]
            raise ValueError(
                f"no pixel of the label map is {colour}: use its colours, e.g. {', '.join(common)}."
            )
    return [Region(phrase, nearest == i) for i, phrase in enumerate(phrases.values())]
