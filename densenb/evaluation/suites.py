"""Suites: scenes of the synthetic world with layouts, renders, masks and noise to measure on.

A suite turns a count and a seed into scenes of one `Kind`. `tune` is for choosing settings,
`test` for reporting them: they share neither scenes nor noise.
"""

from __future__ import annotations

import dataclasses
import difflib
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.evaluation.metrics import bounding_box
from densenb.layout.layout import Layout, Region
from densenb.layout.masks import Mask, box, ellipse, mask_from_array
from densenb.miniature import arrangements, captions
from densenb.miniature.world import Scenes, shared_world, visible

SIDE = 256  # pixels: the size that the oracle reads
RENDER_BATCH = 32
REFERENCE_SEED = 1_000_000  # added to a suite's seed for the renders of the quality score
DAB, BRUSH = 8, 16  # pixels between the dabs of a brush, and its radius


# --------------------------------------------------------------------------- shapes of the masks
def box_around(mask: Tensor) -> Mask:
    """The tight box of a mask [H, W] bool, not empty."""
    height, width = mask.shape
    x0, y0, x1, y1 = bounding_box(mask).tolist()
    return box(x0 / width, y0 / height, x1 / width, y1 / height)


def ellipse_around(mask: Tensor) -> Mask:
    """The ellipse in the place and the proportions of the tight box that holds all of a mask."""
    height, width = mask.shape
    x0, y0, x1, y1 = bounding_box(mask).tolist()
    cx, cy, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    y, x = (mask.nonzero().double() + 0.5).unbind(1)
    grown = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2).max().sqrt().item() + 1e-6
    return ellipse(cx / width, cy / height, grown * rx / width, grown * ry / height)


def brush_over(mask: Tensor) -> Mask:
    """A mask [H, W] bool as a person would paint over it with a thick round brush.

    Dabs on a lattice, one wherever the object is near: its outline is lost, all of it is covered.
    """
    height, width = mask.shape
    touched = F.max_pool2d(mask[None].float(), DAB, ceil_mode=True)[0]  # a coarse (h, w)
    dabs = (touched.nonzero() + 0.5) * DAB  # (K, 2): y and x of their centers
    y = torch.arange(height)[:, None] + 0.5
    x = torch.arange(width)[None, :] + 0.5
    distance = torch.hypot(y - dabs[:, :1, None], x - dabs[:, 1:, None])  # (K, H, W)
    return mask_from_array((distance <= BRUSH).any(0))


# ------------------------------------------------------------------------------------- the suites
@dataclasses.dataclass(frozen=True)
class Kind:
    """The recipe of a suite: which scenes, in which words, with which masks."""

    about: str
    sample: arrangements.Sampler
    caption: Callable[[Scenes, int], captions.Caption] = captions.plain
    shape: Callable[[Tensor], Mask] = mask_from_array
    """From an object's pixels [H, W] bool to the mask of its region; by default the same."""
    whole: bool = False
    """Masks include pixels that other objects hide, so that they overlap."""
    scenes: int = 64
    seeds: int = 2
    """How many scenes, and noise seeds of each, a reported number should be based on."""

    @property
    def outlines(self) -> bool:
        """Masks are silhouettes. Others are not to be filled: box IoU counts, not mIoU."""
        return self.shape is mask_from_array


def kinds(split: str) -> dict[str, Kind]:
    """The suites of one split of the world by name; the plain name of the split is its first."""
    mixed = arrangements.in_turn(split, (1, 2, 3))
    main = {"scenes": 256, "seeds": 4}
    several = {
        "one-two": Kind("one and two objects in turn", arrangements.in_turn(split, (1, 2)), **main),
        "three": Kind(
            "three objects that overlap little", arrangements.uncrowded(split, (3,)), **main
        ),
        "four": Kind(
            "four objects that overlap little", arrangements.uncrowded(split, (4,)), **main
        ),
        "same-noun": Kind("one noun twice, in two colours", arrangements.same_noun(split)),
        "same-colour": Kind("two nouns in one colour", arrangements.same_colour(split)),
        "tiny": Kind(
            "one to three objects that cover 3 to 10 % of the picture each",
            arrangements.tiny(split),
        ),
        "overlapping": Kind(
            "two objects, one in front of the other; masks hold what is hidden too, and the caption"
            " does not say which is in front: see the ground truth for what a picture can score",
            arrangements.overlapping(split),
            whole=True,
        ),
        "boxes": Kind("a tight box for each object", mixed, shape=box_around),
        "ellipses": Kind(
            "an ellipse around each object; the render does not fill it: see the ground truth",
            mixed,
            shape=ellipse_around,
        ),
        "brush": Kind(
            "a blob painted over each object; the render does not fill it: see the ground truth",
            mixed,
            shape=brush_over,
        ),
        "swapped-colours": Kind(
            "pairs of scenes that differ by whose colour is whose: who goes by what is likely"
            " is wrong in one of them",
            arrangements.swapped_colours(split),
        ),
        "contradiction": Kind(
            "the caption puts every object on the side where its mask is not; masks must win",
            arrangements.on_sides(split),
            caption=captions.contradicting,
        ),
    }
    first = Kind("one, two and three objects in turn", mixed, **main)
    return {split: first} | {f"{split}-{name}": kind for name, kind in several.items()}


