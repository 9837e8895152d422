"""Scores of layout control: does each object stand where its mask is, in its own color?

Everything here is a pure tensor function of label maps. An *oracle* (for the synthetic world, the
bundled segmenter) names the noun and the color of every pixel of a picture on a 64 x 64 grid; the
masks of the layout are resampled to the same grid by area. The label codes are the oracle's:

    noun    0 = background, n + 1 = the n-th noun
    colour  0 = background, 1 = natural (no color word), c + 2 = the c-th color

Objects come as tensors [B, N] of indices, -1 where a slot is empty (`noun`), where an object has
no color word (`colour`) or no second one (`colour2`). Scores are [B, N] with NaN where a score is
not defined, so that every mean is a `nanmean` over the objects that have the score.

When a noun appears twice in a scene, its pixels are divided between the twins (`same_noun.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.evaluation.same_noun import shared_out

GRID = 64
"""Side of the grid, in pixels, on which pictures are labelled and scored."""
PRESENT_SHARE_OF_PICTURE = 1 / 256
"""An object is present from this share of the picture on (16 of 4096 pixels) ..."""
PRESENT_SHARE_OF_MASK = 0.15
"""... provided that it also covers this share of the area of its mask, wherever it stands."""


class ObjectScores(NamedTuple):
    """Scores of every object, each [B, N] float in [0, 1]; NaN where a score is not defined."""

    iou: Tensor
    """Oracle pixels of the noun against the mask; 0 when there are none."""
    in_mask: Tensor
    """Share of the noun's pixels that are inside the mask; NaN when it is not present."""
    present: Tensor
    """1 or 0: enough pixels of the noun, anywhere in the picture."""
    colour_bound: Tensor
    """1 or 0: the noun's pixels have the bound color; NaN when not present or not colored."""
    leakage: Tensor
    """Share of the region taken by another region's noun or color; NaN for a lone object."""
    box_iou: Tensor
    """Bounding box of the noun's pixels against that of the mask; 0 when there are none."""
    phrase_bound: Tensor
    """1 or 0: the region shows its own phrase more than any other's; NaN for a lone object."""

    @staticmethod
    def undefined(*shape: int) -> ObjectScores:
        """NaN for every score."""
        return ObjectScores(*torch.full((len(ObjectScores._fields), *shape), torch.nan))


SCORES = {
    "mIoU": "iou",
    "mIoU_present": "present_iou",
    "in_mask": "in_mask",
    "presence": "present",
    "colour_binding": "colour_bound",
    "leakage": "leakage",
    "box_iou": "box_iou",
    "phrase_binding": "phrase_bound",
}
"""Name of a mean -> the field of `ObjectScores` it averages.

`mIoU`, `presence` and `box_iou` are over all objects, `mIoU_present` and `in_mask` over those
present, `colour_binding` over those present and colored, `leakage` and `phrase_binding` over those
that share a scene.
"""


