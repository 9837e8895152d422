"""Models and how to run them: `load`, what differs between them (`Tier`), and `generate`.

Every model is a stock `StableDiffusion3Pipeline`. Taught in notebooks 00 and 01.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from tqdm.auto import tqdm

from densenb.access import WITHOUT_T5, cache_folder, fetch, is_cached
from densenb.configs import PARTS, REPOSITORIES, saved_sizes, sizes
from densenb.finite import check_finite
from densenb.frugal import FrugalPipeline
from densenb.layout import Layout
from densenb.loading import dtype_argument, load_planned, quiet_loading
from densenb.memory import MemoryPlan, choose, here
from densenb.modulation import DenseConfig, Rule
from densenb.tokens import encode

MINIATURE = Path(__file__).parent / "tiny" / "assets" / "model"
PLANNED_GB = 2.0  # models with more weights are loaded by a memory plan
TEXT_ARGUMENTS = ("prompt", "prompt_2", "prompt_3", "prompt_embeds", "pooled_prompt_embeds")


@dataclass(frozen=True)
class Tier:
    """What differs from model to model; lessons read it and never ask for the model's name.

    label: for figures. height, width: pixels. steps, guidance: sampling steps and guidance scale.
    t5_length: tokens of T5 (`max_sequence_length`). tuned: the fields of `DenseConfig` that were
    measured best for it, or None.
    """

    name: str
    label: str
    height: int
    width: int
    steps: int
    guidance: float
    t5_length: int
    tuned: Mapping[str, Any] | None = None

    def stamp(self, seeds: Iterable[int]) -> str:
        """One line for the foot of a figure: model, size, steps, guidance and seeds."""
        return (
            f"{self.label} · {self.width} x {self.height} · {self.steps} steps · guidance "
            f"{self.guidance:g} · seeds {', '.join(map(str, seeds))}"
        )


TINY = Tier(
    name="tiny",
    label="miniature SD 3.5",
    height=256,
    width=256,
    steps=28,
    guidance=4.0,
    t5_length=44,
    # docs/sweep.md, 128 `tune` scenes: the highest mIoU among settings that keep presence and KID
    # near stock's. Six logits from pixels to their words and one back, early, and all other text
    # as it is: from 3 to 12 it hardly matters how many.
    tuned={
        "image_text": 6.0,
        "image_image": 0.0,
        "text_image": 1.0,
        "decay": 0.0,
        "area": 0.0,
        "value_range": None,
    },
)
# Guidance as Stability recommends; a picture's size is the memory plan's.
TIERS = {
    "medium": Tier("medium", "SD 3.5 medium", 1024, 1024, 28, 5.0, 256),
    "large": Tier("large", "SD 3.5 large", 1024, 1024, 28, 4.5, 256),
}
_tiers: WeakKeyDictionary[Any, Tier] = WeakKeyDictionary()


def load(
    name_or_path: str | Path = "tiny",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    t5: bool = True,
    plan: MemoryPlan | None = None,
) -> StableDiffusion3Pipeline:
    """A pipeline ready to sample: in eval mode, without gradients, its own progress bar off.

    Args:
        name_or_path: "tiny", the bundled miniature; "medium" or "large", Stable Diffusion 3.5,
            gated, downloaded on first use; or a folder that `save_pretrained` wrote.
        device, dtype: for small models the CPU and float32 by default. Full-size ones take the GPU
            where there is one, and float16 below compute capability 8.0.
        t5: False leaves the largest text encoder out: less memory, weaker on long captions.
        plan: how to load (`memory.choose`); by default the best for this machine.

    A full-size model prints its memory plan before anything is downloaded, and loads its text
    encoders only when a new text comes. Raises ValueError, with what to do, for an unknown name,
    without access, and for what does not fit this machine.
    """
    if name_or_path in REPOSITORIES:
        plan = plan or plan_for(str(name_or_path), device, dtype, t5=t5)
        print(plan)
        plan.require()
        pipe = load_planned(fetch(str(name_or_path), plan.precisions), plan)
        return _prepared(pipe, plan, TIERS[str(name_or_path)])
    tiny = name_or_path == "tiny"
    folder = MINIATURE if tiny else Path(name_or_path)
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            "the bundled miniature is missing from this copy of densenb (tiny/assets/model has no "
            "model_index.json): install densenb again, from the full repository."
            if tiny
            else f"{str(name_or_path)!r} is neither 'tiny', 'medium' or 'large' nor a folder with a"
            " saved pipeline (model_index.json): check the path, or use 'tiny'."
        )
    if plan is None and weights_gb(folder) > PLANNED_GB:
        plan = plan_for(folder, device, dtype, t5=t5)
        print(plan)
        plan.require()
    if plan is not None:
        pipe = load_planned(folder, plan)
        return _prepared(pipe, plan, _generic_tier(pipe, folder.resolve().name))
    without = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    with quiet_loading():
        pipe = StableDiffusion3Pipeline.from_pretrained(
            folder, local_files_only=True, **{dtype_argument(): dtype or torch.float32}, **without
        )
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    _tiers[pipe] = TINY if tiny else _saved_tier(pipe, folder.resolve())
    return pipe.to(device or "cpu")


def load_or_tiny(name_or_path: str | Path, **options: Any) -> StableDiffusion3Pipeline:
    """`load`, but the miniature, under a banner, if the model cannot be had here.

    For the first cell of a notebook, so that the lesson goes on; programs want `load`.
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
        machine = here(device, folder=cache_folder())
        name = str(name_or_path)
        there = is_cached(name, PARTS if t5 else WITHOUT_T5)
        return choose(name, sizes(name), machine, t5=t5, dtype=kind, download=not there)
    folder = Path(name_or_path)
    machine = here(device, folder=folder)
    return choose(folder.resolve().name, saved_sizes(folder), machine, t5=t5, dtype=kind)