SUITES: dict[str, Kind] = kinds("test") | kinds("tune")
"""Name -> recipe. `tune` is for choosing settings, `test` for reporting them."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """Scenes with the layouts that a method gets, and the right answers: renders and masks."""

    name: str
    seed: int
    scenes: Scenes
    layouts: list[Layout]
    """One a scene: its caption, and a region for each object."""
    masks: Tensor
    """[S, N, H, W] bool, the pixels where each object belongs: those of its region."""
    device: str = "cpu"
    """Where to render."""

    def __len__(self) -> int:
        return len(self.layouts)

    @property
    def outlines(self) -> bool:
        """Masks are silhouettes; if not, they are not to be filled: box IoU counts, not mIoU."""
        return SUITES[self.name].outlines

    @property
    def headline(self) -> str:
        """The score to rank by, a key of `metrics.aggregate`."""
        return "mIoU" if self.outlines else "box_iou"

    @cached_property
    def images(self) -> Tensor:
        """[S, 3, H, W] uint8, the renders, made on first use."""
        return _pictures(self.scenes, self.device)

    @cached_property
    def references(self) -> Tensor:
        """[S, 3, H, W] uint8, renders of other scenes of the same kind, for the quality guard."""
        others = SUITES[self.name].sample(len(self), self.seed + REFERENCE_SEED)
        return _pictures(others, self.device)


def build_suite(name: str, scenes: int, seed: int = 0, device: str = "cpu") -> Suite:
    """Draw a suite; the same arguments always give the same suite.

    Pictures are rendered on first use, some tens of them a second on a CPU.

    Args:
        name: a key of `SUITES`.
        scenes: how many, at least 1.
        seed: another seed gives other scenes (and other noise) of the same kind.
        device: where to render; the result is on the CPU.

    Raises:
        ValueError: for an unknown suite (with near names), no scenes or a negative seed.
    """
    kind = SUITES[known(name, SUITES, "suite")]
    if scenes < 1:
        raise ValueError(f"scenes is {scenes}: ask for at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}: give a whole number from 0.")
    drawn = kind.sample(scenes, seed)
    masks = _silhouettes(drawn, device, kind.whole)
    layouts = [_layout(kind, drawn, masks[index], index) for index in range(scenes)]
    if not kind.outlines:
        for mask, layout in zip(masks, layouts, strict=True):
            mask[: len(layout.regions)] = layout.pixel_masks(SIDE, SIDE) >= 0.5
    return Suite(name, seed, drawn, layouts, masks, device)


def _silhouettes(scenes: Scenes, device: str, whole: bool) -> Tensor:
    parts = []
    for batch in batches(scenes, RENDER_BATCH):
        outlines = shared_world(device).silhouettes(batch, SIDE, SIDE)
        parts.append((outlines if whole else visible(outlines)).cpu())
    return torch.cat(parts)


def _pictures(scenes: Scenes, device: str) -> Tensor:
    world, parts = shared_world(device), batches(scenes, RENDER_BATCH)
    rendered = (world.render(part, SIDE, SIDE).images for part in parts)
    return torch.cat([(images * 255).round().byte().cpu() for images in rendered])


def _layout(kind: Kind, scenes: Scenes, masks: Tensor, index: int) -> Layout:
    caption = kind.caption(scenes, index)
    shown = masks[scenes.noun[index] >= 0]
    pairs = zip(caption.phrases, shown, strict=True)
    return Layout(caption.text, [Region(phrase, kind.shape(mask)) for phrase, mask in pairs])


def shuffled_masks(suite: Suite) -> list[Layout]:
    """The suite's layouts with each mask taken from the next scene of as many objects: a control.

    Phrases and captions stay, so that a method that follows masks puts objects in wrong places.
    """
    return [with_masks(layout, other) for layout, other in _next_of_as_many(suite.layouts)]


def shuffled_captions(suite: Suite) -> list[Layout]:
    """The suite's masks with caption and phrases of the next scene of as many objects: a control.

    A score that does not fall depends on the masks alone, whatever is drawn in them.
    """
    return [with_masks(other, layout) for layout, other in _next_of_as_many(suite.layouts)]


def with_masks(layout: Layout, other: Layout) -> Layout:
    """The layout with the masks of another that has as many regions, in their order."""
    regions = [
        dataclasses.replace(region, mask=another.mask)
        for region, another in zip(layout.regions, other.regions, strict=True)
    ]
    return dataclasses.replace(layout, regions=regions)


def _next_of_as_many(layouts: Sequence[Layout]) -> list[tuple[Layout, Layout]]:
    """Each layout with the next one that has as many regions; the last goes with the first."""
    following = {}
    for count in {len(layout.regions) for layout in layouts}:
        group = [i for i, layout in enumerate(layouts) if len(layout.regions) == count]
        following |= dict(zip(group, group[1:] + group[:1], strict=True))
    return [(layout, layouts[following[i]]) for i, layout in enumerate(layouts)]


def known(name: str, names: Iterable[str], what: str) -> str:
    """The name, if it is one of `names`; otherwise a ValueError with the nearest one."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}Known: {', '.join(names)}.")


def batches(items: Any, size: int) -> list[Any]:
    """A sequence in slices of `size`, the last one perhaps shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def noise(suite: Suite, indices: Sequence[int], seed: int, shape: Sequence[int]) -> Tensor:
    """Starting latents [len(indices), *shape], drawn on the CPU, one generator a scene and seed.

    They depend on the suite's name and seed too, so `tune` and `test` share no noise, and not on
    the method, the batch size or the device.
    """
    names = [f"{suite.name}/{suite.seed}/{index}/{seed}" for index in indices]
    keys = [torch.Generator().manual_seed(zlib.crc32(name.encode())) for name in names]
    return torch.stack([torch.randn(tuple(shape), generator=key) for key in keys])