def to_grid(masks: Tensor, rows: int = GRID, cols: int = GRID) -> Tensor:
    """Masks [..., H, W] (bool or in [0, 1]) on a coarser grid [..., rows, cols], bool.

    A cell is in when at least half of its area is.
    """
    flat = masks.reshape(-1, 1, *masks.shape[-2:]).float()  # (M, 1, H, W)
    # The small slack keeps an exact half in, whatever the order of the additions.
    cells = F.adaptive_avg_pool2d(flat, (rows, cols)) >= 0.5 - 1e-6
    return cells.reshape(*masks.shape[:-2], rows, cols)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of bool masks [..., h, w] -> [...]; 0 when both are empty.

    Taught in notebook 08.
    """
    return (a & b).sum((-2, -1)) / (a | b).sum((-2, -1)).clamp(min=1)


def object_pixels(noun_map: Tensor, masks: Tensor, noun: Tensor) -> Tensor:
    """Pixels that the oracle gives to each object.

    Args:
        noun_map: [B, h, w] long, the oracle's noun labels.
        masks: [B, N, h, w] bool; they only settle which of two objects of one noun owns a pixel.
        noun: [B, N] long, -1 for an empty slot.

    Returns:
        [B, N, h, w] bool, empty for empty slots.
    """
    shown = noun_map[:, None] == noun[..., None, None] + 1  # (B, N, h, w)
    pixels = shown & (noun >= 0)[..., None, None]
    placed = (noun >= 0) & masks.any(-1).any(-1)  # (B, N)
    for scene in range(len(noun)):
        for repeated in noun[scene][placed[scene]].unique():
            twins = (placed[scene] & (noun[scene] == repeated)).nonzero()[:, 0]
            if len(twins) > 1:
                pixels[scene, twins] = shared_out(pixels[scene, twins[0]], masks[scene, twins])
    return pixels


def presence(pixels: Tensor, masks: Tensor) -> Tensor:
    """Whether each object is in the picture at all: [B, N, h, w] bool twice -> [B, N] bool.

    It must cover at least `PRESENT_SHARE_OF_PICTURE` of the picture and as many pixels as
    `PRESENT_SHARE_OF_MASK` of its mask's area, at any place.
    """
    size = pixels.sum((-2, -1))
    picture = pixels.shape[-2] * pixels.shape[-1]
    wanted = (masks.sum((-2, -1)) * PRESENT_SHARE_OF_MASK).clamp(
        min=picture * PRESENT_SHARE_OF_PICTURE
    )
    return size >= wanted


def colour_match(colour_map: Tensor, pixels: Tensor, colours: Tensor) -> Tensor:
    """Whether each object's pixels have the bound color: [B, N] bool.

    The color of an object is the majority label over its pixels; "natural" is a label like any
    other, background is not counted. An object of two colors must have both as its top two.

    Args:
        colour_map: [B, h, w] long, the oracle's color labels.
        pixels: [B, N, h, w] bool, the objects' pixels.
        colours: [B, N, 2] long, -1 = natural, and no second color.
    """
    labels = max(int(colour_map.max()) + 1, int(colours.max()) + 3, 4)
    one_hot = F.one_hot(colour_map, labels).flatten(1, 2).float()  # (B, h * w, labels)
    votes = pixels.flatten(2).float() @ one_hot  # (B, N, labels)
    votes[..., 0] = -1  # background is no color of an object
    counts, top = votes.topk(2, dim=-1)  # (B, N, 2)
    single = (top[..., 0] == colours[..., 0] + 2) & (counts[..., 0] > 0)
    pair = colours.sort(-1).values + 2
    double = (top.sort(-1).values == pair).all(-1) & (counts[..., 1] > 0)
    return torch.where(colours[..., 1] >= 0, double, single)


def leaked_pixels(
    noun_map: Tensor, colour_map: Tensor, masks: Tensor, noun: Tensor, colours: Tensor
) -> Tensor:
    """Pixels of each region that hold another region's noun or color: [B, N, h, w] bool.

    Only a noun or a color that the region does not have itself can leak into it. "Natural" is not
    a color that can leak, and where two masks overlap neither object is in the wrong.
    """
    asked = noun >= 0  # (B, N)
    both = asked[:, :, None] & asked[:, None]  # (B, region, other)
    foreign = both & (noun[:, :, None] != noun[:, None])  # (B, region, other)
    shown = noun_map[:, None] == noun[..., None, None] + 1  # (B, other, h, w)
    wrong = foreign[..., None, None] & shown[:, None]  # (B, region, other, h, w)
    for theirs in colours.unbind(-1):  # (B, other)
        own = (colours[:, :, None] == theirs[:, None, :, None]).any(-1)  # (B, region, other)
        foreign = both & (theirs >= 0)[:, None] & ~own
        shown = colour_map[:, None] == theirs[..., None, None] + 2
        wrong |= foreign[..., None, None] & shown[:, None]
    return (wrong & masks[:, :, None] & ~masks[:, None]).any(2)  # (B, N, h, w)


def own_phrase_wins(
    noun_map: Tensor, colour_map: Tensor, masks: Tensor, noun: Tensor, colours: Tensor
) -> Tensor:
    """Whether each region holds more of its own object than of any other region's: [B, N] bool.

    A pixel belongs to an object when it has its noun and one of its colors (any look, for an object
    without a color word). Unlike the other scores this one is strict about twins: a red cat in the
    place of the blue one does not count. Objects of the same words do not compete.
    """
    wanted = colours[..., None, None]  # (B, N, 2, 1, 1)
    worn = ((wanted >= 0) & (colour_map[:, None, None] == wanted + 2)).any(2)  # (B, N, h, w)
    worn |= (colours[..., 0] < 0)[..., None, None]
    shown = (noun_map[:, None] == noun[..., None, None] + 1) & worn & (noun >= 0)[..., None, None]
    area = masks.flatten(2).float() @ shown.flatten(2).float().mT  # (B, region, object)
    own = area.diagonal(dim1=1, dim2=2)  # (B, N)
    words = torch.cat([noun[..., None], colours], -1)  # (B, N, 3)
    other = (words[:, :, None] != words[:, None]).any(-1)  # (B, region, object)
    return own > (area * other).amax(-1)


def score_objects(
    noun_map: Tensor,
    colour_map: Tensor,
    masks: Tensor,
    noun: Tensor,
    colour: Tensor,
    colour2: Tensor | None = None,
    natural: bool = False,
) -> ObjectScores:
    """Score labelled pictures against the masks and words of their objects.

    Args:
        noun_map, colour_map: [B, h, w] long, the oracle's labels (see the module for the codes).
        masks: [B, N, h, w] bool on the oracle's grid (`to_grid`).
        noun, colour, colour2: [B, N] long; -1 = empty slot, natural, no second color.
        natural: also score the color of objects without a color word: they must look natural.

    Returns:
        `ObjectScores`, NaN for empty slots and for objects whose mask is empty (hidden ones).

    Raises:
        ValueError: when the masks are not on the grid of the labels.
    """
    if masks.shape[-2:] != noun_map.shape[-2:]:
        raise ValueError(
            f"masks are {tuple(masks.shape[-2:])}, the labels {tuple(noun_map.shape[-2:])}: "
            "bring the masks to the grid of the labels with to_grid(masks, height, width)."
        )
    colours = torch.stack([colour, torch.full_like(colour, -1) if colour2 is None else colour2], -1)
    masks = masks & (noun >= 0)[..., None, None]  # (B, N, h, w)
    scored = masks.any(-1).any(-1)  # (B, N)
    pixels = object_pixels(noun_map, masks, noun)
    present = presence(pixels, masks)
    inside = (pixels & masks).sum((-2, -1)) / pixels.sum((-2, -1)).clamp(min=1)
    bound = colour_match(colour_map, pixels, colours)
    leaked = leaked_pixels(noun_map, colour_map, masks, noun, colours)
    leakage = leaked.sum((-2, -1)) / masks.sum((-2, -1)).clamp(min=1)
    has_colour = torch.ones_like(scored) if natural else colour >= 0
    in_company = (scored.sum(1, keepdim=True) > 1).expand_as(scored)
    won = own_phrase_wins(noun_map, colour_map, masks, noun, colours)
    return ObjectScores(
        iou=_where(scored, iou(pixels, masks)),
        in_mask=_where(scored & present, inside),
        present=_where(scored, present),
        colour_bound=_where(scored & present & has_colour, bound),
        leakage=_where(scored & in_company, leakage),
        box_iou=_where(scored, box_iou(pixels, masks)),
        phrase_bound=_where(scored & in_company, won),
    )


def _where(defined: Tensor, value: Tensor) -> Tensor:
    return torch.where(defined, value.float(), torch.nan)


def aggregate(scores: ObjectScores) -> dict[str, float]:
    """Means over objects, in percent; NaN where no object defines a score: see `SCORES`."""
    present_iou = torch.where(scores.present == 1, scores.iou, torch.nan)
    values = {**scores._asdict(), "present_iou": present_iou}
    return {name: 100 * values[field].nanmean().item() for name, field in SCORES.items()}


def token_grid_ceiling(
    masks: Tensor, rows: int = 16, cols: int = 16, boxes: bool = False
) -> Tensor:
    """IoU that a perfect follower of the token grid would score: [..., H, W] -> [...].

    Each mask is rounded to the grid (at least half of the token; the best-covered token when none
    is) and compared, on the scoring grid, with itself: by their bounding boxes if `boxes`. NaN for
    an empty mask.
    """
    fine = to_grid(masks)  # (..., GRID, GRID)
    share = F.adaptive_avg_pool2d(fine.reshape(-1, 1, GRID, GRID).float(), (rows, cols))
    best = share.amax((-2, -1), keepdim=True)
    tokens = (share >= 0.5 - 1e-6) | ((best < 0.5 - 1e-6) & (share == best))
    rounded = F.interpolate(tokens.float(), size=(GRID, GRID), mode="nearest").bool()
    score = box_iou if boxes else iou
    return _where(fine.any(-1).any(-1), score(rounded.reshape(fine.shape), fine))


def bounding_box(masks: Tensor) -> Tensor:
    """Tight boxes of bool masks [..., h, w] -> [..., 4] as x0, y0, x1, y1 (ends excluded).

    An empty mask gets the empty box 0, 0, 0, 0.
    """
    ends = []
    for line in (masks.any(-2), masks.any(-1)):  # columns, then rows
        line = line.int()
        first = line.argmax(-1)
        last = line.shape[-1] - line.flip(-1).argmax(-1)
        ends.append((first, torch.where(line.any(-1), last, 0)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], -1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of the bounding boxes of two sets of bool masks [..., h, w] -> [...].

    For boxes and ellipses, which say where an object is but not what its outline is.
    """
    return iou_of_boxes(bounding_box(a), bounding_box(b))


