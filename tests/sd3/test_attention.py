"""Joint attention under a layout: parity with the stock pipeline, rows, steps, and clean exits."""

from __future__ import annotations

import warnings

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from helpers import (
    ALL,
    CAT,
    LAYOUT,
    NOTHING,
    ONE,
    SMALL,
    UMBRELLA,
    Spy,
    close,
    noise,
    sample,
    stock,
)
from tiny_random import CLIP_LENGTH, random_pipeline

from densenb.layout.layout import Layout, Region
from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule
from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.processors import DenseJointAttnProcessor
from densenb.sd3.prompts import call_inputs
from densenb.sd3.token_regions import Plans, text_regions, token_regions


@pytest.fixture(scope="module")
def other_pipe():
    return random_pipeline(seed=1)


def first_pass(pipe, config=None, **call_kwargs) -> torch.Tensor:
    """The transformer's prediction in the first step."""
    predictions = []
    hook = pipe.transformer.register_forward_hook(lambda *call: predictions.append(call[-1][0]))
    try:
        if config is None:
            stock(pipe, LAYOUT, **call_kwargs)
        else:
            sample(pipe, LAYOUT, config, **call_kwargs)
    finally:
        hook.remove()
    return predictions[0]


# ------------------------------------------------------------------------------------------- parity
def test_explicit_path_at_strength_zero_is_stock(random_pipe):
    expected = first_pass(random_pipe)
    assert torch.allclose(first_pass(random_pipe, Spy(window=1)), expected, atol=1e-5)
    assert close(sample(random_pipe, LAYOUT, Spy(window=1)), stock(random_pipe, LAYOUT), 1e-5)


@pytest.mark.parametrize("config", [NOTHING, DenseConfig(window=0)])
def test_nothing_to_do_is_bit_identical_to_stock(random_pipe, config):
    assert torch.equal(sample(random_pipe, LAYOUT, config), stock(random_pipe, LAYOUT))


@pytest.mark.parametrize("config", [ALL, HardMask()])
def test_only_conditional_rows_change(random_pipe, config):
    before, after = first_pass(random_pipe), first_pass(random_pipe, config)
    assert torch.equal(after[:1], before[:1])
    assert not torch.allclose(after[1:], before[1:], atol=1e-4)


def test_image_only_attention_is_stock_without_image_image_strength(random_pipe):
    with dense_attention(random_pipe, LAYOUT, DenseConfig(image_image=0), **SMALL) as dense:
        random_pipe(**dense.inputs, output_type="latent")
        edited = {p.name: p.edited for p in random_pipe.transformer.attn_processors.values()}
    assert {name: count > 0 for name, count in edited.items()} == {
        name: ".attn." in name for name in edited
    }


def test_layout_moves_attention_mass_into_its_region(random_pipe):
    """The purpose: pixels of a region attend more to their own phrase and less to others."""
    spy = Spy(window=1, blocks=(0,))
    with dense_attention(random_pipe, LAYOUT, spy, **SMALL) as dense:
        random_pipe(**dense.inputs, output_type="latent")
    step, plan, scores = next(seen for seen in spy.seen if seen[2].shape[-1] > seen[1].image)
    image, cat, umbrella = plan.image, plan.member[0, :, 0], plan.member[0, :, 1]
    before, after = (r.probabilities(scores, plan, step)[0].mean(0) for r in (spy, DenseConfig()))

    def mass(weights, phrase):
        text = phrase.clone()
        text[:image] = False
        return weights[:image][cat[:image]][:, text].sum(-1).mean()

    assert mass(after, cat) > 2 * mass(before, cat)
    assert mass(after, umbrella) < mass(before, umbrella)


# ------------------------------------------------------------------------------------- rows & steps
def test_steps_are_told_by_the_timestep(random_pipe):
    spy = Spy(window=0.3)
    sample(random_pipe, LAYOUT, spy, num_inference_steps=10)
    steps = [step for step, _, _ in spy.seen]
    assert [step.index for step in steps] == [0] * 5 + [1] * 5 + [2] * 5  # 3 attn + 2 attn2
    sigmas = random_pipe.scheduler.sigmas.tolist()
    assert [step.sigma for step in steps] == pytest.approx([sigmas[step.index] for step in steps])
    assert {step.count for step in steps} == {10}


