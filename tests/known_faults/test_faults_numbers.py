"""Attention that is not what it should be: under autocast, backwards, compiled, and as released."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from fault_helpers import SMALL_CALL, Failed, cat_and_umbrella, difference, unless_refused
from torch.testing import assert_close

import densenb as dnb

FUSED = dnb.DenseConfig(backend="fused", window=1.0)


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="F1: two dtypes in one call")
def test_the_fused_backend_works_under_autocast(pipe):
    with torch.autocast("cpu", torch.bfloat16):
        with dnb.dense_attention(pipe, cat_and_umbrella(), FUSED, **SMALL_CALL) as dense:
            images = pipe(**dense.inputs, output_type="pt").images
    assert images.isfinite().all()


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F4: its log-sum has no gradient")
def test_the_fused_backend_has_the_gradients_of_the_explicit_one(pipe):
    generator = torch.Generator().manual_seed(0)
    with unless_refused("grad"):
        fused, explicit = (
            gradient(pipe, replace(FUSED, backend=backend), generator.manual_seed(0))
            for backend in ("fused", "explicit")
        )
        assert_close(fused, explicit, rtol=1e-3, atol=1e-3 * explicit.abs().max().item())


def gradient(pipe, config, generator):
    """d(sum of squares of the model's answer) / d(latents)."""
    latents = torch.randn(1, 16, 16, 16, generator=generator).requires_grad_()
    inputs = {
        "encoder_hidden_states": torch.randn(
            1, pipe.tokenizer_max_length + 44, pipe.transformer.config.joint_attention_dim,
            generator=generator,
        ),
        "pooled_projections": torch.randn(
            1, pipe.transformer.config.pooled_projection_dim, generator=generator
        ),
    }  # fmt: skip
    pipe.scheduler.set_timesteps(2)
    with dnb.dense_attention(pipe, cat_and_umbrella(), config, **SMALL_CALL) as dense:
        with dense.rows([0]):
            answer = pipe.transformer(latents, timestep=pipe.scheduler.timesteps[:1], **inputs)
    return torch.autograd.grad(answer.sample.square().sum(), latents)[0]


@pytest.mark.xfail(
    strict=True,
    raises=torch._dynamo.exc.RecompileError,
    reason="F7: a counter on the processor, and the number of the step",
)
def test_a_compiled_transformer_is_compiled_once_for_all_edited_passes(pipe):
    own = copy.copy(pipe)
    own.transformer = copy.deepcopy(pipe.transformer)
    block = own.transformer.transformer_blocks[0]
    block.compile(backend="eager")
    config = dnb.DenseConfig(backend="explicit", window=1.0, blocks=(0,))
    call = SMALL_CALL | {"num_inference_steps": 4}

    def from_then_on(pipe, index, time, given):
        torch._dynamo.config.error_on_recompile = index >= 1
        return given

    with torch._dynamo.config.patch(error_on_recompile=False):
        with dnb.dense_attention(
            own, cat_and_umbrella(), config, callback_on_step_end=from_then_on, **call
        ) as dense:
            own(**dense.inputs)


@pytest.mark.xfail(strict=True, raises=Failed, reason="F11 and A9: NaN, or an overflow later on")
@pytest.mark.parametrize("logits", [5000, 1e308, 10**30])
def test_logits_that_no_precision_can_hold_are_refused(logits):
    with pytest.raises(ValueError, match="image_text"):
        dnb.DenseConfig(value_range=None, image_text=logits)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F3: they belong to both regions")
def test_shared_words_belong_to_the_last_region_as_released(pipe):
    config = replace(
        dnb.DenseConfig.published(), encode_phrases_alone=False, backend="explicit", window=1.0
    )
    shared, apart = (
        dnb.Layout(
            "a blue cat in a garden",
            [
                dnb.Region(phrase, dnb.box(0, 0, 0.5, 1)),
                dnb.Region("cat", dnb.box(0.5, 0, 1, 1)),
            ],
        )
        for phrase in ("a blue cat", "a blue")
    )
    pictures = []
    for layout in (shared, apart):
        with dnb.dense_attention(pipe, layout, config, **SMALL_CALL) as dense:
            pictures += pipe(**dense.inputs, generator=dnb.generators(1)).images
    assert difference(*pictures) == 0
