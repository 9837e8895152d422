"""Suites: scenes of the synthetic world with layouts, renders, masks and noise to measure on.

A suite turns a count and a seed into scenes; the layout of a scene asks for the exact silhouettes
of its objects. `tune` is for choosing settings, `test` for reporting them: they share neither
scenes nor noise.
"""

from __future__ import annotations

import dataclasses
import difflib
import zlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from densenb.layout import Layout, Region
from densenb.tiny import captions
from densenb.tiny.world import Scenes, World, sample_scenes

SIDE = 256  # pixels: what the oracle reads
RENDER_BATCH = 32
SEED_SPACING = 100_000  # room for as many scenes before those of the next seed
REFERENCE_SEED = 1_000_000  # added to a suite's seed for the renders that quality compares with


def one_two_three(split: str) -> Callable[[int, int], Scenes]:
    """Scenes of 1, 2 and 3 coloured objects in turn, from one split of the world.

    A scene has a seed of its own: a longer suite begins with the scenes of a shorter one.
    """

    def sample(count: int, seed: int) -> Scenes:
        scenes = []
        for index in range(count):
            objects = 1 + index % 3
            numbers = {"min_objects": objects, "max_objects": objects}
            own = seed * SEED_SPACING + index
            scenes.append(sample_scenes(1, split, own, **numbers, coloured=1.0))
        return _join(scenes)

    return sample


SUITES: dict[str, Callable[[int, int], Scenes]] = {
    "test": one_two_three("test"),
    "tune": one_two_three("tune"),
}
"""Name -> (count, seed) -> scenes. `tune` is for choosing settings, `test` for reporting them."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """Scenes with what is asked of a method (layouts) and what is right (renders, masks)."""

    name: str
    seed: int
    scenes: Scenes
    layouts: list[Layout]
    """One a scene: its caption, and a region with the exact silhouette for each object."""
    images: Tensor
    """[S, 3, H, W] uint8, the renders."""
    masks: Tensor
    """[S, N, H, W] bool, the visible pixels of each object slot."""
    references: Tensor
    """[R, 3, H, W] uint8, renders of other scenes of the same kind, for the quality guard."""
    outlines: bool = True
    """Masks are the objects' silhouettes; if not, they are not to be filled: box IoU counts."""

    def __len__(self) -> int:
        return len(self.layouts)


def build_suite(name: str, scenes: int, seed: int = 0, device: str = "cpu") -> Suite:
    """Draw and render a suite; the same arguments always give the same suite.

    Args:
        name: a key of `SUITES`.
        scenes: how many, at least 1.
        seed: another seed gives other scenes (and other noise) of the same kind.
        device: where to render; the result is on the CPU.

    Raises:
        ValueError: for an unknown suite (with near names), no scenes or a negative seed.
    """
    sample = SUITES[known(name, SUITES, "suite")]
    if scenes < 1:
        raise ValueError(f"scenes is {scenes}: ask for at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}: give a whole number from 0.")
    world = World(device)
    drawn = sample(scenes, seed)
    images, masks = _render(world, drawn)
    references, _ = _render(world, sample(scenes, seed + REFERENCE_SEED))
    layouts = [_layout(drawn, masks[i], i) for i in range(scenes)]
    return Suite(name, seed, drawn, layouts, images, masks, references)


def _render(world: World, scenes: Scenes) -> tuple[Tensor, Tensor]:
    parts = []
    for start in range(0, len(scenes), RENDER_BATCH):
        rendered = world.render(scenes[start : start + RENDER_BATCH], SIDE, SIDE)
        parts.append(((rendered.images * 255).round().byte().cpu(), rendered.masks.cpu()))
    images, masks = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(masks)


def _layout(scenes: Scenes, masks: Tensor, index: int) -> Layout:
    caption = captions.plain(scenes, index)
    shown = masks[scenes.noun[index] >= 0]
    regions = [
        Region(phrase, mask.float()) for phrase, mask in zip(caption.phrases, shown, strict=True)
    ]
    return Layout(caption.text, regions)


def shuffled(suite: Suite) -> list[Layout]:
    """The suite's layouts with each mask taken from the next scene of as many objects: a control.

    Phrases and captions stay, so that a method that follows masks puts objects in wrong places.
    """
    layouts = list(suite.layouts)
    for count in {len(layout.regions) for layout in suite.layouts}:
        group = [i for i, layout in enumerate(suite.layouts) if len(layout.regions) == count]
        for here, there in zip(group, group[1:] + group[:1], strict=True):
            layout, other = suite.layouts[here], suite.layouts[there]
            regions = [
                dataclasses.replace(region, mask=wrong.mask)
                for region, wrong in zip(layout.regions, other.regions, strict=True)
            ]
            layouts[here] = dataclasses.replace(layout, regions=regions)
    return layouts


def _join(parts: Sequence[Scenes]) -> Scenes:
    names = [field.name for field in dataclasses.fields(parts[0])]
    return type(parts[0])(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    )


def known(name: str, names: Iterable[str], what: str) -> str:
    """The name, when it is one of `names`; else a ValueError with the nearest ones."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}Known: {', '.join(names)}.")


def noise(suite: Suite, indices: Sequence[int], seed: int, shape: Sequence[int]) -> Tensor:
    """Starting latents [len(indices), *shape], drawn on the CPU, one generator a scene and seed.

    They depend on the suite's name and seed too, so `tune` and `test` share no noise, and not on
    the method, the batch size or the device.
    """
    rows = []
    for index in indices:
        key = zlib.crc32(f"{suite.name}/{suite.seed}/{index}/{seed}".encode())
        rows.append(torch.randn(tuple(shape), generator=torch.Generator().manual_seed(key)))
    return torch.stack(rows)
