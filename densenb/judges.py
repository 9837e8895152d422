"""Judges: who looks at pictures and says whether each region shows what its phrase asks for.

The miniature is judged by the bundled oracle, which names the object and the colour of every pixel.
Real models draw what no such oracle knows, so a detector or CLIP judges them behind the same
interface, `Judge`. Each fills in the scores that it can tell and leaves the others NaN:

    judge             iou  box_iou  in_mask  present  colour_bound  phrase_bound  leakage  features
    oracle             x      x        x        x          x             x           x         x
    detector:MODEL            x        x        x
    clip:MODEL                                                           x                     x
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb import judge_models, metrics
from densenb.suites import Suite
from densenb.tiny.oracle import load_oracle
from densenb.tiny.world import COLOURS, NOUNS

SAME = 0.5  # IoU from which two boxes for one phrase show the same object
MARGIN = 0.1  # around a region's crop, a share of its longer side
CLIP_MEAN = (0.481, 0.458, 0.408)  # RGB, the mean of the pictures that CLIP learned from


class Judge(Protocol):
    """What an evaluation needs of whoever looks at the pictures."""

    name: str
    """As in `load_judge`; it belongs into every row."""

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
        oracle: pictures [B, 3, H, W] in [0, 1] to `OracleLabels`, with a method `features`; by
            default the bundled one.
    """

    name = "oracle"

    def __init__(self, oracle: Any = None, device: str = "cpu"):
        self.oracle = load_oracle(device) if oracle is None else oracle.to(device)

    def to(self, device: str) -> OracleJudge:
        self.oracle = self.oracle.to(device)
        return self

    @torch.inference_mode()
    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """See `Judge.score`; ValueError for phrases that `named_object` cannot read."""
        objects = torch.full((len(images), masks.shape[1], 3), -1)
        for row, asked in zip(objects, phrases, strict=True):
            for slot, phrase in enumerate(asked):
                row[slot] = torch.tensor(named_object(phrase))
        images = self._ready(images)
        labels = self.oracle(images)
        noun_map, colour_map = labels.noun.cpu(), labels.colour.cpu()
        # large masks are made small where that is fast
        masks = metrics.to_grid(masks.to(images.device), *noun_map.shape[-2:]).cpu()
        return metrics.score_objects(noun_map, colour_map, masks, *objects.unbind(-1))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Texture and colour statistics of the oracle's early layers, [B, 80]."""
        return self.oracle.features(self._ready(images)).cpu()

    def _ready(self, images: Tensor) -> Tensor:
        return images.to(next(self.oracle.parameters()).device, torch.float32)


def score_suite(
    judge: Judge, images: Tensor, suite: Suite, scenes: Sequence[int]
) -> tuple[metrics.ObjectScores, Tensor | None]:
    """Scores and features of pictures [B, 3, H, W] in [0, 1] of B scenes of a suite.

    They are judged by the suite's own phrases and masks, whatever layouts they were drawn by. A
    suite whose masks are no outlines (boxes, ellipses, brush) has no silhouette IoU: NaN.
    """
    phrases = [[region.phrase for region in suite.layouts[scene].regions] for scene in scenes]
    scores = judge.score(images, phrases, suite.masks[list(scenes)])
    if not suite.outlines:
        scores = replace(scores, iou=torch.full_like(scores.iou, torch.nan))
    return scores, judge.features(images)


def named_object(phrase: str) -> tuple[int, int, int]:
    """The noun and up to two colours in a phrase: indices into NOUNS and COLOURS, -1 for none.

    Raises ValueError unless the phrase has exactly one noun, and at most two colours, of the world.
    """
    words = re.findall(r"[a-z]+", phrase.lower())
    nouns, colours = (
        [list(names).index(word) for word in dict.fromkeys(words) if word in names]
        for names in (NOUNS, COLOURS)
    )
    if len(nouns) != 1 or len(colours) > 2:
        raise ValueError(
            f"{phrase!r} names {len(nouns)} objects and {len(colours)} colours that the oracle "
            'knows: it scores one object with at most two colours, such as "a blue cat" (see '
            "densenb.tiny.world.NOUNS and COLOURS)."
        )
    first, second = (*colours, -1, -1)[:2]
    return nouns[0], first, second


