"""The sprites of the synthetic world: one RGBA sheet, cut into tiles.

The sheet is made from Fluent Emoji 3D by Microsoft (MIT, see NOTICE) with `tools/sprites.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SHEET = Path(__file__).parent / "assets" / "sprites.webp"
TILE = 160  # pixels a side
COLUMNS = 12

# Near-twins under a tint (goat and dog, tiger and cat, truck and bus, shark and dolphin) are left
# out: neither a person nor the oracle could tell them apart.
OBJECTS = """cat dog rabbit fox bear panda lion horse cow pig sheep elephant giraffe camel
kangaroo monkey gorilla mouse hedgehog squirrel bat penguin owl duck rooster parrot peacock
flamingo swan turtle frog snake crocodile dinosaur whale dolphin fish octopus squid crab lobster
butterfly bee ladybug snail dragon unicorn umbrella balloon car bus bicycle airplane helicopter
rocket sailboat train tractor castle house tent guitar violin trumpet drum camera telephone clock
key lantern candle book chair bell trophy crown hat dress shoe backpack gift teapot robot kite
ball heart star apple banana pear pineapple strawberry watermelon pumpkin carrot mushroom cake
pizza burger cactus""".split()
SCENERY = ["rose", "tulip", "pine"]  # in backgrounds, never objects
NAMES = (*OBJECTS, *SCENERY)


@functools.cache
def load() -> torch.Tensor:
    """All tiles in the order of `NAMES`, float RGBA in [0, 1]: `[N, 4, TILE, TILE]`."""
    sheet = torch.from_numpy(np.array(Image.open(SHEET).convert("RGBA")))  # (rows * T, 12 * T, 4)
    tiles = sheet.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE))  # (rows, T, 12, T, 4)
    tiles = tiles.permute(0, 2, 4, 1, 3).flatten(0, 1)  # (rows * 12, 4, T, T)
    return tiles[: len(NAMES)].float() / 255


def tile(name: str) -> torch.Tensor:
    """One tile by name, RGBA `[4, TILE, TILE]`."""
    return load()[NAMES.index(name)]
