"""`dense_attention`: the modulation inside Stable Diffusion 3.5, as a context manager.

It replaces the transformer's attention processors inside a `with` block. Before every pass, a hook
on the transformer finds the step, the layout of each batch row, and the region of every token. Only
rows with a layout leave the stock path, and only in the steps that the rule edits. Taught in
notebooks 02 to 05.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from densenb.layout.layout import Layout, check_layouts
from densenb.models.pipeline import Pipeline
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.plan import Step
from densenb.modulation.rule import Rule
from densenb.sd3 import forward_pass
from densenb.sd3.processors import (
    DenseJointAttnProcessor,
    Pass,
    block_number,
    exchanged,
    refuse_nesting,
    stock_processors,
)
from densenb.sd3.prompts import call_inputs, encode, negative_layouts
from densenb.sd3.token_regions import Plans, token_grid

MANY_TOKENS = 1024  # above this, the scores of one layer take tens of MB and are slow on a CPU


class Dense:
    """What `dense_attention` yields.

    Attributes:
        inputs: The arguments for `pipe(**inputs)`: prompt (or embeddings), size, steps, guidance.
        negatives: The number of each layout's negative layout in `rows`; None if it has none.
        patched: How many attention layers are patched, e.g. "6 joint + 3 image-only".
        backend: What computes the edited attention, "explicit" or "fused" ("auto" is resolved).
    """

    def __init__(
        self,
        pipe: Pipeline,
        layouts: Sequence[Layout],
        rule: Rule,
        inputs: dict,
        negatives: Sequence[Layout | None] = (),
    ) -> None:
        self.pipe = pipe
        self.layouts = layouts
        self.rule = rule
        self.inputs = inputs
        self.now: Pass | None = None
        self._owners: forward_pass.Owners | None = None
        number = count(len(layouts))
        self.negatives = tuple(None if each is None else next(number) for each in negatives)
        against = [each for each in negatives if each is not None]
        self._steered = len(layouts) + len(against)
        self._plans = Plans(pipe, [*layouts, *against], rule)
        self._passes = 0

        self.processors = {
            name: DenseJointAttnProcessor(name, processor, self)
            for name, processor in stock_processors(pipe.transformer).items()
            if rule.blocks is None or block_number(name) in rule.blocks
        }
        check_choice(rule, pipe.transformer)
        image_only = sum(".attn2." in name for name in self.processors)
        self.patched = f"{len(self.processors) - image_only} joint + {image_only} image-only"

        # A layout that does not fit the model raises here, not in the middle of sampling.
        height, width = inputs["height"], inputs["width"]
        grid = token_grid(pipe, height, width)
        length = pipe.tokenizer_max_length + inputs["max_sequence_length"]
        self._plans.plan(range(self._steered), grid, length)
        if against:
            self._negative_text = encode(
                pipe,
                against,
                inputs["max_sequence_length"],
                phrases_alone=True,
                first_match_only=rule.phrase_match == "first",
            )["prompt_embeds"]
        if overrides(rule, "after_step"):
            factor = pipe.vae_scale_factor
            masks = [each.pixel_masks(height // factor, width // factor) for each in layouts]
            self._inside = torch.stack([(each >= 0.5).any(dim=0, keepdim=True) for each in masks])
            self._callback = inputs.get("callback_on_step_end")
            inputs["callback_on_step_end"] = self._after_step
        self.backend = chosen_backend(rule, grid[0] * grid[1] + length)

    @contextmanager
    def rows(self, owners: Sequence[int | None]) -> Iterator[None]:
        """Set the layout of each batch row, for calls of `pipe.transformer` outside `pipe(...)`.

        `with dense.rows([None, 0]):` leaves row 0 alone and edits row 1 by layout 0. The timestep
        must be one of `pipe.scheduler.timesteps`.

        Args:
            owners: The number of a layout for each row, or None.

        Raises:
            ValueError: For an unknown layout.
        """
        forward_pass.check_owners(owners, self._steered)
        before, self._owners = self._owners, tuple(owners)
        try:
            yield
        finally:
            self._owners = before

    def verify(self) -> None:
        """Raise or warn if the layout had no effect: it must never fail silently."""
        skipped = [
            ours.name for ours in self.processors.values() if ours.expected and not ours.edited
        ]
        if skipped:
            raise RuntimeError(
                f"the layout had no effect in {', '.join(skipped)}: these attention layers were "
                "never reached. Were processors replaced, or projections fused, inside "
                "dense_attention? Do that after it."
            )
        effective = self.rule.active(Step(0, 1, 1.0), joint=True)
        if not self._passes:
            warnings.warn(
                "nothing was sampled inside dense_attention: the layout had no effect. Call "
                "pipe(**dense.inputs) with the same pipe, inside the with block.",
                stacklevel=4,
            )
        elif effective and not any(ours.expected for ours in self.processors.values()):
            warnings.warn(
                f"none of the {self._passes} transformer passes was edited: all lie after the "
                f"first {self.rule.window:.0%} of the steps (window), or no row follows a layout.",
                stacklevel=4,
            )

    # ------------------------------------------------------------------------------ every pass
    def before_pass(self, transformer: Any, args: tuple, kwargs: dict) -> tuple | None:
        """The transformer's pre-hook: set up `now`, and edit the text tokens if the rule does."""
        reading = forward_pass.read_pass(self.pipe, args, kwargs)
        owners = forward_pass.row_owners(
            self.pipe, reading, len(self.layouts), self._owners, "dense", self.negatives
        )
        rows = [row for row, owner in enumerate(owners) if owner is not None]
        plan = self._plans.plan(
            [owners[row] for row in rows], reading.grid, reading.text, reading.device
        )
        self.now = Pass(
            step=reading.step,
            numbers=rows,
            rows=taken(rows, reading.device),
            others=taken([row for row in range(len(owners)) if row not in rows], reading.device),
            plan=plan,
            image_plan=plan.image_only(),
        )
        self._passes += 1
        for name, ours in self.processors.items():
            if rows and block_number(name) not in (reading.skipped or ()):
                ours.expected += self.rule.active(reading.step, joint=".attn." in name)
        active = self.rule.active(reading.step, joint=True)
        against = [i for i, row in enumerate(rows) if active and owners[row] >= len(self.layouts)]
        edits = bool(rows) and overrides(self.rule, "edit_text")
        if not against and not edits:
            return None
        given = dict(zip(forward_pass.ARGUMENTS, args, strict=False)) | kwargs
        text = given["encoder_hidden_states"].clone()  # (B, L, C)
        for i in against:
            words = (plan.member[i, plan.image :, :-1] > 0).any(dim=-1)  # (L,)
            alone = self._negative_text[owners[rows[i]] - len(self.layouts)].to(text)  # (L, C)
            text[rows[i], words] = alone[words]
        if edits:
            text[self.now.rows] = self.rule.edit_text(text[self.now.rows], plan, reading.step)
        return args[len(forward_pass.ARGUMENTS) :], given | {"encoder_hidden_states": text}

    def _after_step(self, pipe: Pipeline, index: int, timestep: Tensor, state: dict) -> dict:
        """The callback after each step for rules that edit latents, then the caller's own."""
        latents = state["latents"]
        inside = self._inside.repeat_interleave(len(latents) // len(self._inside), dim=0)
        step = forward_pass.find_step(timestep, pipe.scheduler)
        noise = torch.Generator().manual_seed(index)
        edited = self.rule.after_step(latents, inside.to(latents.device), step, noise)
        state = {**state, "latents": edited}
        if self._callback is not None:
            state |= self._callback(pipe, index, timestep, state) or {}
        return state


@dataclass(frozen=True)
class Stock:
    """What `dense_attention` yields without a rule: arguments for the stock `pipe(**inputs)`."""

    inputs: dict[str, Any]
    patched: str = "nothing (stock)"
    backend: str = "stock"


@contextmanager
def dense_attention(
    pipe: Pipeline,
    layout: Layout | Sequence[Layout],
    config: Rule | None = DenseConfig(),  # noqa: B008 (frozen)
    **call_kwargs: Any,
) -> Iterator[Dense | Stock]:
    """Let a layout control `pipe` inside the `with` block.

        with dense_attention(pipe, layout) as dense:
            images = pipe(**dense.inputs, generator=generators(1)).images

    On exit, even after an error, the transformer is as it was before.

    Args:
        pipe: The pipeline of `densenb.load`, or another Stable Diffusion 3.5 pipeline.
        layout: One layout, or a list with one layout per prompt.
        config: A `DenseConfig` or another `Rule`, such as `HardMask()`. None is the stock pipeline
            with the same inputs.
        **call_kwargs: More arguments for the pipeline's call. In `dense.inputs`, they override the
            tier's values.

    Yields:
        An object whose `inputs` are the arguments for the pipeline's call. `patched` and `backend`
        describe the edit, and `rows` is for calls of the transformer outside of the pipeline.

    Raises:
        ValueError: Before any sampling, for a layout or a setting that does not fit the model, and
            for fused or foreign attention processors.
        RuntimeError: If nested on one transformer, and on exit if attention layers that should have
            been edited were never reached.
    """
    if config is not None and not isinstance(config, Rule):
        raise ValueError(
            f"config is {config!r}, but has to be a DenseConfig or another rule, or None for the "
            "stock pipeline."
        )
    layouts = check_layouts(layout)
    inputs = call_inputs(pipe, layout, config, **call_kwargs)
    if config is None:
        refuse_nesting(pipe.transformer)
        yield Stock(inputs)
        return
    # call_inputs may repeat the negative prompts for num_images_per_prompt; here, one per layout
    given = inputs | {name: value for name, value in call_kwargs.items() if value is not None}
    negatives = negative_layouts(layouts, given)
    dense = Dense(pipe, layouts, config, inputs, negatives)
    with exchanged(pipe.transformer, dense.processors, dense.before_pass):
        try:
            yield dense
        finally:
            dense.now = None
    dense.verify()


# ------------------------------------------------------------------------------------- small parts


def check_choice(rule: Rule, transformer: Any) -> None:
    """ValueError when the rule names blocks or heads that the transformer does not have."""
    blocks, heads = transformer.config.num_layers, transformer.config.num_attention_heads
    for what, chosen, total in (("blocks", rule.blocks, blocks), ("heads", rule.heads, heads)):
        unknown = [number for number in chosen or () if number >= total]
        if unknown:
            raise ValueError(
                f"{what} names {sorted(unknown)}, but this transformer has {what} 0 to {total - 1}."
            )


def chosen_backend(rule: Rule, tokens: int) -> str:
    """The backend of a rule; "auto" becomes "fused" where scores would be large.

    Short sequences use "explicit" even on a GPU: it edits a batch all at once, while the fused
    backend processes one layout after another.
    """
    if not isinstance(rule, DenseConfig):
        return "explicit"  # other rules need the scores
    if rule.backend == "auto":
        return "fused" if tokens > MANY_TOKENS else "explicit"
    return rule.backend


def overrides(rule: Rule, method: str) -> bool:
    """Whether a rule overrides a method that does nothing in `Rule`."""
    return getattr(type(rule), method) is not getattr(Rule, method)


def taken(rows: list[int], device: torch.device) -> slice | Tensor | None:
    """An index of some batch rows: a slice, which copies nothing, if they are contiguous."""
    if not rows:
        return None
    if rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)
