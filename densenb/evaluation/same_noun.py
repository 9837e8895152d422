"""Two objects of one noun in a picture: which of the noun's pixels belong to which object?

A pixel inside the mask of one of the twins belongs to that twin. Any other pixel goes with its
connected blob: to the twin whose mask holds most of the blob, or, if no mask holds any of it, to
the twin whose mask center is nearest. So one cat between two masks counts once. Only a single cat
that reaches far into both masks counts for both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shared_out(pixels: Tensor, masks: Tensor) -> Tensor:
    """The pixels [h, w] of a noun divided between its T twins, by their masks: [T, h, w] bool."""
    distance = _distance_to_centre(masks)  # (T, h, w)
    owner = (distance - 2.0 * masks).argmin(0)  # (h, w); a pixel in a mask is nearest to it
    outside = ~masks.any(0)
    for blob in connected(pixels):
        votes = (blob & masks).sum((-2, -1))
        nearest = distance[:, blob].mean(1).argmin()
        owner[blob & outside] = votes.argmax() if votes.any() else nearest
    return pixels & (owner == torch.arange(len(masks), device=masks.device)[:, None, None])


def connected(pixels: Tensor) -> Tensor:
    """The connected blobs of a bool mask [h, w], corners touching: [K, h, w] bool."""
    labels = torch.arange(1, pixels.numel() + 1, device=pixels.device).view_as(pixels) * pixels
    while True:  # the largest number in a blob spreads over all of it
        spread = F.max_pool2d(labels[None].double(), 3, stride=1, padding=1)[0].long() * pixels
        if spread.equal(labels):
            return labels == labels[pixels].unique()[:, None, None]
        labels = spread


def _distance_to_centre(masks: Tensor) -> Tensor:
    """Distance of every pixel to the center of each mask, (T, h, w), in picture sides (< 2)."""
    height, width = masks.shape[-2:]
    y = torch.linspace(0, 1, height, device=masks.device)[:, None]
    x = torch.linspace(0, 1, width, device=masks.device)[None, :]
    area = masks.sum((-2, -1), keepdim=True).clamp(min=1)
    centre_y = (masks * y).sum((-2, -1), keepdim=True) / area
    centre_x = (masks * x).sum((-2, -1), keepdim=True) / area
    return torch.hypot(y - centre_y, x - centre_x)  # (T, h, w)
