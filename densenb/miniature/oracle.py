"""The judge of the synthetic world: a small U-Net that names the object and the color at a pixel.

It was trained on renders, and on renders that went through the autoencoder, were blurred or were
noised, because what it judges are generated pictures; strongly smeared ones are labelled
background, so that a colored blob does not count as an object.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from densenb.miniature.world import COLOURS, NOUNS

WEIGHTS = Path(__file__).parent / "assets" / "oracle.safetensors"
GRID = 64  # labels a side, a quarter of the 256 px picture


class OracleLabels(NamedTuple):
    """`noun [B, 64, 64]`: 0 background, n + 1 for NOUNS[n]; `colour [B, 64, 64]`: 0 background,
    1 natural colors, c + 2 for the c-th of COLOURS."""

    noun: Tensor
    colour: Tensor


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, inner: int, width: int):
        super().__init__()
        self.shortcut = nn.Conv2d(inner, width, 1) if inner != width else nn.Identity()
        self.first, self.second = (
            nn.Sequential(nn.GroupNorm(8, n), nn.SiLU(), nn.Conv2d(n, width, 3, padding=1))
            for n in (inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x))


class Oracle(nn.Module):
    """Pictures `[B, 3, 256, 256]` in [0, 1] to labels on a 64 x 64 grid."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 40, 3, stride=2, padding=1),
        )
        self.early = ResidualBlock(40, 40)
        self.down1 = nn.Sequential(nn.AvgPool2d(2), ResidualBlock(40, 64), ResidualBlock(64, 64))
        self.down2 = nn.Sequential(nn.AvgPool2d(2), ResidualBlock(64, 96), ResidualBlock(96, 96))
        self.down3 = nn.Sequential(nn.AvgPool2d(2), ResidualBlock(96, 96), ResidualBlock(96, 96))
        self.up3 = ResidualBlock(96 + 96, 96)
        self.up2 = ResidualBlock(96 + 64, 64)
        self.up1 = ResidualBlock(64 + 40, 56)
        self.noun = nn.Conv2d(56, 1 + len(NOUNS), 1)
        self.colour = nn.Conv2d(56, 2 + len(COLOURS), 1)

    def _early(self, images: Tensor) -> Tensor:
        return self.early(self.stem(2 * images - 1))

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Noun logits `[B, 101, 64, 64]` and color logits `[B, 18, 64, 64]`."""

        def joined(low: Tensor, high: Tensor) -> Tensor:
            return torch.cat([F.interpolate(low, scale_factor=2.0), high], 1)

        x1 = self._early(images)  # (B, 40, 64, 64)
        x2 = self.down1(x1)  # (B, 64, 32, 32)
        x3 = self.down2(x2)  # (B, 96, 16, 16)
        x = self.up3(joined(self.down3(x3), x3))  # (B, 96, 16, 16)
        x = self.up2(joined(x, x2))  # (B, 64, 32, 32)
        x = F.silu(self.up1(joined(x, x1)))  # (B, 56, 64, 64)
        return self.noun(x), self.colour(x)

    @torch.no_grad()
    def forward(self, images: Tensor) -> OracleLabels:
        return OracleLabels(*(logits.argmax(1) for logits in self.logits(images)))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Mean and spread over the picture of the early features, `[B, 80]`: texture and color
        statistics below the layers that recognize objects, for the quality guard."""
        x = self._early(images)  # (B, 40, 64, 64)
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)  # (B, 80)


@functools.cache
def load_oracle(device: str = "cpu") -> Oracle:
    """The bundled oracle, frozen, in float32."""
    oracle = Oracle()
    oracle.load_state_dict({name: weight.float() for name, weight in load_file(WEIGHTS).items()})
    return oracle.eval().requires_grad_(False).to(device)
