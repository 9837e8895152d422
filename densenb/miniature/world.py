"""The synthetic world: colored objects on nameable backgrounds, with exact masks and labels.

Two halves. `sample_scenes` draws *descriptions* (which noun, which color, where) as plain tensors;
`World.render` turns a batch of them into pictures and per-object masks, on a CPU or a GPU. Nothing
is random in the renderer, so a scene is a picture.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.miniature import backgrounds, sprites

NOUNS = tuple(sprites.OBJECTS)
BACKGROUNDS = backgrounds.NAMES
COLOURS = {
    "red": (225, 30, 35), "orange": (248, 130, 15), "yellow": (250, 222, 40),
    "green": (55, 170, 60), "teal": (0, 150, 145), "blue": (35, 95, 235),
    "purple": (150, 55, 205), "pink": (248, 85, 170), "brown": (115, 68, 35),
    "black": (42, 42, 46), "white": (242, 242, 242), "gray": (138, 138, 140),
    "indigo": (62, 20, 150), "crimson": (145, 5, 40), "blush": (246, 190, 182),
    "gold": (205, 158, 30),
}  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)
BLOSSOMS = tuple("red orange yellow purple pink white blue crimson blush gold".split())
MAX_OBJECTS = 4
CONTRAST = 32.0  # least distance of an object's color from its background's, CIE Lab units
NATURAL = -1  # "no color word" in a scene's color fields, "no object" in its noun field
SPLITS = {"train": 0, "tune": 1, "test": 2}


@dataclasses.dataclass
class Scenes:
    """A batch of scene descriptions; every field is a tensor with the batch first.

    Positions are fractions of the picture's sides, sizes fractions of its shorter side, angles
    radians. Object slots are in painting order, the last one in front.
    """

    noun: Tensor  # [B, 4] index into NOUNS, -1 where there is no object
    colour: Tensor  # [B, 4] index into COLOUR_NAMES, -1 for natural colors
    colour2: Tensor  # [B, 4] the lower half's color of a two-color object, else -1
    centre: Tensor  # [B, 4, 2] x, y
    size: Tensor  # [B, 4]
    angle: Tensor  # [B, 4]
    flip: Tensor  # [B, 4] bool
    background: Tensor  # [B] index into BACKGROUNDS
    variant: Tensor  # [B] which drawing of the background
    crop: Tensor  # [B, 4] x, y, scale, mirror of the background's crop
    blossom: Tensor  # [B, 3] index into COLOUR_NAMES for the three blossom slots

    def __len__(self) -> int:
        return len(self.noun)

    def __getitem__(self, rows: slice | Tensor) -> Scenes:
        return self._map(lambda value: value[rows])

    def to(self, device: torch.device) -> Scenes:
        return self._map(lambda value: value.to(device))

    def slot(self, slot: int) -> Scenes:
        """One object slot of every scene, without the slot axis; backgrounds stay as they are."""
        per_object = ("noun", "colour", "colour2", "centre", "size", "angle", "flip")
        return dataclasses.replace(self, **{n: getattr(self, n)[:, slot] for n in per_object})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Scenes:
        return Scenes(*map(change, vars(self).values()))


@dataclasses.dataclass
class Rendered:
    """Pictures and their ground truth.

    `images [B, 3, H, W]` in [0, 1]; `masks [B, 4, H, W]` bool, the visible pixels of each object;
    `nouns [B, H, W]`: 0 for background, n + 1 for NOUNS[n]; `colours [B, H, W]`: 0 for background,
    1 for an object's natural colors, c + 2 for COLOUR_NAMES[c].
    """

    images: Tensor
    masks: Tensor
    nouns: Tensor
    colours: Tensor


def lab(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1] to CIE Lab, colors in the last dimension."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = rgb.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / rgb.new_tensor([0.9505, 1.0, 1.089])
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@functools.cache
def palette() -> Tensor:
    """The colors as RGB in [0, 1]: `[16, 3]`."""
    return torch.tensor(list(COLOURS.values())) / 255


@functools.cache
def _contrasts() -> tuple[Tensor, Tensor]:
    """Lab distance to the background's nearest dominant color, of every color `[G, 16]` and of
    every object in its natural colors `[G, N]`."""
    art = sprites.load()[: len(NOUNS)]
    natural = (art[:, :3] * art[:, 3:]).sum((2, 3)) / art[:, 3:].sum((2, 3))
    tones = [lab(torch.tensor(tones) / 255) for _, tones in backgrounds.BACKGROUNDS.values()]
    colours, nouns = (
        torch.stack([torch.cdist(lab(each), tone).amin(1) for tone in tones])
        for each in (palette(), natural)
    )
    return colours, nouns


def _placements(count: Tensor, size: Tensor, g: torch.Generator, tries: int = 24) -> Tensor:
    """Centers `[B, 4, 2]`: of `tries` random proposals, the one whose boxes overlap least."""
    batch = len(count)
    half = size[:, None, :, None] / 2  # (B, 1, 4, 1)
    centre = half + torch.rand(batch, tries, MAX_OBJECTS, 2, generator=g) * (1 - 2 * half)
    gap = (centre[:, :, :, None] - centre[:, :, None]).abs()  # (B, tries, 4, 4, 2)
    reach = (half[:, :, :, None] + half[:, :, None]).expand_as(gap)
    overlap = (reach - gap).clamp_min(0).prod(-1)  # (B, tries, 4, 4)
    there = torch.arange(MAX_OBJECTS) < count[:, None]
    pairs = there[:, :, None] & there[:, None] & ~torch.eye(MAX_OBJECTS, dtype=torch.bool)
    best = (overlap * pairs[:, None]).sum((2, 3)).argmin(1)
    return centre[torch.arange(batch), best]


def sample_scenes(
    count: int,
    split: str = "train",
    seed: int = 0,
    min_objects: int = 1,
    max_objects: int = MAX_OBJECTS,
    coloured: float = 0.7,
    two_colour: float = 0.08,
) -> Scenes:
    """Draw scene descriptions; the same arguments always give the same scenes.

    `split` is "train", "tune" or "test": disjoint random streams. `coloured` is the share of
    objects that carry a color word (the others keep natural colors), `two_colour` the share of
    those that carry two. Colors too close to the background are never drawn.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not 1 <= min_objects <= max_objects <= MAX_OBJECTS:
        raise ValueError(
            f"objects {min_objects}..{max_objects} must satisfy 1 <= min <= max <= {MAX_OBJECTS}"
        )
    g = torch.Generator().manual_seed(seed * len(SPLITS) + SPLITS[split])
    slots = (count, MAX_OBJECTS)

    weights = torch.tensor([0.25, 0.35, 0.25, 0.15])[min_objects - 1 : max_objects]
    number = min_objects + torch.multinomial(weights, count, True, generator=g)
    there = torch.arange(MAX_OBJECTS) < number[:, None]
    noun = torch.rand(count, len(NOUNS), generator=g).topk(MAX_OBJECTS, 1).indices
    background = torch.randint(len(BACKGROUNDS), (count,), generator=g)

    by_colour, by_noun = _contrasts()
    allowed = (by_colour >= CONTRAST).float()[background]
    colour = torch.multinomial(allowed, MAX_OBJECTS, True, generator=g)
    second = torch.multinomial(allowed, MAX_OBJECTS, True, generator=g)
    faint = by_noun[background[:, None], noun] < CONTRAST
    painted = (torch.rand(slots, generator=g) < coloured) | faint
    twice = painted & (torch.rand(slots, generator=g) < two_colour) & (second != colour)

    # the more objects, the smaller: at four, 0.26-0.45 of the side, alone 0.26-0.75
    largest = torch.tensor([0.75, 0.62, 0.52, 0.45])[number - 1, None]
    size = 0.26 + torch.rand(slots, generator=g) * (largest - 0.26)
    crop_scale = 0.8 + 0.2 * torch.rand(count, generator=g)
    mirror = (torch.rand(count, generator=g) < 0.5).float()
    kinds = torch.randint(1, backgrounds.SLOTS + 1, (count,), generator=g)
    names = torch.tensor([COLOUR_NAMES.index(name) for name in BLOSSOMS])
    shades = lab(palette())
    alike = torch.cdist(shades[names], shades) < CONTRAST  # blossoms must not hide an object
    worn = F.one_hot(colour.masked_fill(~painted, len(COLOURS)), len(COLOURS) + 1)  # (B, 4, 17)
    hidden = (worn[..., :-1].sum(1).float() @ alike.T.float()) > 0
    chance = torch.rand(count, len(BLOSSOMS), generator=g).masked_fill(hidden, -1)
    flowers = chance.topk(backgrounds.SLOTS, 1).indices
    flowers = flowers.gather(1, torch.arange(backgrounds.SLOTS) % kinds[:, None])
    return Scenes(
        noun=noun.masked_fill(~there, NATURAL),
        colour=colour.masked_fill(~(there & painted), NATURAL),
        colour2=second.masked_fill(~(there & twice), NATURAL),
        centre=_placements(number, size, g),
        size=size,
        angle=(torch.rand(slots, generator=g) * 2 - 1) * 0.24,
        flip=torch.rand(slots, generator=g) < 0.5,
        background=background,
        variant=torch.randint(backgrounds.VARIANTS, (count,), generator=g),
        crop=torch.stack([*torch.rand(2, count, generator=g), crop_scale, mirror], 1),
        blossom=names[flowers],
    )


