"""The arguments of the pipeline's call: a layout's text, its embeddings, and the negative text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from densenb.layout.layout import Layout, check_layouts
from densenb.models.pipeline import Pipeline
from densenb.models.text_encoders import FrugalPipeline
from densenb.models.tiers import tier
from densenb.modulation.rule import Rule
from densenb.sd3.spans import find_spans, layout_spans


@torch.no_grad()
def encode(
    pipe: Pipeline,
    layouts: Layout | Sequence[Layout],
    t5_length: int,
    phrases_alone: bool = False,
    first_match_only: bool = False,
    pooled: str = "caption",
) -> dict[str, Tensor]:
    """The text inputs of `pipe(...)` for a batch of layouts; each distinct text is encoded once.

    Returns `prompt_embeds [B, L, D]`, `pooled_prompt_embeds [B, P]` and their negatives, those of
    the empty text. With `phrases_alone`, the tokens of each phrase are replaced in both encoders by
    those of the phrase encoded alone (`substitute`), so that the words of one region have no
    information about the others. `pooled` is the pooled text: that of the "caption", or the mean
    over the "phrases", including the background's.
    """
    layouts = check_layouts(layouts)
    if not isinstance(pipe, FrugalPipeline) and None in (pipe.text_encoder, pipe.text_encoder_2):
        raise ValueError("pipe has no CLIP text encoders: encode before you free them.")
    needed = phrases_alone or pooled == "phrases"
    phrases = [
        layout_spans(pipe, layout, t5_length, first_match_only) if needed else []
        for layout in layouts
    ]
    alone = [phrase for pairs in phrases for phrase, _ in pairs]
    texts = list(dict.fromkeys([*(layout.text for layout in layouts), "", *alone]))
    tokens, _, pools, _ = pipe.encode_prompt(  # (texts, L, D), (texts, P)
        prompt=texts,
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,  # the empty text is one of `texts`
        max_sequence_length=t5_length,
    )
    row = {text: i for i, text in enumerate(texts)}
    clip_length = pipe.tokenizer_max_length
    parts = {"clip": slice(0, clip_length), "t5": slice(clip_length, None)}
    rows, empty = [row[layout.text] for layout in layouts], [row[""]] * len(layouts)
    embeds, pooled_embeds = tokens[rows], pools[rows]  # copies
    for number, pairs in enumerate(phrases):
        if pooled == "phrases":
            pooled_embeds[number] = pools[[row[phrase] for phrase, _ in pairs]].mean(dim=0)
        for phrase, spans in pairs if phrases_alone else []:
            source = find_spans(pipe, phrase, phrase, t5_length)
            for name, part in parts.items():
                to, from_ = getattr(spans, name), getattr(source, name)
                if len(to) > len(from_):
                    warnings.warn(
                        f"{phrase!r} shares a token with its neighbors in {name}: its tokens there"
                        " stay as encoded in the caption. Put spaces around it.",
                        stacklevel=2,
                    )
                    continue
                embeds[number, part] = substitute(
                    embeds[number, part], tokens[row[phrase], part], to, from_
                )
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled_embeds,
        "negative_prompt_embeds": tokens[empty],
        "negative_pooled_prompt_embeds": pools[empty],
    }


def substitute(caption: Tensor, phrase: Tensor, to: Sequence[int], source: Sequence[int]) -> Tensor:
    """Replace a phrase's tokens in a caption by those of the phrase encoded alone.

    E_caption[j : j + n] = E_phrase[i : i + n] (DenseDiffusion, Kim et al. 2023), both `[L, D]`, of
    one encoder. `to` are the phrase's positions in the caption, where the last may be cut off.
    `source` are its positions when alone: from 1 on in CLIP (after BOS), from 0 on in T5. Taught in
    notebook 06.
    """
    replaced = caption.clone()
    replaced[list(to)] = phrase[list(source)[: len(to)]]
    return replaced


TEXT_ARGUMENTS = ("prompt", "prompt_2", "prompt_3", "prompt_embeds", "pooled_prompt_embeds")


def call_inputs(
    pipe: Pipeline, layout: Layout | Sequence[Layout], rule: Rule | None, **call_kwargs: Any
) -> dict[str, Any]:
    """The arguments for `pipe(**inputs)`: the layout's text, the tier's values, then `call_kwargs`.

    One layout gives one prompt, and a list of layouts gives a list. A rule with
    `encode_phrases_alone` or `pooled="phrases"` gives embeddings instead, repeated
    `num_images_per_prompt` times, because diffusers repeats prompts but not embeddings. ValueError
    for `call_kwargs` that would replace the text.
    """
    for name in TEXT_ARGUMENTS:
        if name in call_kwargs:
            raise ValueError(
                f"{name} comes from the layout, whose phrases must be in its text: change the "
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
    layouts = check_layouts(layout)
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
    if "negative_prompt" in inputs:  # the caller's, which the pipeline encodes
        del embeddings["negative_prompt_embeds"], embeddings["negative_pooled_prompt_embeds"]
    images = inputs.pop("num_images_per_prompt", None) or 1
    if isinstance(inputs.get("negative_prompt"), list):
        inputs["negative_prompt"] = [n for n in inputs["negative_prompt"] for _ in range(images)]
    return {k: text.repeat_interleave(images, dim=0) for k, text in embeddings.items()} | inputs


def negative_layouts(layouts: Sequence[Layout], inputs: dict) -> list[Layout | None]:
    """The layout of each layout's negative rows, for the pipeline's `inputs`; None if it has none.

    Their phrases come after the `negative_prompt`. ValueError for other negative texts, whose words
    they could overwrite. A warning without guidance, because there are no negative rows then.
    """
    prompt = inputs.get("negative_prompt") or ""
    prompts = [prompt] * len(layouts) if isinstance(prompt, str) else list(prompt)
    if len(prompts) != len(layouts):
        raise ValueError(
            f"there are {len(prompts)} negative prompts for {len(layouts)} layouts: give one, or"
            " one for each layout."
        )
    negatives = [each.negative(text) for each, text in zip(layouts, prompts, strict=True)]
    if not any(negatives):
        return negatives
    for name in ("negative_prompt_2", "negative_prompt_3", "negative_prompt_embeds"):
        if inputs.get(name) is not None:
            raise ValueError(
                f"{name} may have other words at the positions of the regions' negatives: use "
                "negative_prompt, to which these are appended."
            )
    if inputs["guidance_scale"] <= 1:
        warnings.warn(
            f"guidance_scale is {inputs['guidance_scale']:g}: without guidance (above 1) the "
            "regions' negatives have no effect.",
            stacklevel=5,
        )
    return negatives
