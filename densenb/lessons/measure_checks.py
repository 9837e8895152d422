"""Checks of the exercises of notebook 08."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from densenb.evaluation.metrics import iou
from densenb.evaluation.ranks import kendall_tau
from densenb.lessons.checking import described, expect, passed


def check_mean_iou(mean_iou: Any) -> None:
    """Whether `mean_iou(pixels, masks)` is the mean IoU over all objects that were asked for.

    pixels (where each object was found), masks (where it was asked for): bool `[B, N, h, w]`; empty
    slots have empty masks. A number from 0 to 1. Exercise of notebook 08.
    """
    pixels, masks = _objects()
    found = _number(mean_iou(pixels.clone(), masks.clone()))
    each = iou(pixels, masks)
    asked, there = masks.any(-1).any(-1), pixels.any(-1).any(-1)

    def near(value: Tensor) -> bool:
        return abs(found - value.item()) < 1e-4

    shared, either = (pixels & masks).sum((-2, -1)), (pixels | masks).sum((-2, -1))
    by_scene = torch.stack([row[wanted].mean() for row, wanted in zip(each, asked, strict=True)])
    inside = shared[asked] / pixels.sum((-2, -1))[asked].clamp(min=1)
    recall = shared[asked] / masks.sum((-2, -1))[asked]
    expect(
        not near(each[there].mean()),
        "lost objects are left out, so that a method gains by drawing less: they count as 0.",
    )
    expect(
        not near(each.mean()),
        "empty slots are counted as failures: leave out objects that nobody asked for.",
    )
    expect(
        not near(shared[asked].sum() / either[asked].sum()),
        "all pixels are thrown together, so that large objects count most: divide for each object, "
        "then take the mean.",
    )
    expect(
        not near(by_scene.mean()),
        "this is a mean of the scenes' means: each object counts the same here.",
    )
    expect(
        not near(inside.mean()),
        "that is in-mask, which forgives an object that fills a corner of its mask: divide by the "
        "union.",
    )
    expect(
        not near(recall.mean()),
        "that is recall, which forgives an object that fills the whole picture: divide by the "
        "union.",
    )
    expect(
        near(each[asked].mean()),
        "divide what pixels and mask share by what either has, and average over all objects with a "
        "mask.",
    )
    passed("intersection over union, object by object, and what is lost counts 0.")


def check_paired_interval(paired_interval: Any) -> None:
    """Whether `paired_interval(mine, theirs, drawn)` is a 95 % interval of a paired difference.

    mine, theirs: scores by scene, `[S]`; drawn: scenes of each resample, long `[R, S]`. Two
    numbers, low then high, of mine - theirs. Exercise of notebook 08.
    """
    random = torch.Generator().manual_seed(0)
    hard = 20 * torch.randn(60, generator=random).double()
    mine, theirs = (
        50 + hard + gain + 2 * torch.randn(60, generator=random).double() for gain in (3.0, 0.0)
    )
    drawn = torch.randint(60, (2000, 60), generator=random)
    found = paired_interval(mine.clone(), theirs.clone(), drawn)
    expect(
        isinstance(found, (tuple, list)) and len(found) == 2,
        f"this gives {described(found)}, not two numbers: the low end, then the high one.",
    )
    found = [_number(end) for end in found]

    def near(values: Tensor, tail: float = 0.025) -> bool:
        ends = values.quantile(torch.tensor([tail, 1 - tail]).double())
        return all(abs(end - right) < 0.02 for end, right in zip(found, ends.tolist(), strict=True))

    means = (mine - theirs)[drawn].mean(1)
    apart = mine[drawn].mean(1) - theirs[drawn.flip(0)].mean(1)
    expect(
        not near(-means),
        "mine and theirs are exchanged: above 0 has to mean that mine is better.",
    )
    expect(
        not near(apart),
        "each method has scenes of its own here: the same scenes have to be drawn for both.",
    )
    expect(
        not near(mine[drawn].mean(1) - theirs.mean()),
        "only one method's scenes are drawn again: draw them for both.",
    )
    expect(
        not near(mine - theirs) and not near((mine - theirs)[drawn].flatten()),
        "that is how much single scenes differ: take the mean of each resample first.",
    )
    expect(
        not near(means, 0.05),
        "that leaves 5 % on either side: 95 % leaves 2.5 % on either side.",
    )
    expect(
        found[0] <= found[1],
        "the low end comes first.",
    )
    expect(
        near(means),
        "take the differences by scene, the mean of each resample's, and the quantiles 0.025 and "
        "0.975 of these means.",
    )
    passed("hard scenes are hard for both, so that the difference is known better than either.")


def check_kendall_tau(tau: Any) -> None:
    """Whether `tau(first, second)` is Kendall's tau of two lists of scores without ties.

    Exercise of notebook 08.
    """
    first = torch.tensor([12.0, 56.0, 40.0, 52.0, 54.0, 45.0]).double()
    second = torch.tensor([10.0, 30.0, 20.0, 47.0, 51.0, 50.0]).double()
    found = _number(tau(first.clone(), second.clone()))

    def near(value: float) -> bool:
        return math.isclose(found, value, abs_tol=1e-4)

    right, count = kendall_tau(first, second), len(first)
    ranks = [scores.argsort().argsort().double() for scores in (first, second)]
    expect(
        not near(-right),
        "the sign is wrong: 1 is for equal orders, -1 for opposite ones.",
    )
    expect(
        not near((right + 1) / 2),
        "that is the share of pairs in the same order: subtract the share in opposite orders.",
    )
    expect(
        not near(right * (count - 1) / count),
        "a method is compared with itself as well: take each pair of two methods.",
    )
    expect(
        not near(_correlation(first, second)),
        "that is the correlation of the scores: only their order counts.",
    )
    expect(
        not near(_correlation(*ranks)),
        "that is Spearman's correlation of ranks: count pairs instead.",
    )
    expect(
        not near(right * count * (count - 1) / 2),
        "that is a number of pairs: divide by how many there are.",
    )
    expect(
        near(right),
        "for each pair of methods: 1 if both lists order it alike, else -1; then the mean.",
    )
    passed("1 for the same order, -1 for the opposite, 0 for no agreement.")


# --------------------------------------------------------------------------------- what they use
def _number(found: Any) -> float:
    if torch.is_tensor(found) and found.numel() == 1:
        found = found.item()
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    expect(number and math.isfinite(found), f"this is {described(found)}, not a finite number.")
    return float(found)


def _objects() -> tuple[Tensor, Tensor]:
    """Two scenes of two slots on 8 x 8: a good one, a lost one, one that spills; an empty slot."""
    pixels, masks = torch.zeros(2, 2, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :4, :4] = pixels[0, 0, :4, 1:5] = True
    masks[0, 1, 5:, 5:] = True
    masks[1, 0, 2:4, 2:4] = pixels[1, 0, :, 2:6] = True
    return pixels, masks


def _correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()
