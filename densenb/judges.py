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

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from densenb import metrics
from densenb.suites import Suite
from densenb.tiny.oracle import load_oracle
from densenb.tiny.world import COLOURS, NOUNS


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
            masks: [B, N, H, W] bool, on the pictures' pixels; rows beyond a picture's phrases, and
                empty masks, have no score (NaN).

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
        labels = self.oracle(self._ready(images))
        noun_map, colour_map = labels.noun.cpu(), labels.colour.cpu()
        masks = metrics.to_grid(masks, *noun_map.shape[-2:])
        return metrics.score_objects(noun_map, colour_map, masks, *objects.unbind(-1))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Texture and colour statistics of the oracle's early layers, [B, 80]."""
        return self.oracle.features(self._ready(images)).cpu()

    def _ready(self, images: Tensor) -> Tensor:
        return images.to(next(self.oracle.parameters()).device, torch.float32)


def score_suite(
    judge: Judge, images: Tensor, suite: Suite, start: int = 0
) -> tuple[metrics.ObjectScores, Tensor | None]:
    """Scores and features of pictures [B, 3, H, W] in [0, 1] of a suite's scenes from `start` on.

    They are judged by the suite's own phrases and masks, whatever layouts they were drawn by. A
    suite whose masks are no outlines (boxes, ellipses, brush) has no silhouette IoU: NaN.
    """
    rows = slice(start, start + len(images))
    phrases = [[region.phrase for region in layout.regions] for layout in suite.layouts[rows]]
    scores = judge.score(images, phrases, suite.masks[rows])
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


# ------------------------------------------------------------------------------------ detectors
@dataclass(frozen=True)
class Boxes:
    """What a detector found for one phrase in one picture, best first.

    `box [K, 4]` x0, y0, x1, y1 in fractions of the picture; `score [K]` in [0, 1], falling.
    """

    box: Tensor
    score: Tensor


class DetectorJudge:
    """A zero-shot detector: the box that it finds for each phrase against the box of the mask.

    present: 1 when its best box for the phrase scores at least `threshold`, else 0.
    box_iou: IoU of that box with the mask's bounding box; 0 when not present.
    in_mask: share of that box inside the mask's bounding box; NaN when not present. A detector
        sees boxes, so boxes are compared with boxes: no silhouette is ever held against it.
    The others are NaN: it sees no outlines, and colours only through the phrase as a whole.

    Regions of the same phrase in one picture take different boxes, in the order that fits their
    masks best; boxes that overlap one already taken (IoU above 0.5) are the same object.

    Args:
        find: pictures [B, 3, H, W] in [0, 1] and one phrase for each -> `Boxes` for each.
        name: for the rows.
        threshold: least score of a detection.
    """

    def __init__(
        self,
        find: Callable[[Tensor, Sequence[str]], list[Boxes]],
        name: str = "detector",
        threshold: float = 0.1,
    ):
        self.find, self.name, self.threshold = find, name, threshold


class ClipJudge:
    """CLIP: which of the layout's phrases does the crop of each region look like most?

    phrase_bound: 1 when a region's own phrase wins over the other phrases of its layout, else 0;
        NaN for a lone region, and for regions of the same phrase only.
    The crop is a square around the mask's bounding box (clipped at the picture's edges), the
    pixels outside of the mask kept: CLIP knows objects in their surroundings.

    features: CLIP's image embeddings of whole pictures, of length 1, for the quality guard.

    Args:
        clip: has `pictures([B, 3, H, W] in [0, 1]) -> [B, d]` and `texts([...]) -> [P, d]`.
        name: for the rows.
    """

    def __init__(self, clip: Any, name: str = "clip"):
        self.clip, self.name = clip, name


def load_judge(name: str = "oracle", device: str = "cpu") -> Judge:
    """A judge by name: "oracle", "detector:MODEL" or "clip:MODEL".

    MODEL is a repository of the Hugging Face Hub, or a folder, that holds a zero-shot detector such
    as google/owlv2-base-patch16-ensemble or IDEA-Research/grounding-dino-tiny, or a CLIP such as
    openai/clip-vit-base-patch32.

    Raises:
        ValueError: for another name, or a model that is not there; it says how to get it.
    """
    kind, _, model = name.partition(":")
    if name == "oracle":
        return OracleJudge(device=device)
    raise ValueError(f"judge is {name!r}: give oracle, detector:MODEL or clip:MODEL.")
