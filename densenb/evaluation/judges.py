"""Judges score pictures: does each region show what its phrase asks for?

The miniature is judged by the bundled oracle, which names the object and the color of every pixel.
Real models draw objects that no such oracle knows, so a detector or CLIP judges them behind the
same interface, `Judge`. Each fills in the scores that it can measure and leaves the others NaN:

    judge             iou  box_iou  in_mask  present  colour_bound  phrase_bound  leakage  features
    oracle             x      x        x        x          x             x           x         x
    detector:MODEL            x        x        x
    clip:MODEL                                                           x                     x
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.evaluation import judge_models, metrics
from densenb.evaluation.suites import Suite
from densenb.miniature.oracle import load_oracle
from densenb.miniature.world import COLOURS, NOUNS

SAME = 0.5  # above this IoU, two boxes for one phrase show the same object
MARGIN = 0.1  # around a region's crop, a share of its longer side
CLIP_MEAN = (0.481, 0.458, 0.408)  # RGB, the mean of the pictures that CLIP was trained on


class Judge(Protocol):
    """The interface that an evaluation needs."""

    name: str
    """As in `load_judge`; every row of an evaluation names it."""

    def to(self, device: str) -> Judge:
        """Move to a device; returns itself."""

    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """Scores [B, N] of pictures against what was asked, on the CPU.

        Args:
            images: [B, 3, H, W] in [0, 1], on any device.
            phrases: one list a picture; its j-th phrase belongs to the j-th mask.
            masks: [B, N, h, w] bool, of whole pictures on any grid; those beyond a picture's
                phrases, and empty ones, have no score (NaN).

        Raises:
            ValueError: for a phrase that it cannot judge.
        """

    def features(self, images: Tensor) -> Tensor | None:
        """Features [B, d] on the CPU for the quality guard; None: this judge has none."""


class OracleJudge:
    """The bundled segmenter: every score, but only for objects of the synthetic world.

    Args:
        oracle: maps pictures [B, 3, H, W] in [0, 1] to `OracleLabels`, and has a method `features`;
            by default the bundled one, on `device`.
    """

    name = "oracle"

    def __init__(self, oracle: Any = None, device: str = "cpu"):
        self.oracle = load_oracle(device) if oracle is None else oracle

    def to(self, device: str) -> OracleJudge:
        self.oracle = self.oracle.to(device)
        return self

    @torch.inference_mode()
    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """See `Judge.score`; ValueError for phrases that `named_object` cannot read."""
        objects = torch.full((*masks.shape[:2], 3), -1)  # (B, N, 3): noun and two colors
        for row, asked in zip(objects, phrases, strict=True):
            for slot, phrase in enumerate(asked):
                row[slot] = torch.tensor(named_object(phrase))
        images = self._ready(images)
        labels = self.oracle(images)
        noun_map, colour_map = labels.noun.cpu(), labels.colour.cpu()  # (B, h, w)
        # shrink the masks on the pictures' device: on a GPU that is faster for large ones
        masks = metrics.to_grid(masks.to(images.device), *noun_map.shape[-2:]).cpu()
        return metrics.score_objects(noun_map, colour_map, masks, *objects.unbind(-1))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Texture and color statistics of the oracle's early layers, [B, 80]."""
        return self.oracle.features(self._ready(images)).cpu()

    def _ready(self, images: Tensor) -> Tensor:
        return images.to(next(self.oracle.parameters()).device, torch.float32)


def score_suite(
    judge: Judge, images: Tensor, suite: Suite, scenes: Sequence[int]
) -> tuple[metrics.ObjectScores, Tensor | None]:
    """Scores and features of pictures [B, 3, H, W] in [0, 1] of B scenes of a suite.

    They are judged by the suite's own phrases and masks, whatever layouts they were drawn from. A
    suite whose masks are not outlines (boxes, ellipses, brush) has no silhouette IoU: NaN.
    """
    phrases = [[region.phrase for region in suite.layouts[scene].regions] for scene in scenes]
    scores = judge.score(images, phrases, suite.masks[list(scenes)])
    if not suite.outlines:
        scores = scores._replace(iou=torch.full_like(scores.iou, torch.nan))
    return scores, judge.features(images)


