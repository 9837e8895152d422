"""The checks of the exercises in notebook 08."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from densenb.evaluation.metrics import iou
from densenb.evaluation.ranks import kendall_tau
from densenb.lessons.checking import described, diagnose, exercise, expect, expect_form


@exercise("08")
def check_mean_iou(mean_iou: Any) -> str:
    """Check that `mean_iou(pixels, masks)` is the mean IoU over all objects that were asked for.

    pixels (where each object was found), masks (where it was asked for): bool `[B, N, h, w]`; empty
    slots have empty masks. A number from 0 to 1.
    """
    pixels, masks = _objects()
    found = _number(mean_iou(pixels.clone(), masks.clone()))
    each = iou(pixels, masks)  # (B, N)
    asked, there = masks.any(-1).any(-1), pixels.any(-1).any(-1)
    sizes = [part.sum((-2, -1))[asked] for part in (pixels & masks, pixels | masks, pixels, masks)]
    shared, either, drawn, wanted = sizes
    slots = each.mean()
    by_scene = torch.stack([row[some].mean() for row, some in zip(each, asked, strict=True)])
    mistakes = {
        "lost objects are left out, so that a method gains by drawing less: they count as 0.": (
            each[there].mean()
        ),
        "empty slots are counted as failures: leave out objects that nobody asked for.": slots,
        "all pixels are thrown together, so that large objects count most: divide for each object, "
        "then take the mean.": shared.sum() / either.sum(),
        "this is a mean of the scenes' means: each object counts the same here.": by_scene.mean(),
        "that is in-mask, which forgives an object that fills a corner of its mask: divide by the "
        "union.": (shared / drawn.clamp(min=1)).mean(),
        "that is recall, which forgives an object that fills the whole picture: divide by the "
        "union.": (shared / wanted).mean(),
    }
    otherwise = (
        "divide what pixels and mask share by what either has, and average over all objects with a "
        "mask."
    )
    diagnose(found, mistakes, each[asked].mean(), otherwise, atol=1e-4)
    return "intersection over union, object by object, and what is lost counts 0."


@exercise("08")
def check_paired_interval(paired_interval: Any) -> str:
    """Check that `paired_interval(mine, theirs, drawn)` is a 95 % interval of a paired difference.

    mine, theirs: scores by scene, `[S]`; drawn: scenes of each resample, long `[R, S]`. Two
    numbers, low then high, of mine - theirs.
    """
    random = torch.Generator().manual_seed(0)
    hard = 20 * torch.randn(60, generator=random).double()
    mine, theirs = (
        50 + hard + gain + 2 * torch.randn(60, generator=random).double() for gain in (3.0, 0.0)
    )
    drawn = torch.randint(60, (2000, 60), generator=random)
    found = paired_interval(mine.clone(), theirs.clone(), drawn)
    two = isinstance(found, (tuple, list)) and len(found) == 2
    expect_form(found, two, "two numbers: the low end, then the high one.")
    low, high = map(_number, found)

    def ends(values: Tensor, tail: float = 0.025) -> Tensor:
        return values.quantile(torch.tensor([tail, 1 - tail]).double())

    means, one_drawn = (mine - theirs)[drawn].mean(1), ends(mine[drawn].mean(1) - theirs.mean())
    mistakes = {
        "mine and theirs are exchanged: above 0 has to mean that mine is better.": ends(-means),
        "each method has scenes of its own here: the same scenes have to be drawn for both.": (
            ends(mine[drawn].mean(1) - theirs[drawn.flip(0)].mean(1))
        ),
        "only one method's scenes are drawn again: draw them for both.": one_drawn,
        "that is how much single scenes differ: take the mean of each resample first.": [
            ends(mine - theirs),
            ends((mine - theirs)[drawn].flatten()),
        ],
        "that leaves 5 % on either side: 95 % leaves 2.5 % on either side.": ends(means, 0.05),
        "the low end comes first.": low > high,
    }
    otherwise = (
        "take the differences by scene, the mean of each resample's, and the quantiles 0.025 and "
        "0.975 of these means."
    )
    diagnose((low, high), mistakes, ends(means), otherwise, atol=0.02)
    return "hard scenes are hard for both, so that the difference is known better than either."


@exercise("08")
def check_kendall_tau(tau: Any) -> str:
    """Check that `tau(first, second)` is Kendall's tau of two lists of scores without ties."""
    first = torch.tensor([12.0, 56.0, 40.0, 52.0, 54.0, 45.0]).double()
    second = torch.tensor([10.0, 30.0, 20.0, 47.0, 51.0, 50.0]).double()
    found = _number(tau(first.clone(), second.clone()))
    right, count = kendall_tau(first, second), len(first)
    scores, selves = torch.stack([first, second]), right * (count - 1) / count
    ranks = scores.argsort().argsort().double()
    mistakes = {
        "the sign is wrong: 1 is for equal orders, -1 for opposite ones.": -right,
        "that is the share of pairs in the same order: subtract the share in opposite orders.": (
            (right + 1) / 2
        ),
        "a method is compared with itself as well: take each pair of two methods.": selves,
        "that is the correlation of the scores: only their order counts.": scores.corrcoef()[0, 1],
        "that is Spearman's correlation of ranks: count pairs instead.": ranks.corrcoef()[0, 1],
        "that is a number of pairs: divide by how many there are.": right * count * (count - 1) / 2,
    }
    otherwise = "for each pair of methods: 1 if both lists order it alike, else -1; then the mean."
    diagnose(found, mistakes, right, otherwise, atol=1e-4)
    return "1 for the same order, -1 for the opposite, 0 for no agreement."


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