def test_rows_with_and_without_guidance(random_pipe):
    for guidance in (4.0, 1.0):
        spy = Spy()
        sample(random_pipe, [LAYOUT, ONE], spy, guidance_scale=guidance)
        assert {plan.member.shape[0] for _, plan, _ in spy.seen} == {2}
    changed = first_pass(random_pipe, ALL, guidance_scale=1.0)
    assert not torch.allclose(changed, first_pass(random_pipe, guidance_scale=1.0), atol=1e-4)


def test_skip_layer_passes_are_all_conditional(random_pipe):
    spy = Spy(window=1)
    slg = {"skip_guidance_layers": [1], "num_inference_steps": 10, "skip_layer_guidance_stop": 0.4}
    result = sample(random_pipe, LAYOUT, spy, **slg)
    calls = [sum(step.index == i for step, _, _ in spy.seen) for i in range(10)]
    assert calls == [5] + [5 + 3] * 3 + [5] * 6  # block 1 has two attentions, and is skipped
    assert all(len(plan.member) == len(scores) == 1 for _, plan, scores in spy.seen)
    assert close(result, stock(random_pipe, LAYOUT, **slg))


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_several_images_per_prompt_and_layouts_of_different_sizes(random_pipe, guidance):
    latents = noise(4)
    together = sample(
        random_pipe,
        [LAYOUT, ONE],
        ALL,
        latents,
        num_images_per_prompt=2,
        guidance_scale=guidance,
    )
    for row, layout in enumerate([LAYOUT, LAYOUT, ONE, ONE]):
        alone = sample(random_pipe, layout, ALL, latents[row : row + 1], guidance_scale=guidance)
        assert close(together[row : row + 1], alone), row


@pytest.mark.parametrize("negative", [{}, {"negative_prompt": "fog"}, {"negative_prompt": ["fog"]}])
def test_embeddings_are_repeated_for_several_images(random_pipe, negative):
    config, latents = DenseConfig.published(), noise(2)
    both = sample(random_pipe, [ONE], config, latents, num_images_per_prompt=2, **negative)
    for row in (0, 1):
        alone = sample(random_pipe, [ONE], config, latents[row : row + 1], **negative)
        assert close(both[row : row + 1], alone), row
    with dense_attention(random_pipe, ONE, config, **SMALL) as dense:
        with pytest.raises(ValueError, match="latents in 4 rows, but texts in 2.*dense_attention"):
            pipe_call = {"num_images_per_prompt": 2, "output_type": "latent"}
            random_pipe(**dense.inputs, **pipe_call)
        random_pipe(**dense.inputs, output_type="latent")


def test_region_order_does_not_matter(random_pipe):
    regions = [Region(CAT.phrase, CAT.mask, strength=0.4), UMBRELLA]
    results = [
        sample(random_pipe, Layout(LAYOUT.caption, order, "a rose garden"), ALL)
        for order in (regions, regions[::-1])
    ]
    assert close(*results, 1e-5)


def test_region_strength_is_used(random_pipe):
    weak = Layout(LAYOUT.caption, [Region(CAT.phrase, CAT.mask, strength=0.2), UMBRELLA])
    assert not close(sample(random_pipe, weak, ALL), sample(random_pipe, LAYOUT, ALL))


def test_direct_calls_name_their_rows(random_pipe):
    embeds, _, pooled, _ = random_pipe.encode_prompt(
        LAYOUT.text, None, None, do_classifier_free_guidance=False, max_sequence_length=44
    )
    random_pipe.scheduler.set_timesteps(10)

    def predict(step: int, rows: int = 2) -> torch.Tensor:
        return random_pipe.transformer(
            noise(1).expand(rows, -1, -1, -1),
            embeds.expand(rows, -1, -1),
            pooled.expand(rows, -1),
            random_pipe.scheduler.timesteps[step].expand(rows),
        ).sample

    early, late = predict(0), predict(5)
    with dense_attention(random_pipe, [ONE, LAYOUT], ALL, **SMALL) as dense:
        with dense.rows([None, 1]):
            edited = predict(0)
            with pytest.raises(ValueError, match="2 rows, but the transformer got 3"):
                predict(0, rows=3)
        with pytest.raises(ValueError, match="layouts are 0 to 1"), dense.rows([2]):
            pass
        with dense.rows([None, None]):
            assert torch.equal(predict(0), early)
    assert torch.equal(edited[0], early[0]) and not torch.allclose(edited[1], early[1], atol=1e-4)
    with dense_attention(random_pipe, LAYOUT, **SMALL) as dense, dense.rows([0, 0]):
        assert torch.equal(predict(5), late)
        assert not torch.equal(predict(0), early)


