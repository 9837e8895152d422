"""The modulation inside Stable Diffusion 3.5: a processor for joint attention, and its context.

`dense_attention` exchanges the transformer's attention processors for the time of a `with` block. A
hook on the transformer tells them, pass by pass, the step, which rows of the batch follow which
layout, and where every token belongs. Only those rows, and only in the steps that the rule edits,
leave the stock path. Taught in notebooks 02 to 05.
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
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.plan import Step
from densenb.modulation.rule import Rule
from densenb.sd3.forward_pass import (
    ARGUMENTS,
    Owners,
    check_owners,
    find_step,
    read_pass,
    row_owners,
)
from densenb.sd3.processors import (
    DenseJointAttnProcessor,
    Pass,
    block_number,
    exchanged,
    refuse_nesting,
    stock_processors,
)
from densenb.sd3.prompts import call_inputs, encode, negative_layouts
from densenb.sd3.token_regions import Plans

MANY_TOKENS = 1024  # from here on, one layer's explicit scores are tens of MB, and slow on a CPU


class Dense:
    """What `dense_attention` yields.

    inputs: the arguments for `pipe(**inputs)`: prompt (or its embeddings), size, steps, guidance.
    negatives: by what number `rows` names the negative layout of each layout; None if it has none.
    patched: how many attention layers are patched, e.g. "6 joint + 3 image-only".
    backend: "explicit" or "fused": what computes the edited attention; "auto" has chosen by now.
    """

    def __init__(
        self,
        pipe: Any,
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
        self._owners: Owners | None = None
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

        # Whatever is wrong with the layout comes to light here, not in the middle of sampling.
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
        """For calls of `pipe.transformer` outside `pipe(...)`: which layout each batch row follows.

        `with dense.rows([None, 0]):` leaves row 0 alone and edits row 1 by layout 0. The
        timestep has to be one of `pipe.scheduler.timesteps`. ValueError for an unknown layout.
        """
        check_owners(owners, self._steered)
        before, self._owners = self._owners, tuple(owners)
        try:
            yield
        finally:
            self._owners = before

    def verify(self) -> None:
        """Regions that silently do nothing are the worst failure: say it, or stop."""
        skipped = [
            ours.name for ours in self.processors.values() if ours.expected and not ours.edited
        ]
        if skipped:
            raise RuntimeError(
                f"the layout had no effect in {', '.join(skipped)}: these attention layers were "
                "never reached. Were processors exchanged, or projections fused, inside "
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
        reading = read_pass(self.pipe, args, kwargs)
        owners = row_owners(
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
        given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        text = given["encoder_hidden_states"].clone()
        for i in against:
            words = (plan.member[i, plan.image :, :-1] > 0).any(dim=-1)
            told = self._negative_text[owners[rows[i]] - len(self.layouts)].to(text)
            text[rows[i], words] = told[words]
        if edits:
            text[self.now.rows] = self.rule.edit_text(text[self.now.rows], plan, reading.step)
        return args[len(ARGUMENTS) :], given | {"encoder_hidden_states": text}

    def _after_step(self, pipe: Any, index: int, timestep: Tensor, state: dict) -> dict:
        """What diffusers calls after each step of a rule that edits latents; then the caller's."""
        latents = state["latents"]
        inside = self._inside.repeat_interleave(len(latents) // len(self._inside), dim=0)
        step, noise = find_step(timestep, pipe.scheduler), torch.Generator().manual_seed(index)
        edited = self.rule.after_step(latents, inside.to(latents.device), step, noise)
        state = {**state, "latents": edited}
        if self._callback is not None:
            state |= self._callback(pipe, index, timestep, state) or {}
        return state


@dataclass(frozen=True)
class Stock:
    """What `dense_attention` yields without a rule: the arguments for the stock `pipe(**inputs)`."""

    inputs: dict[str, Any]
    patched: str = "nothing (stock)"
    backend: str = "stock"


@contextmanager
def dense_attention(
    pipe: Any,
    layout: Layout | Sequence[Layout],
    config: Rule | None = DenseConfig(),  # noqa: B008 (frozen)
    **call_kwargs: Any,
) -> Iterator[Dense | Stock]:
    """Let a layout, or one layout per prompt, steer `pipe` inside the `with` block.

        with dense_attention(pipe, layout) as dense:
            images = pipe(**dense.inputs, generator=generators(1)).images

    `config` is a `DenseConfig` or another `Rule`, such as `HardMask()`; None is the stock pipeline
    with the same inputs. `call_kwargs` are
    more arguments for the pipeline's call; they go into `dense.inputs` over the tier's values. On
    leaving, also by an error, the transformer is as it was before.

    Raises ValueError, before any sampling, for a layout or a setting that does not fit the model,
    and for fused or foreign attention processors; RuntimeError when nested on one transformer, and
    on leaving when attention layers that were to be edited were never reached.
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
    negatives = negative_layouts(layouts, inputs | call_kwargs)
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


def token_grid(pipe: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of image tokens; ValueError for a picture, in pixels, that leaves a rest."""
    scale = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    if height % scale or width % scale:
        raise ValueError(
            f"the picture is {height} x {width} pixels, but both have to be multiples of {scale}: "
            f"give e.g. height={round_up(height, scale)}, width={round_up(width, scale)}."
        )
    return height // scale, width // scale


def chosen_backend(rule: Rule, tokens: int) -> str:
    """The backend of a rule; "auto" becomes "fused" where scores would be large.

    Short sequences keep them, on a GPU too: a batch is then edited all at once, while the fused
    backend takes its layouts one after the other.
    """
    if not isinstance(rule, DenseConfig):
        return "explicit"  # other rules are defined by their scores
    if rule.backend == "auto":
        return "fused" if tokens > MANY_TOKENS else "explicit"
    return rule.backend


def overrides(rule: Rule, method: str) -> bool:
    """Whether a rule has its own version of a method that `Rule` leaves empty."""
    return getattr(type(rule), method) is not getattr(Rule, method)


def taken(rows: list[int], device: torch.device) -> slice | Tensor | None:
    """An index of some batch rows: a slice, which copies nothing, if they are one stretch."""
    if not rows:
        return None
    if rows == list(range(rows[0], rows[-1] + 1)):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)


def round_up(value: int, multiple: int) -> int:
    """The next multiple of `multiple`, at least `value`."""
    return -(-value // multiple) * multiple
