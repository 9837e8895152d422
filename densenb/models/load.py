"""`load`: a pipeline by its name, or from a folder.

Every model is a stock `StableDiffusion3Pipeline`. Taught in notebooks 00 and 01.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from densenb.models.architecture import PARTS, REPOSITORIES, saved_sizes, sizes
from densenb.models.download import WITHOUT_T5, cache_folder, fetch, is_cached
from densenb.models.load_planned import dtype_argument, load_planned, quiet_loading
from densenb.models.memory_plan import MemoryPlan, choose, here
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import TIERS, TINY, Tier, generic_tier, set_tier

MINIATURE = Path(__file__).parents[1] / "miniature" / "assets" / "model"
PLANNED_GB = 2.0  # models with more weights are loaded by a memory plan


def load(
    name_or_path: str | Path = "tiny",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    t5: bool = True,
    plan: MemoryPlan | None = None,
) -> Pipeline:
    """A pipeline ready to sample: in eval mode, without gradients, its own progress bar off.

    Args:
        name_or_path: "tiny", the bundled miniature; "medium" or "large", Stable Diffusion 3.5,
            gated, downloaded on first use; or a folder that `save_pretrained` wrote.
        device, dtype: for small models the CPU and float32 by default. Full-size ones take the GPU
            where there is one, and float16 below compute capability 8.0.
        t5: False leaves the largest text encoder out: less memory, weaker on long captions.
        plan: how to load (`memory_plan.choose`); by default the best for this machine.

    A full-size model prints its memory plan before anything is downloaded, and loads its text
    encoders only when a new text comes. Raises ValueError, with what to do, for an unknown name,
    without access, and for what does not fit this machine.
    """
    gated, tiny = name_or_path in REPOSITORIES, name_or_path == "tiny"
    folder = MINIATURE if tiny else Path(name_or_path)
    if not gated and not (folder / "model_index.json").is_file():
        raise ValueError(
            "the bundled miniature is missing from this copy of densenb (miniature/assets/model "
            "has no model_index.json): install densenb again, from the full repository."
            if tiny
            else f"{str(name_or_path)!r} is neither 'tiny', 'medium' or 'large' nor a folder with a"
            " saved pipeline (model_index.json): check the path, or use 'tiny'."
        )
    if gated or (plan is None and weights_gb(folder) > PLANNED_GB):
        plan = plan or plan_for(name_or_path if gated else folder, device, dtype, t5=t5)
        print(plan)
        plan.require()
    if plan is not None:
        pipe = load_planned(fetch(name_or_path, plan.precisions) if gated else folder, plan)
        pipe.set_progress_bar_config(disable=True)
        this = TIERS[name_or_path] if gated else generic_tier(pipe, folder.resolve().name)
        label = f"{this.label} ({plan.label})"
        set_tier(pipe, replace(this, label=label, height=plan.side, width=plan.side))
        return pipe
    without = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    with quiet_loading():
        pipe = StableDiffusion3Pipeline.from_pretrained(
            folder, local_files_only=True, **{dtype_argument(): dtype or torch.float32}, **without
        )
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    set_tier(pipe, TINY if tiny else _saved_tier(pipe, folder.resolve()))
    return pipe.to(device or "cpu")


def load_or_tiny(name_or_path: str | Path, **options: Any) -> Pipeline:
    """`load`, but the miniature, under a banner, if the model cannot be had here.

    For the first cell of a notebook, so that the lesson can run; programs should use `load`.
    """
    try:
        return load(name_or_path, **options)
    except (ValueError, OSError) as error:
        reason = f"{str(name_or_path)!r} cannot be loaded: {error}"
        reason = textwrap.fill(reason, 76, break_long_words=False, break_on_hyphens=False)
        rule = "=" * 76
        print(f"{rule}\n{reason}\n\nThis lesson goes on with the MINIATURE.\n{rule}")
        return load("tiny")


def plan_for(
    name_or_path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    t5: bool = True,
) -> MemoryPlan:
    """The memory plan that `load` would follow on this machine, for a name or a saved folder."""
    device = None if device is None else str(device)
    kind = None if dtype is None else str(dtype).removeprefix("torch.")
    if name_or_path in REPOSITORIES:
        name, components, cache = name_or_path, sizes(name_or_path), cache_folder()
        download = not is_cached(name, PARTS if t5 else WITHOUT_T5)
    else:
        cache = Path(name_or_path)
        name, components, download = cache.resolve().name, saved_sizes(cache), False
    machine = here(device, folder=cache)
    return choose(name, components, machine, t5=t5, dtype=kind, download=download)


def weights_gb(folder: Path) -> float:
    """GB of weights (`*.safetensors`) in a saved pipeline."""
    return sum(path.stat().st_size for path in folder.glob("*/*.safetensors")) / 1e9


def _saved_tier(pipe: Pipeline, folder: Path) -> Tier:
    """The miniature's tier if the folder has its tokens: another state of it (`make states`)."""
    files = [root / "tokenizer_3" / "tokenizer.json" for root in (folder, MINIATURE)]
    saved = [json.loads(file.read_text("utf-8"))["model"] for file in files if file.is_file()]
    if len(saved) == 2 and saved[0] == saved[1]:
        return replace(TINY, label=f"{TINY.label}, {folder.parent.name}/{folder.name}")
    return generic_tier(pipe, name=folder.name)