def named_object(phrase: str) -> tuple[int, int, int]:
    """The noun and up to two colors in a phrase: indices into NOUNS and COLOURS, -1 for none.

    Raises ValueError unless the phrase has exactly one noun, and at most two colors, of the world.
    """
    words = dict.fromkeys(re.findall(r"[a-z]+", phrase.lower()))
    nouns, colours = (
        [list(names).index(word) for word in words if word in names] for names in (NOUNS, COLOURS)
    )
    if len(nouns) != 1 or len(colours) > 2:
        raise ValueError(
            f"{phrase!r} names {len(nouns)} objects and {len(colours)} colors that the oracle "
            'knows. It scores one object with at most two colors, such as "a blue cat" (see '
            "densenb.miniature.world.NOUNS and COLOURS)."
        )
    first, second = (*colours, -1, -1)[:2]
    return nouns[0], first, second


class _ModelJudge:
    """A judge that asks a model of `judge_models`."""

    def __init__(self, model: Any, name: str = ""):
        self.model, self.name = model, name

    def to(self, device: str) -> Judge:
        self.model.to(device)
        return self


class DetectorJudge(_ModelJudge):
    """A zero-shot detector: the box that it finds for each phrase against the box of the mask.

    present: 1 when it finds the phrase anywhere in the picture, else 0.
    box_iou: IoU of its best box with the mask's bounding box; 0 when not present.
    in_mask: share of that box inside the mask's bounding box; NaN when not present. A detector
        finds boxes, so boxes are compared with boxes, never with silhouettes.
    The others are NaN: it finds no outlines, and sees colors only through the phrase as a whole.

    Regions of the same phrase in one picture get different boxes, in the order that fits their
    masks best; a box that overlaps a better one (IoU above 0.5) is the same object again.

    Args:
        model: has `find(pictures [B, 3, H, W] in [0, 1], B phrases) -> B Boxes`, and `to`.
        name: for the rows.
    """

    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """See `Judge.score`."""
        masks = masks.cpu()
        asked = asked_slots(phrases, masks)
        pairs = [(row, phrase) for row, slots in enumerate(asked) for phrase in slots]
        found = self.model.find(images[[row for row, _ in pairs]], [text for _, text in pairs])
        scores = metrics.ObjectScores.undefined(*masks.shape[:2])
        height, width = masks.shape[-2:]
        sides = torch.tensor([width, height, width, height])
        wanted = metrics.bounding_box(masks) / sides  # (B, N, 4)
        for (row, phrase), boxes in zip(pairs, found, strict=True):
            slots = asked[row][phrase]
            scores.present[row, slots] = scores.box_iou[row, slots] = 0.0
            matched = _matched(distinct(boxes.box, len(slots)), wanted[row, slots])
            for slot, box in zip(slots, matched, strict=True):
                if box is not None:
                    scores.present[row, slot] = 1.0
                    scores.box_iou[row, slot] = metrics.iou_of_boxes(box, wanted[row, slot])
                    inside = metrics.shared_area(box, wanted[row, slot])
                    scores.in_mask[row, slot] = inside / metrics.shared_area(box, box)
        return scores

    def features(self, images: Tensor) -> None:
        """None: no quality guard."""


def distinct(boxes: Tensor, count: int) -> list[Tensor]:
    """Of boxes [K, 4], best first, the first `count` that do not repeat one another."""
    kept: list[Tensor] = []
    for box in boxes:
        if len(kept) < count and all(metrics.iou_of_boxes(box, other) <= SAME for other in kept):
            kept.append(box)
    return kept


def _matched(boxes: list[Tensor], wanted: Tensor) -> list[Tensor | None]:
    """A box for each wanted one [T, 4], in the order of the largest total IoU; None: none left."""

    def fit(order: Sequence[Tensor | None]) -> float:
        pairs = zip(order, wanted, strict=True)
        return sum(metrics.iou_of_boxes(b, place).item() for b, place in pairs if b is not None)

    slots = [*boxes, *[None] * (len(wanted) - len(boxes))]
    return list(max(itertools.permutations(slots), key=fit))


