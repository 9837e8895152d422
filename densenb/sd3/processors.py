"""Attention processors: one layer's attention while a layout is active."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor

from densenb.attention.explicit import explicit_attention
from densenb.attention.fused import fused_attention
from densenb.modulation.plan import Plan, Step

PROCESSOR_NAME = re.compile(r"transformer_blocks\.(\d+)\.(attn2?)\.processor")


def project(attn: Any, image: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of the joint sequence [image, text], each `[B, H, N, D]`.

    The same steps as in diffusers' `JointAttnProcessor2_0`: separate projections for image and
    text, RMS norm of queries and keys per head, then concatenation. image `[B, P, C]`, text
    `[B, L, C]`, or None in image-only attention.
    """

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, N, H * D) -> (B, H, N, D)

    def norm(layer: Any, x: Tensor) -> Tensor:
        return x if layer is None else layer(x)

    query = norm(attn.norm_q, heads(attn.to_q(image)))
    key = norm(attn.norm_k, heads(attn.to_k(image)))
    value = heads(attn.to_v(image))
    if text is not None:
        query = torch.cat([query, norm(attn.norm_added_q, heads(attn.add_q_proj(text)))], dim=2)
        key = torch.cat([key, norm(attn.norm_added_k, heads(attn.add_k_proj(text)))], dim=2)
        value = torch.cat([value, heads(attn.add_v_proj(text))], dim=2)
    return query, key, value


@dataclass(frozen=True)
class Pass:
    """One call of the transformer, as its attention layers need it.

    numbers: the M batch rows that follow a layout; `plan` and `image_plan` have these M rows.
    rows, others: the index of these rows, and of all others, in the batch; None if there are none.
    """

    step: Step
    numbers: list[int]
    rows: slice | Tensor | None
    others: slice | Tensor | None
    plan: Plan
    image_plan: Plan


class DenseJointAttnProcessor:
    """One attention layer's processor: the rule if it is active, else the stock processor."""

    def __init__(self, name: str, stock: JointAttnProcessor2_0, session: Any) -> None:
        self.name = name
        self.stock = stock
        self.session = session
        self.expected = 0  # passes that should be edited here
        self.edited = 0

    # diffusers only passes arguments that are named here, so this is the stock signature.
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        joint = encoder_hidden_states is not None
        plan = self.plan(joint)
        if plan is None:
            return self.stock(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        self.edited += 1
        query, key, value = project(attn, hidden_states, encoder_hidden_states)
        attended = self.attend(query, key, value, plan)  # (B, H, N, D)
        attended = attended.transpose(1, 2).flatten(2).to(query.dtype)  # (B, N, H * D)

        image, text = attended.tensor_split([hidden_states.shape[1]], dim=1)  # (B, P, .), (B, L, .)
        image = attn.to_out[1](attn.to_out[0](image))
        if not joint:
            return image
        return image, text if attn.context_pre_only else attn.to_add_out(text)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, plan: Plan) -> Tensor:
        """Attention of a batch, `[B, H, N, D]`; rows without a layout stay on the stock path."""
        rule, now = self.session.rule, self.session.now
        # In memory `[B, N, H, D]`, so that joining the heads copies nothing.
        attended = torch.empty_like(value.transpose(1, 2), memory_format=torch.contiguous_format)
        attended = attended.transpose(1, 2)
        if now.others is not None:
            others = (part[now.others] for part in (query, key, value))
            attended[now.others] = F.scaled_dot_product_attention(*others)
        chosen = [part[now.rows] for part in (query, key, value)]
        edit = fused_attention if self.session.backend == "fused" else explicit_attention
        if rule.heads is None:
            attended[now.rows] = edit(*chosen, rule, plan, now.step)
        else:
            heads, edited = list(rule.heads), F.scaled_dot_product_attention(*chosen)
            edited[:, heads] = edit(*(part[:, heads] for part in chosen), rule, plan, now.step)
            attended[now.rows] = edited
        return attended

    def plan(self, joint: bool) -> Plan | None:
        """The plan of the current pass in this layer; None if the layer is stock."""
        rule, now = self.session.rule, self.session.now
        if now is None or now.rows is None or not rule.active(now.step, joint):
            return None
        return now.plan if joint else now.image_plan

    def weights(self, scores: Tensor, row: int, heads: Sequence[int], joint: bool) -> Tensor:
        """This layer's current attention weights for a batch row's scores, both `[1, h, N, N]`.

        heads: the numbers of the h heads. The stock softmax where the rule leaves the row alone.
        """
        plan = self.plan(joint)
        edited = [] if plan is None else self.session.now.numbers
        if row not in edited:
            return scores.softmax(dim=-1)
        only = slice(edited.index(row), edited.index(row) + 1)
        plan = replace(plan, member=plan.member[only], strengths=plan.strengths[only])
        rule = self.session.rule
        weights = rule.probabilities(scores, plan, self.session.now.step)
        if rule.heads is None:
            return weights
        ours = torch.tensor([head in rule.heads for head in heads], device=scores.device)
        return torch.where(ours[:, None, None], weights, scores.softmax(dim=-1))


@contextmanager
def exchanged(
    transformer: Any, processors: Mapping[str, Any], before_pass: Callable[..., Any]
) -> Iterator[None]:
    """Inside, the transformer has these processors instead of its own, and a hook on every pass.

    On exit, even after an error, it is as it was before.
    """
    stock = dict(transformer.attn_processors)
    hook = transformer.register_forward_pre_hook(before_pass, with_kwargs=True)
    try:
        transformer.set_attn_processor({**stock, **processors})
        installed = transformer.attn_processors
        missing = [name for name, ours in processors.items() if installed[name] is not ours]
        if missing:
            raise RuntimeError(f"diffusers did not take the attention processors of {missing}.")
        yield
    finally:
        hook.remove()
        transformer.set_attn_processor(stock)


def stock_processors(transformer: Any) -> dict[str, JointAttnProcessor2_0]:
    """The transformer's processors by name; ValueError or RuntimeError unless all are stock."""
    refuse_nesting(transformer)
    processors = dict(transformer.attn_processors)
    for name, processor in processors.items():
        kind = type(processor).__name__
        if hasattr(processor, "inner"):
            raise RuntimeError(
                "record_attention is active on this transformer, and dense_attention cannot start "
                "inside it: open dense_attention first and record_attention inside it."
            )
        if kind == "FusedJointAttnProcessor2_0":
            raise ValueError(
                "this transformer's projections are fused, so there are no separate queries and "
                "keys to edit: call pipe.transformer.unfuse_qkv_projections() first."
            )
        if type(processor) is not JointAttnProcessor2_0 or not PROCESSOR_NAME.fullmatch(name):
            raise ValueError(
                f"{name} is a {kind}: dense_attention edits stock SD 3.5 transformers only, whose "
                "processors are JointAttnProcessor2_0. Unload adapters that replace them."
            )
    return processors


def refuse_nesting(transformer: Any) -> None:
    """RuntimeError if `dense_attention` is active on the transformer."""
    processors = transformer.attn_processors.values()
    inner = (getattr(each, "inner", each) for each in processors)  # unwraps RecordingProcessor
    if any(isinstance(each, DenseJointAttnProcessor) for each in inner):
        raise RuntimeError(
            "dense_attention is already active on this transformer and cannot be nested: "
            "leave the outer `with` block first, or pass all layouts as a list."
        )


def block_number(name: str) -> int:
    """3 for "transformer_blocks.3.attn2.processor"."""
    return int(PROCESSOR_NAME.fullmatch(name)[1])
