"""One call of the transformer: its step, its sizes, and the layout of each batch row.

All of this comes from the call's arguments and the pipeline's guidance. Calls are never counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from densenb.models.pipeline import Pipeline
from densenb.modulation.plan import Step

ARGUMENTS = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")

Owners = tuple[int | None, ...]
"""The layout of each batch row; None for rows without one."""


class Reading(NamedTuple):
    """One pass: `batch` rows of grid[0] x grid[1] image tokens and `text` text tokens each.

    skipped: the blocks that a skip-layer pass leaves out, None in any other pass.
    """

    step: Step
    batch: int
    grid: tuple[int, int]
    text: int
    skipped: tuple[int, ...] | None
    device: torch.device


def read_pass(pipe: Pipeline, args: tuple, kwargs: dict) -> Reading:
    """The step and sizes of a call `pipe.transformer(*args, **kwargs)`.

    ValueError for timesteps that differ between rows or are not in the schedule, and for fewer
    texts than latents.
    """
    given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
    latents, skipped = given["hidden_states"], given.get("skip_layers")
    texts = given["encoder_hidden_states"].shape[0]
    if texts != latents.shape[0]:
        raise ValueError(
            f"the transformer got latents in {latents.shape[0]} rows, but texts in {texts}: "
            "diffusers does not repeat embeddings for num_images_per_prompt. Pass that to "
            "dense_attention(...), which does."
        )
    patch = pipe.transformer.config.patch_size
    return Reading(
        step=find_step(given["timestep"], pipe.scheduler),
        batch=latents.shape[0],
        grid=(latents.shape[-2] // patch, latents.shape[-1] // patch),
        text=given["encoder_hidden_states"].shape[1],
        skipped=None if skipped is None else tuple(skipped),
        device=latents.device,
    )


def row_owners(
    pipe: Pipeline,
    reading: Reading,
    layouts: int,
    named: Owners | None,
    context: str,
    negatives: Owners = (),
) -> Owners:
    """The layout (0 to `layouts` - 1) of every row: `named`, or derived from the guidance.

    A guided batch is [negative, positive]; a skip-layer pass is positive only. Negative rows have
    no layout, or the one in `negatives` (one for each layout). ValueError if the rows do not divide
    among the layouts; the message suggests `rows` of the `context` ("dense" or "record").
    """
    batch = reading.batch
    if named is not None:
        if len(named) != batch:
            raise ValueError(
                f"{context}.rows names {len(named)} rows, but the transformer got {batch}."
            )
        return named
    if getattr(pipe, "_guidance_scale", None) is None:
        raise ValueError(
            "the transformer was called outside pipe(...), so the layout of its rows is unknown: "
            f"name it, e.g. `with {context}.rows([None, 0]):` for negative and positive."
        )
    guided = pipe.do_classifier_free_guidance and reading.skipped is None
    negative = batch // 2 if guided else 0
    images, rest = divmod(batch - negative, layouts)
    if rest or (guided and batch % 2):
        raise ValueError(
            f"a batch of {batch} rows {'with' if guided else 'without'} guidance does not divide "
            f"among {layouts} layouts: give one prompt per layout (dense.inputs does), or name the "
            f"rows with {context}.rows."
        )
    positive = tuple(row // images for row in range(batch - negative))
    if not negatives:
        return (None,) * negative + positive
    return tuple(negatives[owner] for owner in positive[:negative]) + positive


def check_owners(owners: Owners, layouts: int) -> None:
    """ValueError for a row with an unknown layout."""
    for owner in owners:
        if owner is not None and owner not in range(layouts):
            raise ValueError(
                f"rows names layout {owner!r}, but layouts are 0 to {layouts - 1}, or None for a "
                "row that is left alone."
            )


# Of 1000: bfloat16 rounds a timestep by up to 2, and samplers take steps above 5.
SAME_TIMESTEP = 5.0


_fetched = WeakTensorKeyDictionary()  # schedule -> its timesteps as numbers


def find_step(timestep: Tensor, scheduler: Any) -> Step:
    """The step of a pass: its timestep's position in the schedule; ValueError if it has none."""
    schedule, total = scheduler.timesteps, scheduler.config.num_train_timesteps
    if schedule not in _fetched:
        _fetched[schedule] = schedule.tolist()
    known = _fetched[schedule]
    place = place_in(schedule, timestep)
    if place is not None:
        return Step(place, len(known), known[place] / total)
    values = timestep.detach().flatten().tolist()
    if min(values) != max(values):
        raise ValueError(f"one pass has timesteps {values}: its rows have to share one. Split it.")
    gaps = [abs(other - values[0]) for other in known]
    index = gaps.index(min(gaps))
    if gaps[index] > SAME_TIMESTEP:
        raise ValueError(
            f"timestep {values[0]:g} is not among the scheduler's {len(gaps)}: call "
            "pipe.scheduler.set_timesteps(steps) and take the timesteps from it."
        )
    return Step(index, len(known), values[0] / total)


def place_in(schedule: Tensor, timestep: Tensor) -> int | None:
    """The index of the schedule's element that `timestep` is a view of; None if it is not a view.

    Pipelines pass such views. No value is read: copying a number from a GPU waits for all of its
    pending work.
    """
    theirs, ours = (x.untyped_storage().data_ptr() for x in (schedule, timestep))
    if theirs != ours or schedule.stride() != (1,) or any(timestep.stride()):
        return None
    return timestep.storage_offset() - schedule.storage_offset()