def test_direct_calls_that_leave_rows_open_are_refused(other_pipe):
    embeds = torch.zeros(1, CLIP_LENGTH + 44, 32)
    call = {
        "hidden_states": noise(1),
        "encoder_hidden_states": embeds,
        "pooled_projections": torch.zeros(1, 32),
        "timestep": torch.tensor([1000.0]),
    }
    other_pipe.__dict__.pop("_guidance_scale", None)
    with pytest.raises(ValueError, match=r"dense\.rows"):
        with dense_attention(other_pipe, LAYOUT, **SMALL):
            other_pipe.transformer(**call)
    other_pipe.scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep 500 is not among the scheduler's 4"):
        with dense_attention(other_pipe, LAYOUT, **SMALL) as dense, dense.rows([0]):
            other_pipe.transformer(**call | {"timestep": torch.tensor([500.0])})
    with pytest.raises(ValueError, match="share one"):
        with dense_attention(other_pipe, LAYOUT, **SMALL) as dense, dense.rows([0]):
            other_pipe.transformer(**call | {"timestep": torch.tensor([1000.0, 500.0])})


def test_a_batch_that_fits_no_layout_is_refused(random_pipe):
    with pytest.raises(ValueError, match="does not divide among 2 layouts"):
        with dense_attention(random_pipe, [LAYOUT, ONE], **SMALL) as dense:
            random_pipe(**dense.inputs | {"prompt": ["one", "two", "three"]})


# ----------------------------------------------------------------------------------------- coverage
def test_token_regions_in_the_order_image_clip_t5(random_pipe):
    layout = Layout(LAYOUT.caption, LAYOUT.regions, "a rose garden")
    member = token_regions(random_pipe, layout, Rule(), grid=(16, 8), t5_length=44, columns=5)
    assert member.shape == (16 * 8 + CLIP_LENGTH + 44, 5)
    masks = layout.token_masks(16, 8)
    text = text_regions(random_pipe, layout, 44).member
    assert torch.equal(member[:128, :2], masks.flatten(1).T)
    assert torch.equal(member[:128, 4].view(16, 8), ~masks.any(0))
    assert torch.equal(member[128:, [0, 1, 4]], text) and text.any(0).all()
    assert not member[:, 2:4].any()


@pytest.mark.parametrize("background", [None, "a rose garden"])
def test_pixels_outside_every_region(random_pipe, background):
    layout = Layout(LAYOUT.caption, LAYOUT.regions, background)
    for rule, expected in [(DenseConfig(), True), (DenseConfig.published(), bool(background))]:
        plan = Plans(random_pipe, [layout], rule).plan([0], (8, 8), CLIP_LENGTH + 44)
        assert plan.pixels[..., -1].any() == expected
        assert plan.member[:, 64:, -1].any() == bool(background)