class ClipJudge(_ModelJudge):
    """CLIP: which of the layout's phrases does the crop of each region look like most?

    phrase_bound: 1 when a region's own phrase wins over the other phrases of its layout, else 0;
        NaN where no other phrase competes. The other scores are NaN.
    The crop is the mask's bounding box with a tenth of its size around it. Pixels that belong only
        to other regions are painted over in CLIP's mean color, so that a neighbor does not count.
        The background stays, because CLIP was trained on objects in their surroundings. Bars of the
        same color make it square.
    features: embeddings of whole pictures, scaled so that the kernel of KID sees their cosines.

    Args:
        model: has `pictures([[3, H, W] in [0, 1], ...]) -> [B, d]` and `texts([...]) -> [P, d]`,
            both of length 1, and `to`.
        name: for the rows.
    """

    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """See `Judge.score`."""
        scores = metrics.ObjectScores.undefined(*masks.shape[:2])
        masks = masks.cpu()
        asked = asked_slots(phrases, masks)
        rivals = [(row, slots) for row, slots in enumerate(asked) if len(slots) > 1]
        if not rivals:
            return scores
        images = images.float().cpu()
        fine = F.interpolate(masks.float(), images.shape[-2:], mode="nearest").bool()
        words = list(dict.fromkeys(phrase for _, slots in rivals for phrase in slots))
        texts = dict(zip(words, self.model.texts(words), strict=True))
        places = [(row, slot) for row, slots in rivals for slot in sorted(sum(slots.values(), []))]
        looks = self.model.pictures([crop(images[row], fine[row], slot) for row, slot in places])
        for (row, slot), look in zip(places, looks, strict=True):
            own = phrases[row][slot]
            others = [look @ texts[phrase] for phrase in asked[row] if phrase != own]
            scores.phrase_bound[row, slot] = float(look @ texts[own] > max(others))
        return scores

    def features(self, images: Tensor) -> Tensor:
        """CLIP's embeddings [B, d] of whole pictures, of length sqrt(d)."""
        seen = self.model.pictures(list(images))
        return seen * seen.shape[-1] ** 0.5


def crop(image: Tensor, masks: Tensor, slot: int) -> Tensor:
    """The crop of a region that CLIP gets: [3, side, side], see `ClipJudge`.

    Args:
        image: [3, H, W] in [0, 1].
        masks: [N, H, W] bool, all regions of the layout; `slot` is the one to show, not empty.
    """
    height, width = image.shape[-2:]
    mean = torch.tensor(CLIP_MEAN)[:, None, None]  # (3, 1, 1)
    others = masks.any(0) & ~masks[slot]
    image = torch.where(others, mean, image)
    x0, y0, x1, y1 = metrics.bounding_box(masks[slot]).tolist()
    margin = round(MARGIN * max(x1 - x0, y1 - y0))
    x0, y0, x1, y1 = x0 - margin, y0 - margin, x1 + margin, y1 + margin
    part = image[:, max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    rows, columns = part.shape[-2:]
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    square = mean.expand(3, side, side).clone()  # (3, side, side)
    square[:, top : top + rows, left : left + columns] = part
    return square


def asked_slots(phrases: Sequence[Sequence[str]], masks: Tensor) -> list[dict[str, list[int]]]:
    """For each picture, its phrases and the slots of their masks that are not empty."""
    asked: list[dict[str, list[int]]] = [defaultdict(list) for _ in phrases]
    for row, slot in masks.flatten(2).any(-1).nonzero().tolist():
        if slot < len(phrases[row]):
            asked[row][phrases[row][slot]].append(slot)
    return asked


def load_judge(name: str = "oracle", device: str = "cpu", threshold: float | None = None) -> Judge:
    """A judge by name: "oracle", "detector:MODEL" or "clip:MODEL".

    MODEL is a repository of the Hugging Face Hub, or a folder, that holds a zero-shot detector such
    as google/owlv2-base-patch16-ensemble or IDEA-Research/grounding-dino-tiny, or a CLIP such as
    openai/clip-vit-base-patch32. OWLv2 also needs scipy or torchvision.

    Args:
        threshold: lowest score of a detection; by default that of the kind of detector.

    Raises:
        ValueError: for another name, or a missing model; the message says how to get it.
    """
    kind, _, model = name.partition(":")
    if name == "oracle":
        return OracleJudge(device=device)
    if kind == "detector" and model:
        return DetectorJudge(judge_models.load_detector(model, threshold), name).to(device)
    if kind == "clip" and model:
        return ClipJudge(judge_models.load_clip(model), name).to(device)
    raise ValueError(
        f"judge is {name!r}: give oracle, detector:MODEL or clip:MODEL, for example "
        "detector:google/owlv2-base-patch16-ensemble or clip:openai/clip-vit-base-patch32."
    )
