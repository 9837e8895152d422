"""Scenes of a chosen kind: so many objects, twins, tiny ones, overlapping ones, on clear sides.

Each function returns a sampler, (count, seed) -> `Scenes`. A scene has a seed of its own, so that a
longer batch begins with the scenes of a shorter one. Where a kind sets conditions, each scene is
the first of many drawn by `sample_scenes` that meets them: all else is distributed as in training.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from densenb.miniature.world import CONTRAST, Scenes, lab, palette, sample_scenes, shared_world

Sampler = Callable[[int, int], Scenes]
"""(count, seed) -> scenes."""

SEED_SPACING = 100_000  # room for as many scenes before those of the next seed
ATTEMPT_SPACING = 2**40  # beyond the seeds of all scenes: fresh candidates when none fits
CANDIDATES = 64
TINY = (0.03, 0.10)
"""Shares of the picture that a tiny object covers, at least and at most."""
OVERLAPPING = (0.08, 0.25)
"""Shares of the smaller of two overlapping silhouettes that both cover."""
CROWDED = 0.25  # share of the smaller box that two boxes may share, where objects are many
PIXELS = 64  # side on which candidates' silhouettes are compared
SIDE_GAP = 0.14  # an object this far from the middle is clearly on a side (`captions._where`)


def in_turn(split: str, objects: Sequence[int]) -> Sampler:
    """Scenes of so many colored objects, in turn, from one split of the world."""

    def one(index: int, seed: int) -> Scenes:
        count = objects[index % len(objects)]
        return sample_scenes(1, split, seed, count, count, coloured=1.0)

    return _each(one)


def uncrowded(split: str, objects: Sequence[int]) -> Sampler:
    """As `in_turn`, with objects that overlap little: all of them can be seen."""
    return _fitting(split, objects, lambda scenes: _apart(scenes, CROWDED))


def same_noun(split: str) -> Sampler:
    """Two objects of one noun in two colors that are easily told apart, side by side."""

    def twins(scenes: Scenes, generator: torch.Generator) -> Scenes:
        return dataclasses.replace(scenes, noun=scenes.noun[:, [0, 0, 2, 3]])

    return _fitting(split, (2,), lambda scenes: _apart(scenes) & _contrasting(scenes), twins)


def same_colour(split: str) -> Sampler:
    """Two objects of two nouns in one color, side by side."""

    def alike(scenes: Scenes, generator: torch.Generator) -> Scenes:
        return dataclasses.replace(scenes, colour=scenes.colour[:, [0, 0, 2, 3]])

    return _fitting(split, (2,), _apart, alike)


def swapped_colours(split: str) -> Sampler:
    """Scenes in pairs: the second of a pair is the first with the colors of its objects swapped.

    A red cat and a blue dog, then a blue cat and a red dog, in the same places. A model that draws
    the likely colors gets at most one of the two right.
    """
    plain = _fitting(split, (2,), lambda scenes: _apart(scenes) & _contrasting(scenes))

    def sample(count: int, seed: int) -> Scenes:
        scenes = plain(math.ceil(count / 2), seed)[torch.arange(count) // 2]
        scenes.colour[1::2] = scenes.colour[1::2][:, [1, 0, 2, 3]]
        return scenes

    return sample


def tiny(split: str) -> Sampler:
    """One to three objects that each cover 3 to 10 % of the picture, apart from one another."""

    def fits(scenes: Scenes) -> Tensor:
        least, most = TINY
        area = _silhouettes(scenes).float().mean((-2, -1))  # (B, 4)
        good = (area >= 1.05 * least) & (area <= 0.97 * most)  # at any other size in pixels too
        return (good | (scenes.noun < 0)).all(1) & _apart(scenes)

    return _fitting(split, (1, 2, 3), fits)


def overlapping(split: str) -> Sampler:
    """Two objects, the second in front of a part of the first."""

    def nearer(scenes: Scenes, generator: torch.Generator) -> Scenes:
        turn, step = torch.rand(2, len(scenes), generator=generator)
        first, second = scenes.size[:, 0], scenes.size[:, 1]
        reach = (0.3 + 0.4 * step) * (first + second) / 2
        direction = torch.stack([(2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()], 1)
        half = second[:, None] / 2
        centre = scenes.centre.clone()
        centre[:, 1] = (centre[:, 0] + reach[:, None] * direction).clamp(half, 1 - half)
        return dataclasses.replace(scenes, centre=centre)

    def fits(scenes: Scenes) -> Tensor:
        least, most = OVERLAPPING
        outlines = _silhouettes(scenes)[:, :2]  # (B, 2, h, w)
        smaller = outlines.sum((-2, -1)).amin(1)
        share = outlines.all(1).sum((-2, -1)) / smaller
        return (share >= 1.1 * least) & (share <= 0.9 * most) & _contrasting(scenes)

    return _fitting(split, (2,), fits, nearer)


def on_sides(split: str) -> Sampler:
    """One or two objects in turn, each clearly left or clearly right of the middle, not alike."""

    def fits(scenes: Scenes) -> Tensor:
        offset = scenes.centre[..., 0] - 0.5
        there = scenes.noun >= 0
        clear = ((offset.abs() > SIDE_GAP) | ~there).all(1)
        alone = there.sum(1) == 1
        return clear & (alone | (offset[:, 0] * offset[:, 1] < 0)) & _apart(scenes)

    return _fitting(split, (1, 2), fits)


# ------------------------------------------------------------------------------------ sampling
def _each(one: Callable[[int, int], Scenes]) -> Sampler:
    """A sampler from a function (index, seed of its own) -> one scene."""

    def sample(count: int, seed: int) -> Scenes:
        scenes = [one(index, seed * SEED_SPACING + index) for index in range(count)]
        return Scenes(*map(torch.cat, zip(*(vars(scene).values() for scene in scenes))))

    return sample


def _fitting(
    split: str,
    objects: Sequence[int],
    fits: Callable[[Scenes], Tensor],
    change: Callable[[Scenes, torch.Generator], Scenes] | None = None,
) -> Sampler:
    """Scenes of so many objects, in turn, of one color each: the first candidates that fit.

    `change` alters the candidates before `fits`, which says of each whether it will do.
    """

    def one(index: int, seed: int) -> Scenes:
        count = objects[index % len(objects)]
        options = {"min_objects": count, "max_objects": count, "coloured": 1.0, "two_colour": 0.0}
        for attempt in itertools.count():
            own = seed + attempt * ATTEMPT_SPACING
            candidates = sample_scenes(CANDIDATES, split, own, **options)
            if change:
                candidates = change(candidates, torch.Generator().manual_seed(own))
            good = fits(candidates).nonzero()
            if len(good):
                return candidates[good[0]]

    return _each(one)


# ---------------------------------------------------------------------------------- conditions
def _apart(scenes: Scenes, share: float = 0.0) -> Tensor:
    """Whether no two boxes of a scene share more than this of the smaller one: [B] bool."""
    half = scenes.size[..., None] / 2
    gap = (scenes.centre[:, :, None] - scenes.centre[:, None]).abs()
    shared = (half[:, :, None] + half[:, None] - gap).clamp(min=0).prod(-1)
    area = scenes.size**2
    smaller = torch.minimum(area[:, :, None], area[:, None])
    return ((shared <= share * smaller) | ~_pairs(scenes)).all(-1).all(-1)


def _contrasting(scenes: Scenes) -> Tensor:
    """Whether the colors of a scene's objects are easily told apart: [B] bool."""
    shades = lab(palette())
    distance = torch.cdist(shades, shades)[scenes.colour[:, :, None], scenes.colour[:, None]]
    return ((distance >= CONTRAST) | ~_pairs(scenes)).all(-1).all(-1)


def _pairs(scenes: Scenes) -> Tensor:
    there = scenes.noun >= 0
    return (there[:, :, None] & there[:, None]).tril(-1)


def _silhouettes(scenes: Scenes) -> Tensor:
    return shared_world("cpu").silhouettes(scenes, PIXELS, PIXELS)