def _prepared(pipe: FrugalPipeline, plan: MemoryPlan, this: Tier) -> FrugalPipeline:
    pipe.set_progress_bar_config(disable=True)
    label = f"{this.label} ({plan.label})"
    _tiers[pipe] = replace(this, label=label, height=plan.side, width=plan.side)
    return pipe


def weights_gb(folder: Path) -> float:
    """GB of weights (`*.safetensors`) in a saved pipeline."""
    return sum(path.stat().st_size for path in folder.glob("*/*.safetensors")) / 1e9


def tier(pipe: Any) -> Tier:
    """The tier of a pipeline; one that `load` did not make gets SD 3.5's defaults at its size."""
    return _tiers.get(pipe) or _generic_tier(pipe, name="custom")


def generators(seeds_or_count: int | Iterable[int]) -> list[torch.Generator]:
    """One generator per picture: of each seed, or of seeds 0 to count - 1.

    They live on the CPU, so that every device and every method starts from the same noise. Raises
    ValueError for an empty list or a negative seed.
    """
    return [torch.Generator("cpu").manual_seed(seed) for seed in _seed_list(seeds_or_count)]


def call_inputs(
    pipe: Any, layout: Layout | Sequence[Layout], rule: Rule | None, **call_kwargs: Any
) -> dict[str, Any]:
    """The arguments for `pipe(**inputs)`: the layout's text, the tier's values, then `call_kwargs`.

    One layout gives one prompt, a list of layouts a list. A rule with `encode_phrases_alone` or
    `pooled="phrases"` gives embeddings instead, one for each of `num_images_per_prompt`, because
    diffusers repeats prompts, but not embeddings. Raises ValueError for `call_kwargs` that would
    exchange the text.
    """
    for name in TEXT_ARGUMENTS:
        if name in call_kwargs:
            raise ValueError(
                f"{name} is given by the layout, whose phrases are found in its text: change the "
                "layout's caption instead."
            )
    this = tier(pipe)
    inputs = {
        "height": this.height,
        "width": this.width,
        "num_inference_steps": this.steps,
        "guidance_scale": this.guidance,
        "max_sequence_length": this.t5_length,
    }
    inputs |= {k: v for k, v in call_kwargs.items() if k not in inputs or v is not None}
    layouts = [layout] if isinstance(layout, Layout) else list(layout)
    if rule is None or not (rule.encode_phrases_alone or rule.pooled == "phrases"):
        texts = [each.text for each in layouts]
        return {"prompt": texts[0] if isinstance(layout, Layout) else texts} | inputs
    embeddings = encode(
        pipe,
        layouts,
        inputs["max_sequence_length"],
        phrases_alone=rule.encode_phrases_alone,
        first_match_only=rule.phrase_match == "first",
        pooled=rule.pooled,
    )
    if "negative_prompt" in inputs:  # the caller's own: the pipeline encodes it
        del embeddings["negative_prompt_embeds"], embeddings["negative_pooled_prompt_embeds"]
    images = inputs.pop("num_images_per_prompt", None) or 1
    if isinstance(inputs.get("negative_prompt"), list):
        inputs["negative_prompt"] = [n for n in inputs["negative_prompt"] for _ in range(images)]
    return {k: text.repeat_interleave(images, dim=0) for k, text in embeddings.items()} | inputs


