"""DenseDiffusion for Stable Diffusion 3.5: paint regions, and a frozen model follows.

    import densenb as dnb

    pipe = dnb.load("tiny")
    layout = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [
        dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
        dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
    ])
    images = dnb.generate(pipe, layout, seeds=range(4), config=dnb.DenseConfig.recommended(pipe))

Names are imported when they are first used: torch, diffusers and transformers take seconds.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP reads this once, when torch is loaded. Threads that spin while they wait are slow beside
# other busy processes (`tests/benchmarks/busy.py` shows both figures).
TORCH_CAME_FIRST = "torch" in sys.modules and "OMP_WAIT_POLICY" not in os.environ  # too late
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Both warn at import about faster code of other packages that densenb never uses.
for _name in ("bitsandbytes.backends.cpu.ops", "transformers.utils.import_utils"):
    logging.getLogger(_name).setLevel(logging.ERROR)

if TYPE_CHECKING:
    from densenb.layout.label_maps import regions_from_label_map
    from densenb.layout.layout import Layout, Region
    from densenb.layout.mask_files import mask_from_png
    from densenb.layout.masks import box, ellipse, mask_from_array, polygon
    from densenb.models.load import load, load_or_tiny
    from densenb.models.tiers import tier
    from densenb.modulation.baselines import HardMask
    from densenb.modulation.dense_config import DenseConfig
    from densenb.recording.recorder import record_attention
    from densenb.sampling import generate, generators
    from densenb.sd3.dense_attention import dense_attention
    from densenb.sd3.preview import preview

__all__ = [
    "DenseConfig", "HardMask", "Layout", "Region", "box", "dense_attention", "ellipse", "generate",
    "generators", "load", "load_or_tiny", "mask_from_array", "mask_from_png", "polygon", "preview",
    "record_attention", "regions_from_label_map", "tier",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    "layout.label_maps": ["regions_from_label_map"],
    "layout.layout": ["Layout", "Region"],
    "layout.mask_files": ["mask_from_png"],
    "layout.masks": ["box", "ellipse", "mask_from_array", "polygon"],
    "models.load": ["load", "load_or_tiny"],
    "models.tiers": ["tier"],
    "modulation.baselines": ["HardMask"],
    "modulation.dense_config": ["DenseConfig"],
    "recording.recorder": ["record_attention"],
    "sampling": ["generate", "generators"],
    "sd3.dense_attention": ["dense_attention"],
    "sd3.preview": ["preview"],
}
_ROOMS = (
    "attention", "evaluation", "layout", "lessons", "miniature", "models", "modulation", "plots",
    "recording", "sd3", "widgets",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"densenb.{module}"), name)
    if name in _ROOMS:
        return import_module(f"densenb.{name}")
    raise AttributeError(f"module 'densenb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