def tint(luminance: Tensor, colour: Tensor) -> Tensor:
    """Paint by numbers: a ramp from a dark to a light version of a color, `[B, 3, h, w]`.

    The ramp's ends stay apart for every color, so that features show in black and white things
    too. `luminance [B, 1, h, w]` in [0, 1]; `colour [B, 3, h, w]`.
    """
    dark, light = 0.45 * colour, colour + 0.55 * (1 - colour)
    below, above = (2 * luminance).clamp(0, 1), (2 * luminance - 1).clamp(0, 1)
    return dark + (colour - dark) * below + (light - colour) * above


class World:
    """The renderer. Holds sprites and backgrounds on `device`; drawing them all takes seconds, so
    backgrounds are drawn when first needed."""

    def __init__(self, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        art = sprites.load()[: len(NOUNS)].to(self.device)
        self._art = torch.cat([art, self._luminance(art)], 1)  # [N, 5, h, w]
        # objects drawn at under half a tile would alias: they sample a blurred copy instead
        half = F.interpolate(self._art, scale_factor=0.5, mode="area")
        self._blurred = F.interpolate(half, self._art.shape[-2:], mode="bilinear")
        self._banks: dict[int, Tensor] = {}

    @staticmethod
    def _luminance(art: Tensor) -> Tensor:
        """Each sprite's luminance, stretched to its own range and centered on one half, so that a
        tint shows equally on dark and on pale objects: `[N, 1, h, w]`."""
        levels = []
        for plane, inside in zip(art[:, :3].mean(1), art[:, 3] > 0.5):
            low, high = plane[inside].quantile(0.02), plane[inside].quantile(0.98)
            level = ((plane - low) / (high - low).clamp_min(0.05)).clamp(0, 1)
            middle = level[inside].mean().clamp(0.1, 0.9)
            levels.append(level ** (torch.log(torch.tensor(0.5)) / middle.log()))
        return torch.stack(levels)[:, None]

    def _bank(self, background: int) -> Tensor:
        """All variants of a background: `[V, 6, SIZE, SIZE]`."""
        if background not in self._banks:
            name = BACKGROUNDS[background]
            drawn = [backgrounds.draw(name, v) for v in range(backgrounds.VARIANTS)]
            self._banks[background] = torch.stack(drawn).to(self.device)
        return self._banks[background]

    def _backdrop(self, scenes: Scenes, height: int, width: int) -> Tensor:
        """The scenes' backgrounds, blossoms painted: `[B, 3, H, W]`."""
        batch = len(scenes)
        planes = torch.empty(batch, 6, backgrounds.SIZE, backgrounds.SIZE, device=self.device)
        for index in scenes.background.unique().tolist():
            rows = scenes.background == index
            planes[rows] = self._bank(index)[scenes.variant[rows]]
        x, y, scale, mirror = scenes.crop.unbind(1)
        longest = max(height, width)
        sx, sy = scale * width / longest, scale * height / longest
        theta = torch.zeros(batch, 2, 3, device=self.device)
        theta[:, 0, 0], theta[:, 1, 1] = sx * (1 - 2 * mirror), sy
        theta[:, 0, 2], theta[:, 1, 2] = (2 * x - 1) * (1 - sx), (2 * y - 1) * (1 - sy)
        grid = F.affine_grid(theta, (batch, 6, height, width), align_corners=False)
        smooth = F.grid_sample(planes[:, :5], grid, padding_mode="border", align_corners=False)
        slot = F.grid_sample(planes[:, 5:], grid, mode="nearest", align_corners=False)
        slot = slot.long().clamp(0, backgrounds.SLOTS - 1)  # (B, 1, H, W)
        colours = palette().to(self.device)[scenes.blossom]  # (B, 3 slots, 3)
        petals = colours[torch.arange(batch, device=self.device)[:, None, None], slot[:, 0]]
        petals = petals.permute(0, 3, 1, 2)  # (B, 3, H, W)
        rgb, alpha, luminance = smooth.split([3, 1, 1], 1)
        return rgb + (tint(luminance, petals) - rgb) * alpha

    def _artwork(self, one: Scenes, side: int, planes=slice(None)) -> Tensor:
        """Sprites of one slot in a picture of `side` pixels: some of RGB, alpha and luminance."""
        noun = one.noun.clamp_min(0)
        small = (one.size * side < sprites.TILE / 2)[:, None, None, None]
        return torch.where(small, self._blurred[noun, planes], self._art[noun, planes])

    def _paint(self, one: Scenes, side: int) -> Tensor:
        """Tinted, premultiplied sprites of one slot at tile size, `[B, 5, h, w]`: RGB, alpha, and
        the height within the sprite (-1 at its top, 1 at its foot)."""
        art = self._artwork(one, side)
        first = one.colour
        second = torch.where(one.colour2 < 0, first, one.colour2)
        colours = palette().to(self.device)
        top, bottom = (colours[c.clamp_min(0)][:, :, None, None] for c in (first, second))
        down = torch.linspace(-1, 1, sprites.TILE, device=self.device)[:, None]
        colour = top + (bottom - top) * torch.sigmoid(14 * down)
        rgb, alpha, luminance = art.split([3, 1, 1], 1)
        painted = (first >= 0)[:, None, None, None] * 0.9  # a tenth of the artwork shines through
        rgb = rgb + (tint(luminance, colour) - rgb) * painted
        return torch.cat([rgb * alpha, alpha, down.expand_as(alpha)], 1)

    def _put(self, one: Scenes, tiles: Tensor, height: int, width: int) -> Tensor:
        """Tiles of one slot `[B, C, h, w]` in their places in the pictures `[B, C, H, W]`."""
        aspect = torch.tensor([width, height], device=self.device) / min(height, width)
        # from output coordinates in [-1, 1] to sprite coordinates: turn, mirror, scale
        cos, sin = one.angle.cos() / one.size, one.angle.sin() / one.size
        mirror = 1 - 2 * one.flip.float()
        rows = [torch.stack([cos * mirror, sin * mirror], 1), torch.stack([-sin, cos], 1)]
        turn = torch.stack(rows, 1) * aspect  # (B, 2, 2)
        theta = torch.cat([turn, -turn @ (2 * one.centre - 1)[:, :, None]], 2)  # (B, 2, 3)
        grid = F.affine_grid(theta, (len(one), 1, height, width), align_corners=False)
        there = (one.noun >= 0)[:, None, None, None]
        return F.grid_sample(tiles, grid, align_corners=False) * there

    @torch.no_grad()
    def render(self, scenes: Scenes, height: int = 256, width: int = 256) -> Rendered:
        """Draw a batch of scenes, in painting order, at any size in pixels."""
        scenes = scenes.to(self.device)
        images = self._backdrop(scenes, height, width)
        masks = images.new_zeros(len(scenes), MAX_OBJECTS, height, width, dtype=torch.bool)
        nouns, colours = images.new_zeros(2, len(scenes), height, width, dtype=torch.long)
        for slot in range(MAX_OBJECTS):
            one = scenes.slot(slot)
            layer = self._put(one, self._paint(one, min(height, width)), height, width)
            rgb, alpha, down = layer.split([3, 1, 1], 1)  # (B, 3, H, W) and (B, 1, H, W) twice
            images = images * (1 - alpha) + rgb
            solid = alpha[:, 0] > 0.5
            masks &= ~solid[:, None]
            masks[:, slot] = solid
            noun, first, second = (x[:, None, None] for x in (one.noun, one.colour, one.colour2))
            colour = torch.where((down[:, 0] > 0) & (second >= 0), second, first)
            nouns = torch.where(solid, noun + 1, nouns)
            colours = torch.where(solid, colour + 2, colours)  # natural is -1: label 1
        return Rendered(images.clamp(0, 1), masks, nouns, colours)

    @torch.no_grad()
    def silhouettes(self, scenes: Scenes, height: int = 256, width: int = 256) -> Tensor:
        """The whole outline of each object, with what others hide of it: `[B, 4, H, W]` bool.

        Far cheaper than pictures: nothing is painted.
        """
        alphas = []
        for one in map(scenes.to(self.device).slot, range(MAX_OBJECTS)):
            alpha = self._artwork(one, min(height, width), slice(3, 4))
            alphas.append(self._put(one, alpha, height, width))
        return torch.cat(alphas, 1) > 0.5


def visible(silhouettes: Tensor) -> Tensor:
    """What is seen of silhouettes `[B, N, H, W]` in painting order: the masks of `World.render`."""
    in_front = silhouettes.flip(1).cumsum(1).flip(1) - silhouettes.long()
    return silhouettes & (in_front == 0)


@functools.cache
def shared_world(device: str) -> World:
    """One renderer for each device, kept because its backgrounds take seconds to draw."""
    return World(device)
