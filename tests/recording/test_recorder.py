"""Recorded attention: what it is pooled from, every way of sampling, and clean exits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from helpers import ALL, CAT, LAYOUT, ONE, SMALL, UMBRELLA, noise, stock
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_random import CLIP_LENGTH, random_pipeline

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.plan import Step
from densenb.recording import pooling
from densenb.recording.recorder import RecordingProcessor, record_attention
from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.processors import project
from densenb.sd3.token_regions import Plans, text_regions

GARDEN = Layout(LAYOUT.caption, LAYOUT.regions, "a rose garden")
TEXT = CLIP_LENGTH + 44
IMAGE = 64
LAYERS = ((0, "attn"), (0, "attn2"), (1, "attn"), (1, "attn2"), (2, "attn"))


def record(pipe, layout, latents=None, call=None, **settings):
    """The record of a short run, and its final latents."""
    layouts = [layout] if isinstance(layout, Layout) else layout
    latents = noise(len(layouts)) if latents is None else latents
    inputs = {"prompt": [each.text for each in layouts]} | SMALL | (call or {})
    with record_attention(pipe, layout, **settings) as result:
        images = pipe(**inputs, latents=latents, output_type="latent").images
    return result, images


def first_queries(pipe, layout, **call):
    """Query and key `[B, H, N, D]` of the first pass through each layer, by (block, kind)."""
    found, hooks = {}, []

    def keep(place):
        def hook(attn, args, kwargs):
            text = kwargs.get("encoder_hidden_states")
            found.setdefault(place, project(attn, kwargs["hidden_states"], text)[:2])

        return hook

    for number, block in enumerate(pipe.transformer.transformer_blocks):
        for kind in ("attn", "attn2"):
            attn = getattr(block, kind, None)
            if attn is not None:
                hook = keep((number, kind))
                hooks.append(attn.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        stock(pipe, layout, **call)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def tokens_of(pipe, layout):
    """The tokens of each group, by hand: lists of positions in the joint sequence."""
    masks = layout.token_masks(8, 8).flatten(1)
    text = text_regions(pipe, layout, 44)
    groups = [*masks, ~masks.any(0)]
    images = [group.nonzero()[:, 0].tolist() for group in groups]
    phrases = [(IMAGE + group.nonzero()[:, 0]).tolist() for group in text.member.T]
    free = ~text.member.any(1)
    others = [free & ~text.special, free & text.special]
    return images + phrases + [(IMAGE + group.nonzero()[:, 0]).tolist() for group in others]


# ------------------------------------------------------------------------- what it is pooled from
def test_pooled_attention_equals_attention_by_hand(random_pipe):
    result, _ = record(random_pipe, GARDEN, heads="each", steps=[0])
    queries, groups = first_queries(random_pipe, GARDEN), tokens_of(random_pipe, GARDEN)
    assert result.layers == LAYERS == tuple(queries)
    assert result.groups[0] == (
        "pixels: a blue cat", "pixels: an orange umbrella", "pixels: background",
        "text: a blue cat", "text: an orange umbrella", "text: a rose garden",
        "other words", "special tokens",
    )  # fmt: skip
    assert result.sizes[0].tolist() == [len(group) for group in groups]
    for (block, kind), (query, key) in queries.items():
        scores = query[1] @ key[1].mT / 8**0.5  # row 1: the positive prompt
        weights = scores.softmax(-1)
        got = {
            name: result.tensor(name, kind, blocks=block)[0, 0, 0]
            for name in ("mass", "score", "entropy", "parts", "spread", "same", "other")
        }
        for g, rows in enumerate(groups[:3] if kind == "attn2" else groups):
            entropy = -(weights[:, rows] * weights[:, rows].log()).sum(-1).mean(-1)
            assert torch.allclose(got["entropy"][:, g], entropy, atol=1e-4)
            part = weights[:, rows].split(
                [IMAGE, CLIP_LENGTH, 44][: 3 if kind == "attn" else 1], -1
            )
            for i, each in enumerate(part):
                assert torch.allclose(got["parts"][:, g, i], each.sum(-1).mean(-1), atol=1e-5)
            for h, columns in enumerate(groups[:3] if kind == "attn2" else groups):
                pairs = weights[:, rows][:, :, columns]
                assert torch.allclose(got["mass"][:, g, h], pairs.sum(-1).mean(-1), atol=1e-5)
                mean = scores[:, rows][:, :, columns].mean((1, 2))
                assert torch.allclose(got["score"][:, g, h], mean, atol=1e-4)
        image = scores[:, :IMAGE, :IMAGE]
        spread = (image.amax(-1) - image.amin(-1)).mean(-1)
        assert torch.allclose(got["spread"][:, 0, 0], spread, atol=1e-4)
        same, other = [], []
        for i in range(IMAGE):
            own = next(group for group in groups[:3] if i in group)
            same.append(scores[:, i, [j for j in own if j != i]].mean(-1))
            other.append(scores[:, i, [j for j in range(IMAGE) if j not in own]].mean(-1))
        assert torch.allclose(got["same"][:, 0, 0], torch.stack(same).mean(0), atol=1e-4)
        assert torch.allclose(got["other"][:, 0, 0], torch.stack(other).mean(0), atol=1e-4)
        if kind == "attn":
            own = [scores[:, p][:, :, t] for p, t in zip(groups[:3], groups[3:6], strict=True)]
            same = torch.cat([each.mean(-1) for each in own], 1).mean(1)
            words = [sum((groups[3 + j] for j in range(3) if j != i), []) for i in range(3)]
            foreign = [scores[:, p][:, :, t] for p, t in zip(groups[:3], words, strict=True)]
            other = torch.cat([each.mean(-1) for each in foreign], 1).mean(1)
            assert torch.allclose(got["same"][:, 0, 1], same, atol=1e-4)
            assert torch.allclose(got["other"][:, 0, 1], other, atol=1e-4)
        else:
            assert got["same"][:, 0, 1].isnan().all() and got["spread"][:, 1].isnan().all()


def test_phrase_maps_by_hand(random_pipe):
    result, _ = record(random_pipe, GARDEN, steps=[0])
    query, key = first_queries(random_pipe, GARDEN)[1, "attn"]
    weights = (query[1] @ key[1].mT / 8**0.5).softmax(-1).mean(0)
    groups = tokens_of(random_pipe, GARDEN)
    for number, phrase in enumerate(GARDEN.phrases):
        words = groups[3 + number]
        for found in (phrase, number):
            seen = result.phrase_map(found, step=0, block=1)
            assert torch.allclose(seen, weights[:IMAGE, words].sum(-1).view(8, 8), rtol=1e-3)
        back = result.phrase_map(phrase, block=1, direction="text_image")
        assert torch.allclose(back, weights[words, :IMAGE].mean(0).view(8, 8), rtol=1e-3)


def test_raw_scores_of_one_block_and_step(random_pipe):
    result, _ = record(random_pipe, LAYOUT, scores=(2, 0))
    query, key = first_queries(random_pipe, LAYOUT)[2, "attn"]
    assert torch.allclose(result.scores, query[1] @ key[1].mT / 8**0.5, atol=1e-4)
    result, _ = record(random_pipe, LAYOUT, scores=(1, 0, "attn2"), heads=[2], steps=[0])
    query, key = first_queries(random_pipe, LAYOUT)[1, "attn2"]
    assert torch.allclose(result.scores, query[1] @ key[1].mT / 8**0.5, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 3))
def test_groups_share_out_every_token(seed, overlap):
    generator = torch.Generator().manual_seed(seed)
    member = torch.rand(12, 3, generator=generator) < 0.2 + 0.2 * overlap
    share = torch.block_diag(member[:8].float(), member[8:].float())
    share[(share.sum(1) == 0), -1] = 1
    share = share / share.sum(1, keepdim=True)
    part = torch.block_diag(torch.ones(8, 1), torch.ones(2, 1), torch.ones(2, 1))
    places = pooling.Places(share, member, share[:, 3:], part, 8)
    scores = torch.randn(2, 12, 12, generator=generator)
    pooled = pooling.pool(scores, scores.softmax(-1), places)
    filled = share.sum(0) > 0
    assert torch.allclose(pooled["mass"][:, filled].sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(pooled["parts"][:, filled].sum(-1), torch.ones(()), atol=1e-5)
    assert pooled["mass"][:, ~filled].isnan().all()
    mean = share.sum(0)[filled] / 12
    whole = torch.einsum("g,hgk,k->h", mean, pooled["score"][:, filled][:, :, filled], mean)
    assert torch.allclose(whole, scores.mean((1, 2)), atol=1e-5)


def test_heads_some_at_a_time_give_the_same(random_pipe, monkeypatch):
    each, _ = record(random_pipe, LAYOUT, heads="each")
    monkeypatch.setattr(pooling, "AT_ONCE", 1)
    some, _ = record(random_pipe, LAYOUT, heads=[3, 1])
    mean, _ = record(random_pipe, LAYOUT)
    assert each.heads == (0, 1, 2, 3) and some.heads == (1, 3) and mean.heads == ("mean",)
    for name in ("mass", "entropy", "image_text"):
        whole = each.tensor(name)
        assert torch.allclose(some.tensor(name), whole[:, :, :, [1, 3]], atol=1e-4, equal_nan=True)
        averaged = whole.mean(3, keepdim=True)
        assert torch.allclose(mean.tensor(name), averaged, atol=1e-4, equal_nan=True)


# ----------------------------------------------------------------------- inside dense_attention
@pytest.mark.parametrize("config", [ALL, HardMask(window=1), DenseConfig.published()])
def test_inside_dense_the_weights_are_the_rules(random_pipe, config):
    with dense_attention(random_pipe, [GARDEN, ONE], config, **SMALL) as dense:
        with record_attention(random_pipe, [GARDEN, ONE], heads="each", steps=[0]) as result:
            random_pipe(**dense.inputs, latents=noise(2), output_type="latent")
    # The first layer lies before every edit, so its scores are the stock ones.
    text = {name: value for name, value in dense.inputs.items() if "prompt" in name}
    call = {"latents": noise(2), "prompt": None} | text
    query, key = first_queries(random_pipe, GARDEN, **call)[0, "attn"]
    scores = query[2:] @ key[2:].mT / 8**0.5
    plan = Plans(random_pipe, [GARDEN, ONE], config).plan([0, 1], (8, 8), TEXT)
    weights = config.probabilities(scores, plan, Step(0, 4, 1.0))
    for picture, layout in enumerate([GARDEN, ONE]):
        groups = tokens_of(random_pipe, layout)
        at = [0, 1, 2, 3, 4, 5, 6, 7] if picture == 0 else [0, 2, 3, 6, 7]
        mass = result.tensor("mass", blocks=0)[0, 0, picture]
        for g, rows in zip(at, groups, strict=True):
            for h, columns in zip(at, groups, strict=True):
                expected = weights[picture][:, rows][:, :, columns].sum(-1).mean(-1)
                assert torch.allclose(mass[:, g, h], expected, atol=1e-5)
    assert not torch.allclose(weights, scores.softmax(-1), atol=1e-3)


@pytest.mark.parametrize("backend", ["explicit", "fused"])
def test_only_edited_heads_differ_from_stock(random_pipe, backend):
    config = DenseConfig(heads=(1, 3), backend=backend)
    plain, _ = record(random_pipe, LAYOUT, heads="each", steps=[0])
    with dense_attention(random_pipe, LAYOUT, config, **SMALL) as dense:
        with record_attention(random_pipe, LAYOUT, heads=[0, 1, 3], steps=[0]) as result:
            random_pipe(**dense.inputs, latents=noise(1), output_type="latent")
    before, after = (each.tensor("mass", blocks=0)[0, 0, 0] for each in (plain, result))
    assert torch.equal(after[0].nan_to_num(), before[0].nan_to_num())
    for ours, head in ((1, 1), (2, 3)):
        assert not torch.allclose(after[ours], before[head], atol=1e-2)


def test_only_edited_steps_rows_and_layers_differ_from_stock(random_pipe):
    config = DenseConfig(window=0.25, image_image=0, blocks=(1,))
    plain, _ = record(random_pipe, LAYOUT, rows="both", steps=[0])
    with dense_attention(random_pipe, LAYOUT, config, **SMALL) as dense:
        with record_attention(random_pipe, LAYOUT, rows="both") as result:
            random_pipe(**dense.inputs, latents=noise(1), output_type="latent")

    def mass(of, kind, block, conditional):
        return of.tensor("mass", kind, 0, block, conditional=conditional)

    for kind, block, conditional in [
        ("attn", 0, True), ("attn2", 0, True), ("attn", 1, False), ("attn", 2, False)
    ]:  # fmt: skip
        before, after = (mass(each, kind, block, conditional) for each in (plain, result))
        assert torch.equal(before.nan_to_num(), after.nan_to_num())
    assert not torch.allclose(mass(plain, "attn", 1, True), mass(result, "attn", 1, True))
    # After the window the weights are the plain softmax again.
    with dense_attention(random_pipe, LAYOUT, config, **SMALL) as dense:
        with record_attention(random_pipe, LAYOUT, scores=(1, 1)) as result:
            random_pipe(**dense.inputs, latents=noise(1), output_type="latent")
    weights = result.scores.softmax(-1).mean(0)
    cat, *_, special = tokens_of(random_pipe, LAYOUT)
    expected = weights[cat][:, special].sum(-1).mean()
    assert torch.allclose(result.tensor("mass", steps=1, blocks=1)[0, 0, 0, 0, 0, -1], expected)


@pytest.mark.parametrize("config", [None, ALL])
def test_pictures_are_bit_identical(random_pipe, config):
    call = {"skip_guidance_layers": [1], "num_inference_steps": 10, "skip_layer_guidance_stop": 0.4}
    if config is None:
        expected = stock(random_pipe, LAYOUT, **call)
        _, images = record(random_pipe, LAYOUT, call=call, rows="both", heads="each", scores=(0, 0))
    else:
        pictures = []
        for look in (False, True):
            with dense_attention(random_pipe, LAYOUT, config, **SMALL | call) as dense:
                inputs = {"latents": noise(1), "output_type": "latent"}
                if look:
                    with record_attention(random_pipe, LAYOUT):
                        pictures.append(random_pipe(**dense.inputs, **inputs).images)
                else:
                    pictures.append(random_pipe(**dense.inputs, **inputs).images)
        expected, images = pictures
    assert torch.equal(images, expected)


# ---------------------------------------------------------------------------- ways of sampling
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_rows_layouts_and_several_images(random_pipe, guidance):
    call = {"guidance_scale": guidance, "num_images_per_prompt": 2}
    latents = noise(4)
    result, _ = record(random_pipe, [LAYOUT, ONE], latents, call)
    axes = result.axes()
    assert axes.pictures == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert [entry.layout for entry in result.entries[:4]] == [0, 0, 1, 1]
    assert axes.steps == (0, 1, 2, 3) and axes.blocks == (0, 1, 2)
    assert axes.sigmas == pytest.approx(random_pipe.scheduler.sigmas[:4].tolist())
    together = result.tensor("mass")
    for picture, layout in enumerate([LAYOUT, LAYOUT, ONE, ONE]):
        row = latents[picture : picture + 1]
        alone, _ = record(random_pipe, layout, row, {"guidance_scale": guidance})
        columns = [0, 1, 2, 3, 4, 5, 6] if layout is LAYOUT else [0, 2, 3, 5, 6]
        part = together[:, :, picture][..., columns, :][..., columns]
        assert torch.allclose(part, alone.tensor("mass")[:, :, 0], atol=1e-4), picture
    assert result.groups[1][1] == result.groups[1][4] == "-"
    assert together[:, :, 2:, :, 1].isnan().all()
    with pytest.raises(ValueError, match="none of the recorded"):
        result.phrase_map("a dog")
    cat = result.phrase_map("a blue cat")
    assert torch.allclose(cat, result.tensor("image_text")[:, :, :2, 0, 0].mean((0, 1, 2)))


def test_what_is_recorded_may_be_any_collection(random_pipe):
    settings = {"steps": np.arange(2), "blocks": {0}, "heads": np.array([1]), "kinds": {"attn"}}
    result, _ = record(random_pipe, LAYOUT, **settings)
    assert {(each.step, each.block, each.kind) for each in result.entries} == {
        (0, 0, "attn"), (1, 0, "attn")
    }  # fmt: skip
    assert result.axes().heads == (1,)


def test_rows_of_the_negative_prompt(random_pipe):
    result, _ = record(random_pipe, LAYOUT, rows="both", call={"negative_prompt": "a red dog"})
    assert result.groups[0][-1] == "negative prompt"
    mass = result.tensor("mass", conditional=False)
    assert torch.allclose(mass[..., :3, :].sum(-1), torch.ones(()), atol=1e-5)
    assert (mass[..., :3, 3:7] == 0).all() and (mass[..., :3, 7] > 0).all()
    assert result.tensor("mass")[..., :3, 7].eq(0).all()
    assert result.tensor("same", conditional=False)[..., 0, 1].isnan().all()
    with pytest.raises(ValueError, match="'image_text' was not recorded"):
        result.tensor("image_text", conditional=False)
    query, key = first_queries(random_pipe, LAYOUT, negative_prompt="a red dog")[0, "attn"]
    weights = (query[0] @ key[0].mT / 8**0.5).softmax(-1).mean(0)
    cat = LAYOUT.token_masks(8, 8)[0].flatten()
    expected = weights[:IMAGE][cat][:, IMAGE:].sum(-1).mean()
    assert torch.allclose(mass[0, 0, 0, 0, 0, 7], expected, atol=1e-5)


def test_negative_rows_are_paired_with_their_pictures(random_pipe):
    result, _ = record(random_pipe, [LAYOUT, ONE], rows="both", scores=(0, 0))
    first = [entry for entry in result.entries if not entry.conditional][:2]
    assert [(entry.picture, entry.layout) for entry in first] == [(0, 0), (1, 1)]
    call = {"prompt": [LAYOUT.text, ONE.text], "latents": noise(2)}
    query, key = first_queries(random_pipe, LAYOUT, **call)[0, "attn"]
    # Rows are [negative, negative, positive, positive]; scores are of the first positive one.
    assert torch.allclose(result.scores, query[2] @ key[2].mT / 8**0.5, atol=1e-4)


def test_background_without_a_phrase_has_no_say_in_the_advantage(random_pipe):
    """Its pixels have no words of their own to compare with those of the regions."""
    result, _ = record(random_pipe, ONE, scores=(0, 0), steps=[0])
    assert result.tensor("same", blocks=0)[..., 0, 1].isnan().all()  # one phrase: no other words
    result, _ = record(random_pipe, LAYOUT, scores=(0, 0), steps=[0])
    groups = tokens_of(random_pipe, LAYOUT)
    queries = [result.scores[:, pixels][:, :, groups[3 + i]] for i, pixels in enumerate(groups[:2])]
    expected = torch.cat([each.mean(-1) for each in queries], 1).mean()
    same = result.tensor("same", blocks=0)[0, 0, 0, 0, 0, 1]
    assert torch.allclose(same, expected, atol=1e-4)


def test_skip_layer_passes_are_kept_apart(random_pipe):
    call = {"skip_guidance_layers": [1], "num_inference_steps": 10, "skip_layer_guidance_stop": 0.4}
    result, _ = record(random_pipe, LAYOUT, call=call)
    assert result.axes().steps == tuple(range(10)) and result.axes().blocks == (0, 1, 2)
    assert result.axes(skip=True).steps == (1, 2, 3) and result.axes(skip=True).blocks == (0, 2)
    assert len(result.entries) == 10 * 5 + 3 * 3
    assert {entry.run for entry in result.entries} == {0}
    mass, sizes = result.tensor("mass")[:, :, 0, 0], result.sizes[0]
    pixels = (mass[:, :, :3] * sizes[:3, None]).sum(2) / sizes[:3].sum()
    assert torch.allclose(result.special_share(), pixels[..., -1], atol=1e-5)
    # Block 0 comes before the skipped one: what it sees in both passes is the same.
    normal, skipped = (result.tensor("mass", "attn", 1, 0, skip=skip) for skip in (False, True))
    assert torch.allclose(normal, skipped, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("size", "t5_length"), [((128, 128), 44), ((256, 128), 44), ((128, 128), 256)]
)
def test_sizes_and_text_lengths(random_pipe, size, t5_length):
    height, width = size
    call = {"height": height, "width": width, "max_sequence_length": t5_length}
    latents = noise(1, height // 8, width // 8)
    result, _ = record(random_pipe, LAYOUT, latents, call, scores=(0, 1))
    grid = (height // 16, width // 16)
    assert result.phrase_map("a blue cat").shape == grid
    tokens = grid[0] * grid[1] + CLIP_LENGTH + t5_length
    assert result.sizes.sum() == tokens and result.scores.shape == (4, tokens, tokens)


def test_without_t5(random_pipe):
    parts = random_pipe.components | {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    result, images = record(pipe, LAYOUT)
    assert torch.equal(images, stock(pipe, LAYOUT))
    assert result.sizes[0, 3] == 3 and (result.phrase_map("a blue cat") > 0).all()


def test_without_image_only_attention(random_pipe):
    config = dict(random_pipe.transformer.config) | {"dual_attention_layers": ()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel.from_config(config).eval()
    pipe = StableDiffusion3Pipeline(**random_pipe.components | {"transformer": transformer})
    pipe.set_progress_bar_config(disable=True)
    result, _ = record(pipe, LAYOUT)
    assert result.layers == ((0, "attn"), (1, "attn"), (2, "attn"))
    with pytest.raises(ValueError, match="no layers of this transformer"):
        with record_attention(pipe, LAYOUT, kinds="attn2"):
            pytest.fail("entered")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    pipe = random_pipeline().to(dtype)
    latents = noise(1).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, images = record(pipe, LAYOUT, latents, scores=(0, 0))
    assert torch.equal(images, stock(pipe, LAYOUT, latents))
    assert result.scores.dtype == torch.float32
    mass = result.tensor("mass")
    assert torch.allclose(mass.sum(-1), torch.ones(()), atol=1e-5)


def test_autocast_does_not_reach_the_scores(random_pipe):
    with torch.autocast("cpu", torch.bfloat16):
        result, _ = record(random_pipe, LAYOUT)
    assert torch.allclose(result.tensor("mass").sum(-1), torch.ones(()), atol=1e-5)


def test_direct_calls_name_their_rows(random_pipe):
    embeds, _, pooled, _ = random_pipe.encode_prompt(
        LAYOUT.text, None, None, do_classifier_free_guidance=False, max_sequence_length=44
    )
    random_pipe.scheduler.set_timesteps(4)
    with record_attention(random_pipe, [ONE, LAYOUT]) as result, result.rows([None, 1]):
        random_pipe.transformer(
            noise(1).expand(2, -1, -1, -1),
            embeds.expand(2, -1, -1),
            pooled.expand(2, -1),
            random_pipe.scheduler.timesteps[:1].expand(2),
        )
    assert {(entry.layout, entry.picture) for entry in result.entries} == {(1, 0)}
    expected, _ = record(random_pipe, LAYOUT, steps=[0])
    assert torch.allclose(result.tensor("mass"), expected.tensor("mass"), atol=1e-4, equal_nan=True)
    with record_attention(random_pipe, LAYOUT) as result, result.rows([0]):
        timestep = random_pipe.scheduler.timesteps[:1]
        random_pipe.transformer(noise(1), embeds, pooled, timestep, skip_layers=[1])
    assert {(entry.block, entry.skip) for entry in result.entries} == {(0, True), (2, True)}
    with pytest.raises(ValueError, match="layouts are 0 to 1"):
        with record_attention(random_pipe, [ONE, LAYOUT]) as result, result.rows([2]):
            pass


def test_background_phrases_of_layouts_of_different_sizes(random_pipe):
    beach = Layout(ONE.caption, ONE.regions, "the beach")
    result, _ = record(random_pipe, [LAYOUT, beach])
    alone, _ = record(random_pipe, beach, noise(2)[1:])
    assert result.groups[1][5] == "text: the beach" and result.groups[0][5] == "-"
    maps = [each.phrase_map("the beach") for each in (result, alone)]
    assert torch.allclose(*maps, rtol=1e-2)


def test_second_call_is_a_second_run(random_pipe):
    with record_attention(random_pipe, LAYOUT, steps=[0, 2]) as result:
        for seed in (0, 1):
            latents = noise(1, seed=seed)
            random_pipe(LAYOUT.text, **SMALL, latents=latents, output_type="latent")
    assert result.axes().pictures == ((0, 0), (1, 0)) and result.axes().steps == (0, 2)
    second, _ = record(random_pipe, LAYOUT, noise(1, seed=1), steps=[0, 2])
    assert torch.equal(result.tensor("mass")[:, :, 1], second.tensor("mass")[:, :, 0])
    with pytest.raises(ValueError, match="one record_attention for each size"):
        with record_attention(random_pipe, LAYOUT):
            for height in (128, 256):
                random_pipe(LAYOUT.text, **SMALL | {"height": height}, output_type="latent")


def test_overlapping_regions_and_shared_words(random_pipe):
    both = Layout(
        LAYOUT.caption, [CAT, Region("an orange umbrella in a rose", box(0, 0.4, 0.6, 1))]
    )
    result, _ = record(random_pipe, both)
    assert torch.allclose(result.tensor("mass").sum(-1), torch.ones(()), atol=1e-5)
    assert result.sizes.sum() == IMAGE + TEXT
    overlap = both.token_masks(8, 8).all(0).sum()
    assert overlap > 0 and result.sizes[0, 0] == both.token_masks(8, 8)[0].sum() - overlap / 2


# ------------------------------------------------------------------------------------ what it says
def test_derived_values(random_pipe):
    result, _ = record(random_pipe, GARDEN, heads="each")
    text = result.text_mass()
    assert text.shape == (4, 3)
    halves = result.text_mass(encoder="clip") + result.text_mass(encoder="t5")
    assert torch.allclose(text, halves, atol=1e-6)
    special = result.special_share()
    assert (special > 0).all() and (special < text).all()
    mass, sizes = result.tensor("mass")[:, :, 0], result.sizes[0]
    pixels = (mass[..., :3, :] * sizes[:3, None]).sum(-2) / sizes[:3].sum()
    assert torch.allclose(text, pixels[..., 3:].sum(-1).mean(-1), atol=1e-5)
    assert torch.allclose(special, pixels[..., 7].mean(-1), atol=1e-5)
    assert torch.equal(result.text_mass(steps=[2], blocks=1), text[2:3, 1:2])
    advantage = result.same_region_advantage()
    same, other, spread = (result.tensor(name)[:, :, 0] for name in ("same", "other", "spread"))
    ratio = ((same - other) / spread).mean(2)
    assert torch.allclose(advantage["image_text"], ratio[..., 0, 1], atol=1e-5)
    assert torch.allclose(advantage["text_image"], ratio[..., 1, 0], atol=1e-5)
    assert list(result.same_region_advantage("attn2")) == ["image_image"]


def test_a_rule_raises_the_mass_of_its_own_phrase(random_pipe):
    plain, _ = record(random_pipe, LAYOUT, steps=[0])
    with dense_attention(random_pipe, LAYOUT, DenseConfig(), **SMALL) as dense:
        with record_attention(random_pipe, LAYOUT, steps=[0]) as steered:
            random_pipe(**dense.inputs, latents=noise(1), output_type="latent")
    before, after = (each.tensor("mass")[0, 0, 0, 0] for each in (plain, steered))
    assert after[0, 3] > 2 * before[0, 3] and after[1, 4] > 2 * before[1, 4]
    assert after[0, 4] < before[0, 4] and after[1, 3] < before[1, 3]
    inside = LAYOUT.token_masks(8, 8)[0]
    cat = steered.phrase_map("a blue cat", step=0, block=0)
    assert cat[inside].mean() > 2 * cat[~inside].mean()


def test_interrupted_runs_are_nan_and_keep_what_there_is(random_pipe):
    def interrupt(pipe, index, timestep, state):
        pipe._interrupt = index == 1
        return state

    result, _ = record(random_pipe, LAYOUT, call={"callback_on_step_end": interrupt})
    assert result.axes().steps == (0, 1)


def test_questions_it_cannot_answer(random_pipe):
    result, _ = record(random_pipe, LAYOUT, steps=[1, 2], maps=False)
    for question, message in [
        (lambda: result.tensor("mass", steps=0), r"steps is 0.*\[1, 2\]"),
        (lambda: result.text_mass(blocks=[0, 7]), r"blocks is \[0, 7\].*\[0, 1, 2\]"),
        (lambda: result.tensor("masses"), "'masses' was not recorded"),
        (lambda: result.tensor("mass", skip=True), "nothing was recorded of .*skip=True"),
        (lambda: result.phrase_map("a blue cat"), "maps=True"),
        (lambda: result.phrase_map("a blue cat", direction="up"), "direction is 'up'"),
        (lambda: result.text_mass(encoder="bert"), "encoder is 'bert'"),
    ]:
        with pytest.raises(ValueError, match=message):
            question()
    twice = Layout("a cat and a cat", [Region("a cat", CAT.mask), Region("a cat", UMBRELLA.mask)])
    result, _ = record(random_pipe, twice)
    with pytest.raises(ValueError, match=r"several regions are 'a cat'.*\[0, 1\]"):
        result.phrase_map("a cat")
    assert not torch.allclose(result.phrase_map(0), result.phrase_map(1))
    with pytest.raises(ValueError, match="picture is 1, but 0 to 0"):
        result.phrase_map(0, picture=1)


# ------------------------------------------------------------------------------- in and out again
@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("dense", [False, True])
def test_everything_is_restored(random_pipe, error, dense):
    before = dict(random_pipe.transformer.attn_processors)

    def interrupt(*_):
        raise error

    inputs = {"prompt": LAYOUT.text, "output_type": "latent"} | SMALL
    if error is not None:
        inputs["callback_on_step_end"] = interrupt

    def look():
        outside = dict(random_pipe.transformer.attn_processors)
        try:
            with record_attention(random_pipe, LAYOUT):
                for processor in random_pipe.transformer.attn_processors.values():
                    assert isinstance(processor, RecordingProcessor)
                random_pipe(**inputs)
        finally:
            assert dict(random_pipe.transformer.attn_processors) == outside

    try:
        if dense:
            with dense_attention(random_pipe, LAYOUT, ALL, **SMALL):
                look()
        else:
            look()
    except (ZeroDivisionError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    else:
        assert error is None
    after = random_pipe.transformer.attn_processors
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert not random_pipe.transformer._forward_pre_hooks


def test_nesting_the_wrong_way_is_refused(random_pipe):
    with record_attention(random_pipe, LAYOUT) as result:
        with pytest.raises(RuntimeError, match="open dense_attention first"):
            with dense_attention(random_pipe, LAYOUT, **SMALL):
                pytest.fail("entered")
        with pytest.raises(RuntimeError, match="record_attention is already active"):
            with record_attention(random_pipe, LAYOUT):
                pytest.fail("entered")
        random_pipe(LAYOUT.text, **SMALL, output_type="latent")
    assert len(result.entries) == 20


def test_foreign_and_fused_processors_are_refused():
    pipe = random_pipeline()
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(ValueError, match="unfuse_qkv_projections"):
        record(pipe, LAYOUT)
    pipe.transformer.unfuse_qkv_projections()

    class Foreign(type(next(iter(pipe.transformer.attn_processors.values())))):
        pass

    pipe.transformer.set_attn_processor(Foreign())
    with pytest.raises(ValueError, match="is a Foreign"):
        record(pipe, LAYOUT)


def test_a_record_that_lacks_something_is_told(random_pipe):
    with pytest.warns(UserWarning, match="nothing was recorded"):
        with record_attention(random_pipe, LAYOUT):
            pass
    with pytest.warns(UserWarning, match="no scores were kept: step 9"):
        record(random_pipe, LAYOUT, scores=(0, 9))
    processors = dict(random_pipe.transformer.attn_processors)
    with pytest.raises(RuntimeError, match=r"transformer_blocks\.0\.attn\.processor.* ran unseen"):
        with record_attention(random_pipe, LAYOUT):
            random_pipe.transformer.set_attn_processor(dict(processors))
            random_pipe(LAYOUT.text, **SMALL, output_type="latent")


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("a cat", {}, "layout is 'a cat'"),
        ([], {}, r"layout is \[\]"),
        (LAYOUT, {"steps": []}, "steps is"),
        (LAYOUT, {"steps": [-1]}, "steps is"),
        (LAYOUT, {"blocks": [3]}, r"blocks is \[3\].*from 0 to 2"),
        (LAYOUT, {"heads": [4]}, r"heads is \[4\].*from 0 to 3"),
        (LAYOUT, {"heads": "all"}, "heads is 'all'"),
        (LAYOUT, {"kinds": ["attn3"]}, "kinds is"),
        (LAYOUT, {"kinds": [["attn"]]}, "kinds is"),
        (LAYOUT, {"rows": "all"}, "rows is 'all'"),
        (LAYOUT, {"blocks": [2], "kinds": ["attn2"]}, "no layers"),
        (LAYOUT, {"scores": (3, 0)}, "scores is"),
        (LAYOUT, {"scores": 3}, "scores is"),
        (LAYOUT, {"scores": (0, 1), "steps": [0]}, "scores is"),
    ],
)
def test_arguments_are_checked_before_sampling(random_pipe, layout, settings, message):
    with pytest.raises(ValueError, match=message):
        with record_attention(random_pipe, layout, **settings):
            pytest.fail("entered")