@pytest.mark.parametrize(
    ("size", "t5_length"), [((128, 128), 44), ((256, 128), 44), ((128, 128), 256)]
)
def test_sizes_and_text_lengths(random_pipe, size, t5_length):
    height, width = size
    call = {"height": height, "width": width, "max_sequence_length": t5_length}
    latents = noise(1, height // 8, width // 8)
    spy = Spy()
    result = sample(random_pipe, LAYOUT, spy, latents, **call)
    assert close(result, stock(random_pipe, LAYOUT, latents, **call))
    joint = (height // 16) * (width // 16) + CLIP_LENGTH + t5_length
    assert max(plan.member.shape[1] for _, plan, _ in spy.seen) == joint


def test_without_t5(random_pipe):
    parts = random_pipe.components | {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    assert close(sample(pipe, LAYOUT, Spy(window=1)), stock(pipe, LAYOUT))
    assert not close(sample(pipe, LAYOUT, ALL), stock(pipe, LAYOUT))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision(dtype, tolerance):
    pipe = random_pipeline().to(dtype)
    latents = noise(1).to(dtype)
    spy = Spy(window=1)
    assert close(sample(pipe, LAYOUT, spy, latents), stock(pipe, LAYOUT, latents), tolerance)
    assert {scores.dtype for _, _, scores in spy.seen} == {torch.float32}
    edited = sample(pipe, LAYOUT, ALL, latents)
    assert edited.dtype == dtype and torch.isfinite(edited).all()


def test_gradients_flow_through_the_explicit_path(random_pipe):
    latents = noise(1).requires_grad_()
    with torch.no_grad():
        embeds, _, pooled, _ = random_pipe.encode_prompt(
            LAYOUT.text, None, None, do_classifier_free_guidance=False, max_sequence_length=44
        )
    random_pipe.scheduler.set_timesteps(4)
    with dense_attention(random_pipe, LAYOUT, ALL, **SMALL) as dense, dense.rows([0]):
        timestep = random_pipe.scheduler.timesteps[:1]
        random_pipe.transformer(latents, embeds, pooled, timestep).sample.sum().backward()
    assert latents.grad.abs().sum() > 0


def test_published_encodes_phrases_alone(random_pipe):
    with dense_attention(random_pipe, LAYOUT, DenseConfig.published(), **SMALL) as dense:
        assert "prompt" not in dense.inputs and dense.inputs["prompt_embeds"].shape[0] == 1
        result = random_pipe(**dense.inputs, latents=noise(1), output_type="latent").images
    assert torch.isfinite(result).all()
    negative = sample(random_pipe, LAYOUT, DenseConfig.published(), negative_prompt="red")
    assert not close(negative, result)


def test_inputs_are_the_tiers_and_the_callers(random_pipe):
    kwargs = {"joint_attention_kwargs": {}, "guidance_scale": 2.5}
    with dense_attention(random_pipe, [LAYOUT, ONE], **SMALL | kwargs) as dense:
        random_pipe(**dense.inputs, output_type="latent")
    assert dense.inputs == {"prompt": [LAYOUT.text, ONE.text]} | SMALL | kwargs


# --------------------------------------------------------------------------------- entry and exit
def test_blocks_and_the_count_of_what_is_patched(random_pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is sampled here
        with dense_attention(random_pipe, LAYOUT, **SMALL) as dense:
            assert dense.patched == "3 joint + 2 image-only"
        with dense_attention(random_pipe, LAYOUT, DenseConfig(blocks=[1, 2]), **SMALL) as dense:
            assert dense.patched == "2 joint + 1 image-only"
            ours = [
                name
                for name, processor in random_pipe.transformer.attn_processors.items()
                if isinstance(processor, DenseJointAttnProcessor)
            ]
    assert len(ours) == 3 and not any("blocks.0." in name for name in ours)
    with pytest.raises(ValueError, match=r"\[3\].*blocks 0 to 2"):
        with dense_attention(random_pipe, LAYOUT, DenseConfig(blocks=(0, 3)), **SMALL):
            pass


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_everything_is_restored(random_pipe, error):
    before = dict(random_pipe.transformer.attn_processors)

    def interrupt(*_):
        if error is not None:
            raise error

    inputs = {"output_type": "latent", "callback_on_step_end": interrupt}
    try:
        with dense_attention(random_pipe, LAYOUT, ALL, **SMALL) as dense:
            assert all(
                isinstance(processor, DenseJointAttnProcessor)
                for processor in random_pipe.transformer.attn_processors.values()
            )
            if error is None:
                del inputs["callback_on_step_end"]
            random_pipe(**dense.inputs, **inputs)
    except (ZeroDivisionError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    else:
        assert error is None
    after = random_pipe.transformer.attn_processors
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert not random_pipe.transformer._forward_pre_hooks
    assert torch.equal(sample(random_pipe, LAYOUT, NOTHING), stock(random_pipe, LAYOUT))


def test_nesting_is_refused_and_the_outer_context_survives(random_pipe):
    expected = sample(random_pipe, LAYOUT, ALL)
    with dense_attention(random_pipe, LAYOUT, ALL, **SMALL) as dense:
        with pytest.raises(RuntimeError, match="cannot be nested"):
            with dense_attention(random_pipe, ONE, **SMALL):
                pass
        again = random_pipe(**dense.inputs, latents=noise(1), output_type="latent").images
    assert torch.equal(again, expected)


def test_two_pipelines_do_not_mix(random_pipe, other_pipe):
    alone = [sample(random_pipe, LAYOUT, ALL), sample(other_pipe, ONE, HardMask())]
    with (
        dense_attention(random_pipe, LAYOUT, ALL, **SMALL) as first,
        dense_attention(other_pipe, ONE, HardMask(), **SMALL) as second,
    ):
        kwargs = {"latents": noise(1), "output_type": "latent"}
        both = [random_pipe(**first.inputs, **kwargs), other_pipe(**second.inputs, **kwargs)]
    assert all(torch.equal(a, b.images) for a, b in zip(alone, both, strict=True))


def test_fused_projections_are_refused_with_the_mend():
    pipe = random_pipeline()
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        sample(pipe, LAYOUT, ALL)
    pipe.transformer.unfuse_qkv_projections()
    assert close(sample(pipe, LAYOUT, Spy()), stock(pipe, LAYOUT))


def test_foreign_processors_are_refused(other_pipe):
    processors = dict(other_pipe.transformer.attn_processors)

    class Foreign(type(next(iter(processors.values())))):
        pass

    other_pipe.transformer.set_attn_processor(Foreign())
    try:
        with pytest.raises(ValueError, match="is a Foreign"):
            sample(other_pipe, LAYOUT, ALL)
    finally:
        other_pipe.transformer.set_attn_processor(dict(processors))


def test_processors_exchanged_inside_are_an_error(random_pipe):
    stock_processors = dict(random_pipe.transformer.attn_processors)
    with pytest.raises(RuntimeError, match=r"no effect in transformer_blocks\.0\.attn"):
        with dense_attention(random_pipe, LAYOUT, ALL, **SMALL) as dense:
            random_pipe.transformer.set_attn_processor(dict(stock_processors))
            random_pipe(**dense.inputs, output_type="latent")


def test_a_layout_without_effect_is_a_warning(random_pipe):
    with pytest.warns(UserWarning, match="nothing was sampled"):
        with dense_attention(random_pipe, LAYOUT, **SMALL):
            pass
    with pytest.warns(UserWarning, match="none of the 1 transformer passes"):
        with dense_attention(random_pipe, LAYOUT, **SMALL) as dense, dense.rows([None, None]):
            random_pipe(**dense.inputs | {"num_inference_steps": 1}, output_type="latent")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(random_pipe, LAYOUT, NOTHING)  # as asked
        sample(random_pipe, LAYOUT, DenseConfig(window=0))


def test_without_a_setting_it_is_the_stock_pipeline(random_pipe):
    processors = dict(random_pipe.transformer.attn_processors)
    with dense_attention(random_pipe, LAYOUT, None, **SMALL) as dense:
        assert dict(random_pipe.transformer.attn_processors) == processors
        assert dense.inputs == call_inputs(random_pipe, LAYOUT, None, **SMALL)
    with dense_attention(random_pipe, LAYOUT, **SMALL) as dense, dense.rows([None, None]):
        with pytest.raises(RuntimeError, match="already active"):
            with dense_attention(random_pipe, LAYOUT, None):
                pytest.fail("entered")
        random_pipe(**dense.inputs | {"num_inference_steps": 1}, output_type="latent")


@pytest.mark.parametrize(
    ("layout", "config", "call", "message"),
    [
        (LAYOUT, DenseConfig, {}, "has to be a DenseConfig"),
        ([], DenseConfig(), {}, "layout is"),
        ("a cat", DenseConfig(), {}, "layout is"),
        (LAYOUT, DenseConfig(), {"height": 250}, "height=256"),
        (LAYOUT, DenseConfig(), {"prompt": "a dog"}, "prompt comes from the layout"),
        (LAYOUT, DenseConfig(), {"max_sequence_length": 2, "prompt_3": ""}, "prompt_3"),
    ],
)
def test_arguments_are_checked_before_sampling(random_pipe, layout, config, call, message):
    with pytest.raises(ValueError, match=message):
        with dense_attention(random_pipe, layout, config, **SMALL | call):
            pytest.fail("entered")