class DetectorJudge:
    """A zero-shot detector: the box that it finds for each phrase against the box of the mask.

    present: 1 when it finds the phrase anywhere in the picture, else 0.
    box_iou: IoU of its best box with the mask's bounding box; 0 when not present.
    in_mask: share of that box inside the mask's bounding box; NaN when not present. A detector
        sees boxes, so boxes are compared with boxes: no silhouette is ever held against it.
    The others are NaN: it sees no outlines, and colours only through the phrase as a whole.

    Regions of the same phrase in one picture take different boxes, in the order that fits their
    masks best; a box that overlaps a better one (IoU above 0.5) is the same object again.

    Args:
        detector: has `find(pictures [B, 3, H, W] in [0, 1], B phrases) -> B Boxes`, and `to`.
        name: for the rows.
    """

    def __init__(self, detector: Any, name: str = "detector"):
        self.detector, self.name = detector, name

    def to(self, device: str) -> DetectorJudge:
        self.detector.to(device)
        return self

    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """See `Judge.score`."""
        masks = masks.cpu()
        asked = asked_slots(phrases, masks)
        pairs = [(row, phrase) for row, slots in enumerate(asked) for phrase in slots]
        found = self.detector.find(images[[row for row, _ in pairs]], [text for _, text in pairs])
        scores = nothing_scored(masks)
        height, width = masks.shape[-2:]
        wanted = metrics.bounding_box(masks) / torch.tensor([width, height, width, height])
        for (row, phrase), boxes in zip(pairs, found, strict=True):
            slots = asked[row][phrase]
            matched = _matched(distinct(boxes.box, len(slots)), wanted[row, slots])
            for slot, box in zip(slots, matched, strict=True):
                scores.present[row, slot] = float(box is not None)
                scores.box_iou[row, slot] = 0.0
                if box is not None:
                    scores.box_iou[row, slot] = metrics.iou_of_boxes(box, wanted[row, slot])
                    inside = metrics.shared_area(box, wanted[row, slot])
                    scores.in_mask[row, slot] = inside / metrics.shared_area(box, box)
        return scores

    def features(self, images: Tensor) -> None:
        """None: no quality guard."""


def distinct(boxes: Tensor, count: int) -> Tensor:
    """Of boxes [K, 4], best first, the first `count` that are not one another's repetition."""
    kept: list[Tensor] = []
    for box in boxes:
        if len(kept) < count and all(metrics.iou_of_boxes(box, other) <= SAME for other in kept):
            kept.append(box)
    return torch.stack(kept) if kept else boxes[:0]


def _matched(boxes: Tensor, wanted: Tensor) -> list[Tensor | None]:
    """A box for each wanted one [T, 4], in the order of the largest total IoU; None: none left."""
    slots = [*boxes, *[None] * (len(wanted) - len(boxes))]

    def fit(order: Sequence[Tensor | None]) -> float:
        return sum(
            metrics.iou_of_boxes(box, place).item()
            for box, place in zip(order, wanted, strict=True)
            if box is not None
        )

    return list(max(itertools.permutations(slots), key=fit))


