"""`generate`: from a layout to pictures. Taught in notebook 00."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from densenb.layout.layout import Layout
from densenb.layout.validation import check_count, is_whole
from densenb.models.overflow import check_finite
from densenb.models.pipeline import Pipeline
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule
from densenb.sd3.dense_attention import dense_attention


def generators(seeds_or_count: int | Iterable[int]) -> list[torch.Generator]:
    """One random generator per picture.

    They are on the CPU, so that every device and every method starts from the same noise.

    Args:
        seeds_or_count: The seeds, or how many: then seeds 0 to count - 1.

    Returns:
        One generator for each seed.

    Raises:
        ValueError: For an empty list, or seeds that are not whole numbers from 0 to 2**64 - 1.
    """
    if is_whole(seeds_or_count):
        seeds = list(range(seeds_or_count))
    else:
        seeds = list(seeds_or_count) if isinstance(seeds_or_count, Iterable) else []
    if not seeds or not all(is_whole(seed) and 0 <= seed < 2**64 for seed in seeds):
        raise ValueError(
            f"seeds is {seeds_or_count!r}, but has to be how many (at least 1), or a list of whole "
            "numbers from 0 to 2**64 - 1."
        )
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def generate(
    pipe: Pipeline,
    layout: Layout,
    seeds: int | Iterable[int] = 4,
    config: Rule | None = DenseConfig(),  # noqa: B008 (frozen)
    steps: int | None = None,
    guidance: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **call_kwargs: Any,
) -> list[Image.Image]:
    """Make one picture per seed. A seed's picture does not depend on the other seeds.

    Args:
        pipe: The pipeline of `densenb.load`, or another Stable Diffusion 3.5 pipeline.
        layout: The caption and its regions.
        seeds: The seeds, or how many, as in `generators`.
        config: A `DenseConfig` or another `Rule`. None gives the stock pictures: the same text,
            noise, steps and guidance, without the layout.
        steps: Sampling steps; by default those of the model's tier.
        guidance: Guidance scale; by default that of the model's tier.
        progress: Called as `progress(done, total)` after every step, instead of a progress bar.
        **call_kwargs: More arguments for the pipeline's call.

    Returns:
        The PIL pictures, in the order of the seeds.

    Raises:
        ValueError: Before any sampling, for anything that does not fit the model.
        Overflow: A RuntimeError, if latents or pixels are not finite.
    """
    if not isinstance(layout, Layout):
        raise ValueError(f"layout is {layout!r}, but has to be one Layout.")
    for name in ("generator", "output_type", "return_dict"):
        if name in call_kwargs:
            raise ValueError(
                f"{name} cannot be given to generate, which makes one PIL picture per seed: call "
                "pipe(**dense.inputs, ...) inside dense_attention."
            )
    chosen = {"num_inference_steps": steps, "guidance_scale": guidance}
    call_kwargs |= {name: value for name, value in chosen.items() if value is not None}
    noise = generators(seeds)
    with dense_attention(pipe, layout, config, **call_kwargs) as dense:
        inputs = dict(dense.inputs)
        edit = inputs.pop("callback_on_step_end", None)  # the caller's, or a rule's on latents
        total = inputs["num_inference_steps"]
        check_count("steps", total)
        done, every = count(1), len(noise) * total
        with tqdm(total=every, desc="sampling", unit="step", disable=bool(progress)) as bar:

            def after_step(_: Any, index: int, time: Any, state: dict[str, Any]) -> dict[str, Any]:
                if edit is not None:
                    state = {**state, **(edit(pipe, index, time, state) or {})}
                check_finite(state["latents"], f"the latents of step {index + 1} of {total}")
                bar.update()
                if progress is not None:
                    progress(next(done), every)
                return state

            images = []
            for generator in noise:
                pixels = pipe(
                    **inputs,
                    generator=generator,
                    output_type="pt",
                    callback_on_step_end=after_step,
                ).images
                check_finite(pixels, "the pixels of the decoded picture")
                images += pipe.image_processor.numpy_to_pil(
                    pipe.image_processor.pt_to_numpy(pixels)
                )
    return images