def iou_of_boxes(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes [..., 4] as x0, y0, x1, y1, in any unit -> [...]; 0 when both are empty."""
    shared = shared_area(a, b)
    union = shared_area(a, a) + shared_area(b, b) - shared
    return torch.where(union > 0, shared / union, 0.0)


def shared_area(a: Tensor, b: Tensor) -> Tensor:
    """Area that two boxes [..., 4] share; of a box with itself, its area."""
    size = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return size.clamp(min=0).prod(-1)


def kid(
    features_a: Tensor,
    features_b: Tensor,
    generator: torch.Generator,
    subsets: int = 50,
    subset_size: int = 128,
) -> tuple[float, float]:
    """Kernel inception distance of two sets of features, times 1000: (mean, std over subsets).

    The unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (Binkowski et
    al. 2018), on random subsets of `subset_size` (at most half of the smaller set). Lower is
    better; being unbiased, it can fall a little below 0 for two samples of one distribution.

    Args:
        features_a: [A, d].
        features_b: [B, d].
        generator: a CPU generator, for drawing the subsets.

    Raises:
        ValueError: when a set has fewer than 4 rows or the sets differ in d.
    """
    fewest = min(len(features_a), len(features_b))
    if fewest < 4 or features_a.shape[1:] != features_b.shape[1:]:
        raise ValueError(
            f"kid got features {tuple(features_a.shape)} and {tuple(features_b.shape)}: "
            "give two sets [rows, d] of the same d with at least 4 rows each."
        )
    size = min(subset_size, fewest // 2)
    a, b = features_a.double(), features_b.double()
    values = []
    for _ in range(subsets):
        x = a[torch.randperm(len(a), generator=generator)[:size].to(a.device)]
        y = b[torch.randperm(len(b), generator=generator)[:size].to(b.device)]
        values.append(_unbiased_mmd2(x, y))
    values = 1000 * torch.stack(values)
    return values.mean().item(), values.std().item()


def _unbiased_mmd2(x: Tensor, y: Tensor) -> Tensor:
    size, width = x.shape
    xx, yy, xy = ((p @ q.T / width + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    pairs = size * (size - 1)
    return (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / pairs - 2 * xy.mean()


def bootstrap_interval(
    values_by_scene: Tensor,
    generator: torch.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a mean over objects, by resampling whole scenes.

    Objects of one scene are not independent, so whole scenes are drawn. Taught in notebook
    08.

    Args:
        values_by_scene: [S] or [S, N], NaN where a scene has no further object.
        generator: a CPU generator, for the resampling.

    Returns:
        (low, high), in the units of the values; (nan, nan) when no value is defined.
    """
    values = values_by_scene.detach().cpu().double().reshape(len(values_by_scene), -1)
    defined = ~values.isnan()
    if not defined.any():
        return float("nan"), float("nan")
    sums, counts = values.nansum(1), defined.sum(1)
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    # A resample without any defined value is left out.
    total = counts[drawn].sum(1)
    means = (sums[drawn].sum(1) / total)[total > 0]
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.double))
    return low.item(), high.item()