class ClipJudge:
    """CLIP: which of the layout's phrases does the crop of each region look like most?

    phrase_bound: 1 when a region's own phrase wins over the other phrases of its layout, else 0;
        NaN where no other phrase competes. The other scores are NaN.
    The crop is the mask's bounding box with a tenth of its size around it. What belongs to other
        regions alone is painted over in CLIP's mean colour, so that a neighbour does not vote; the
        background stays, for CLIP knows objects in their surroundings. Bars of the same colour
        make it square.
    features: embeddings of whole pictures, scaled so that the kernel of KID sees their cosines.

    Args:
        clip: has `pictures([[3, H, W] in [0, 1], ...]) -> [B, d]` and `texts([...]) -> [P, d]`,
            both of length 1, and `to`.
        name: for the rows.
    """

    def __init__(self, clip: Any, name: str = "clip"):
        self.clip, self.name = clip, name

    def to(self, device: str) -> ClipJudge:
        self.clip.to(device)
        return self

    def score(
        self, images: Tensor, phrases: Sequence[Sequence[str]], masks: Tensor
    ) -> metrics.ObjectScores:
        """See `Judge.score`."""
        scores = nothing_scored(masks)
        asked = asked_slots(phrases, masks.cpu())
        rivals = [(row, slots) for row, slots in enumerate(asked) if len(slots) > 1]
        if not rivals:
            return scores
        images, fine = images.float().cpu(), _on_pixels(masks.cpu(), images.shape[-2:])
        words = list(dict.fromkeys(phrase for _, slots in rivals for phrase in slots))
        texts = dict(zip(words, self.clip.texts(words), strict=True))
        places = [(row, slot) for row, slots in rivals for slot in sorted(sum(slots.values(), []))]
        looks = self.clip.pictures([crop(images[row], fine[row], slot) for row, slot in places])
        for (row, slot), look in zip(places, looks, strict=True):
            own = phrases[row][slot]
            others = [look @ texts[phrase] for phrase in asked[row] if phrase != own]
            scores.phrase_bound[row, slot] = float(look @ texts[own] > max(others))
        return scores

    def features(self, images: Tensor) -> Tensor:
        """CLIP's embeddings [B, d] of whole pictures, of length sqrt(d)."""
        seen = self.clip.pictures(list(images))
        return seen * seen.shape[-1] ** 0.5


def crop(image: Tensor, masks: Tensor, slot: int) -> Tensor:
    """What CLIP is shown of a region: [3, side, side], see `ClipJudge`.

    Args:
        image: [3, H, W] in [0, 1].
        masks: [N, H, W] bool, all regions of the layout; `slot` is the one to show, not empty.
    """
    height, width = image.shape[-2:]
    mean = torch.tensor(CLIP_MEAN)[:, None, None]
    others = masks.any(0) & ~masks[slot]
    image = torch.where(others, mean, image)
    x0, y0, x1, y1 = metrics.bounding_box(masks[slot]).tolist()
    margin = round(MARGIN * max(x1 - x0, y1 - y0))
    x0, y0, x1, y1 = x0 - margin, y0 - margin, x1 + margin, y1 + margin
    part = image[:, max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    rows, columns = part.shape[-2:]
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    square = mean.expand(3, side, side).clone()
    square[:, top : top + rows, left : left + columns] = part
    return square


def asked_slots(phrases: Sequence[Sequence[str]], masks: Tensor) -> list[dict[str, list[int]]]:
    """For each picture, its phrases and the slots of their masks that are not empty."""
    asked: list[dict[str, list[int]]] = []
    for row, mask in zip(phrases, masks, strict=True):
        slots: dict[str, list[int]] = {}
        for slot, phrase in enumerate(row):
            if mask[slot].any():
                slots.setdefault(phrase, []).append(slot)
        asked.append(slots)
    return asked


def nothing_scored(masks: Tensor) -> metrics.ObjectScores:
    """Scores of regions [B, N, H, W] that nobody has judged yet: all NaN."""
    fields = metrics.ObjectScores.__dataclass_fields__
    return metrics.ObjectScores(*(torch.full(masks.shape[:2], torch.nan) for _ in fields))


def load_judge(name: str = "oracle", device: str = "cpu", threshold: float | None = None) -> Judge:
    """A judge by name: "oracle", "detector:MODEL" or "clip:MODEL".

    MODEL is a repository of the Hugging Face Hub, or a folder, that holds a zero-shot detector such
    as google/owlv2-base-patch16-ensemble or IDEA-Research/grounding-dino-tiny, or a CLIP such as
    openai/clip-vit-base-patch32. OWLv2 also needs scipy or torchvision.

    Args:
        threshold: least score of a detection; by default that of the kind of detector.

    Raises:
        ValueError: for another name, or a model that is not there; it says how to get it.
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


def _on_pixels(masks: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(masks.float(), tuple(size), mode="nearest").bool()
