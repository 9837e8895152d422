"""Rendered scenes and their labels, from which training draws."""

from __future__ import annotations

import torch
from torch import Tensor

from densenb.miniature import models
from densenb.miniature.oracle import GRID
from densenb.miniature.world import World, sample_scenes


class Pool:
    """Renders kept on the device as bytes, with their labels."""

    def __init__(self, size: int, device: torch.device, seed: int, chunk: int = 256):
        world, side = World(device), models.PIXELS
        self.images = torch.empty(size, 3, side, side, dtype=torch.uint8, device=device)
        self.nouns = torch.empty(size, GRID, GRID, dtype=torch.uint8, device=device)
        self.colours = torch.empty_like(self.nouns)
        scenes = sample_scenes(size, seed=seed)
        for i in range(0, size, chunk):
            part = slice(i, i + chunk)
            drawn = world.render(scenes[part])
            self.images[part] = (drawn.images * 255).round().byte()
            # the label at the middle of each 4 x 4 patch of pixels
            self.nouns[part] = drawn.nouns[:, 2::4, 2::4]
            self.colours[part] = drawn.colours[:, 2::4, 2::4]

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Random indices of renders, `[count]`."""
        return randint(len(self.images), (count,), generator)

    def crops(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Random square crops `[count, 3, side, side]` in [-1, 1]."""
        line = torch.arange(side, device=generator.device)
        y, x = randint(models.PIXELS - side + 1, (2, count, 1), generator)  # (count, 1) each
        rows, columns = (y + line)[:, None, :, None], (x + line)[:, None, None, :]
        planes = torch.arange(3, device=generator.device)[:, None, None]
        index = self.pick(count, generator)[:, None, None, None]  # (count, 1, 1, 1)
        return self.images[index, planes, rows, columns].float() / 127.5 - 1


def randint(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Whole numbers below `high`, drawn on the generator's device."""
    return torch.randint(high, shape, generator=generator, device=generator.device)
