"""A Stable Diffusion 3.5 pipeline that holds its text encoders only while they work.

It is a stock `StableDiffusion3Pipeline` in everything but `encode_prompt`. Taught in notebook 01.
"""

from __future__ import annotations

import gc
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from densenb.models.architecture import ENCODERS
from densenb.models.overflow import check_finite

KEPT_TEXTS = 256  # 2.6 MiB each in half precision, in host memory
RESULTS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)

Embedding = tuple[Tensor, Tensor]  # of one text: tokens [L, D], pooled [P]


class FrugalPipeline(StableDiffusion3Pipeline):
    """`StableDiffusion3Pipeline` that loads its text encoders when a new text comes, and only then.

    Embeddings are remembered by text, in host memory, in the transformer's dtype. Make one with
    `from_pretrained(..., text_encoder=None, ...)`, then `attach`.
    """

    def attach(
        self,
        load_encoders: Callable[[], dict[str, nn.Module]],
        dtype: torch.dtype,
        *,
        keep: bool,
        park: bool,
    ) -> None:
        """Set how to load the encoders (by attribute name) and the dtype of their embeddings.

        keep: the encoders stay after encoding. park: the transformer waits in host memory while
        they work.
        """
        self._load_encoders, self._dtype = load_encoders, dtype
        self._keep, self._park = keep, park
        self._known: dict[tuple, Embedding] = {}

    @contextmanager
    def _encoders(self) -> Iterator[None]:
        """The text encoders are on the pipeline's device inside the `with` block."""
        if self.text_encoder is not None:
            yield
            return
        if self._park:
            self.transformer.to("cpu")
            release_memory()
        try:
            # Not by a loop over them: its variable would keep the last one alive.
            vars(self).update(self._load_encoders())
            yield
        except Exception as error:
            # So would the variables of the calls that failed: gigabytes, for as long as the error
            # is kept, e.g. by IPython.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            if not self._keep:
                vars(self).update(dict.fromkeys(ENCODERS))
            release_memory()

    def encode_prompt(self, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        """As the stock method, but texts that were encoded before come from memory.

        RuntimeError when a text encoder's numbers overflow.
        """
        bound = inspect.signature(super().encode_prompt).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        positive, negative = (
            _texts(*(given[f"{sign}prompt{number}"] for number in ("", "_2", "_3")))
            for sign in ("", "negative_")
        )
        result = {name: given[name] for name in RESULTS}
        wanted = []
        if result["prompt_embeds"] is None:
            wanted.append(("", positive, given["clip_skip"]))
        batch = len(positive if result["prompt_embeds"] is None else result["prompt_embeds"])
        if given["do_classifier_free_guidance"] and result["negative_prompt_embeds"] is None:
            negative = negative * batch if len(negative) == 1 else negative
            if len(negative) != batch:
                raise ValueError(
                    f"there are {len(negative)} negative prompts for {batch} prompts: give one, or "
                    "as many."
                )
            wanted.append(("negative_", negative, None))
        rest = given["max_sequence_length"], given["lora_scale"]
        self._encode({(*text, skip, *rest) for _, texts, skip in wanted for text in texts})
        if self._park:
            self.transformer.to(self.vae.device)  # back, also from an encoding that failed
        device = given["device"] or self._execution_device
        for sign, texts, skip in wanted:
            rows = [self._known[(*text, skip, *rest)] for text in texts]
            for name, parts in zip(("prompt_embeds", "pooled_prompt_embeds"), zip(*rows)):
                stacked = torch.stack(parts)  # (B, L, D), pooled (B, P)
                stacked = stacked.repeat_interleave(given["num_images_per_prompt"], dim=0)
                result[f"{sign}{name}"] = stacked.to(device)
        return tuple(result.values())

    def _encode(self, keys: set[tuple]) -> None:
        """Make sure that every (text, text_2, text_3, clip_skip, length, lora_scale) is known."""
        missing = sorted(keys - self._known.keys(), key=repr)
        if not missing:
            return
        with self._encoders(), torch.no_grad():
            for key in missing:
                *texts, skip, length, scale = key
                tokens, _, pooled, _ = super().encode_prompt(
                    *([text] for text in texts),
                    device=self.vae.device,
                    do_classifier_free_guidance=False,
                    clip_skip=skip,
                    max_sequence_length=length,
                    lora_scale=scale,
                )
                tokens = self._remembered(tokens, "tokens")
                self._known[key] = tokens, self._remembered(pooled, "pooled text")
        while len(self._known) > max(KEPT_TEXTS, len(keys)):
            oldest = next(key for key in self._known if key not in keys)
            del self._known[oldest]

    def _remembered(self, embedding: Tensor, what: str) -> Tensor:
        embedding = embedding.to(self._dtype)
        mend = "It was in a text encoder: load without T5 (t5=False), or on a GPU with bfloat16."
        check_finite(embedding, f"the encoded {what}", mend)
        return embedding[0].cpu()


def _texts(first: Any, second: Any, third: Any) -> list[tuple[str, str, str]]:
    """One (text, text_2, text_3) for each prompt; a missing one is as the first."""
    first = first or ""
    columns = (
        [value] if isinstance(value, str) else value
        for value in (first, second or first, third or first)
    )
    return list(zip(*columns, strict=True))


def release_memory() -> None:
    """Give freed memory back: modules are cyclic, and CUDA's allocator keeps what it has."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