def negative_layouts(layouts: Sequence[Layout], inputs: dict) -> list[Layout | None]:
    """What the negative rows of each layout follow, for the pipeline's `inputs`; None: nothing.

    Their phrases come after the `negative_prompt`. ValueError for other negative texts, whose
    words they could fall on; a warning without guidance, where there are no negative rows.
    """
    prompt = inputs.get("negative_prompt") or ""
    prompts = [prompt] * len(layouts) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(layouts):
        raise ValueError(
            f"there are {len(prompts)} negative prompts for {len(layouts)} layouts: give one, or as"
            " many."
        )
    negatives = [each.negative(text) for each, text in zip(layouts, prompts, strict=True)]
    if not any(negatives):
        return negatives
    for name in ("negative_prompt_2", "negative_prompt_3", "negative_prompt_embeds"):
        if inputs.get(name) is not None:
            raise ValueError(
                f"{name} may have other words where those of the regions' negatives go: use "
                "negative_prompt, which they follow."
            )
    if inputs["guidance_scale"] <= 1:
        warnings.warn(
            f"guidance_scale is {inputs['guidance_scale']:g}: without guidance (above 1) the "
            "regions' negatives have no effect.",
            stacklevel=5,
        )
    return negatives


def generate(
    pipe: Any,
    layout: Layout,
    seeds: int | Iterable[int] = 4,
    config: Rule | None = DenseConfig(),  # noqa: B008 (frozen)
    steps: int | None = None,
    guidance: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **call_kwargs: Any,
) -> list[Image.Image]:
    """One picture per seed, with a progress bar; `seeds` as in `generators`.

    `config=None` gives the stock pictures: the same text, noise, steps and guidance, no layout. A
    seed's picture does not depend on the other seeds. `progress(done, total)`, called after every
    step, takes the place of the bar. Everything is checked before any sampling (ValueError);
    Overflow (a RuntimeError) when the numbers do on the way.
    """
    # Here, because attention.py builds on this module.
    from densenb.attention import dense_attention, refuse_nesting

    if not isinstance(layout, Layout):
        raise ValueError(f"layout is {layout!r}, but has to be one Layout.")
    for name in ("generator", "output_type", "return_dict"):
        if name in call_kwargs:
            raise ValueError(
                f"{name} is not for generate, which makes one PIL picture per seed: call "
                "pipe(**dense.inputs, ...) inside dense_attention."
            )
    chosen = {"num_inference_steps": steps, "guidance_scale": guidance}
    call_kwargs |= {name: value for name, value in chosen.items() if value is not None}
    if config is None:
        refuse_nesting(pipe.transformer)
        sampling = nullcontext(call_inputs(pipe, layout, None, **call_kwargs))
    else:
        sampling = dense_attention(pipe, layout, config, **call_kwargs)
    noise = generators(seeds)
    with sampling as given:
        inputs = dict(given if config is None else given.inputs)
        edit = inputs.pop("callback_on_step_end", None)  # the caller's, or a rule's on latents
        total = inputs["num_inference_steps"]
        if total < 1:
            raise ValueError(f"steps is {total}, but has to be at least 1.")
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


# ------------------------------------------------------------------------------------- small parts
def _saved_tier(pipe: Any, folder: Path) -> Tier:
    """The miniature's tier for another trained state of it (`make states`): it has its tokens."""
    file = Path("tokenizer_3", "tokenizer.json")

    def words(root: Path) -> Any:
        return json.loads((root / file).read_text("utf-8"))["model"]

    if (folder / file).is_file() and words(folder) == words(MINIATURE):
        return replace(TINY, label=f"{TINY.label}, {folder.parent.name}/{folder.name}")
    return _generic_tier(pipe, name=folder.name)


def _generic_tier(pipe: Any, name: str) -> Tier:
    side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
    return Tier(
        name=name, label=name, height=side, width=side, steps=28, guidance=7.0, t5_length=256
    )


def _seed_list(seeds_or_count: int | Iterable[int]) -> list[int]:
    if _whole_number(seeds_or_count):
        seeds = list(range(seeds_or_count))
    else:
        seeds = list(seeds_or_count) if isinstance(seeds_or_count, Iterable) else []
    if not seeds or not all(_whole_number(seed) and 0 <= seed < 2**64 for seed in seeds):
        raise ValueError(
            f"seeds is {seeds_or_count!r}, but has to be how many (at least 1), or a list of whole "
            "numbers from 0 to 2**64 - 1."
        )
    return [int(seed) for seed in seeds]


def _whole_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
