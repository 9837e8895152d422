"""The report's equations as rules, their repairs, and the two hooks that they need in a rule."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny_random import random_pipeline

import densenb as dnb
from densenb.evaluation.runner import METHODS, draw
from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.first_transfer import (
    CHANGES,
    READINGS,
    RELAPSES,
    REPAIRS,
    Transfer,
    leftover_noise,
    segment_factor,
    segment_mask,
)
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule
from densenb.modulation.stages import STAGES
from densenb.sd3.dense_attention import dense_attention

CAPTION = "a blue cat and an orange umbrella in a rose garden"
FIRST = Step(0, 4, 1.0)


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline()


@pytest.fixture(scope="module")
def miniature():
    return dnb.load("tiny")


@pytest.fixture(scope="module")
def layout():
    return dnb.Layout(
        CAPTION,
        [
            dnb.Region("a blue cat", dnb.box(0.0, 0.25, 0.5, 1.0)),
            dnb.Region("an orange umbrella", dnb.box(0.5, 0.0, 1.0, 0.5)),
        ],
    )


@pytest.fixture(scope="module")
def plan():
    """Eight pixels (2 in A, 1 in B, 5 background) and four text tokens (A, B, none, none)."""
    member = torch.zeros(1, 12, 3, dtype=torch.bool)
    member[0, [0, 1, 8], 0] = True
    member[0, [2, 9], 1] = True
    member[0, 3:8, 2] = True
    return Plan(member, torch.ones(1, 3), image=8)


@pytest.fixture(scope="module")
def scores():
    return 3 * torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))


def pictures(pipe, layout, rule, steps=4, **options):
    noise = options.pop("noise", dnb.generators([0]))
    pipe_inputs = {"num_inference_steps": steps, "output_type": "latent", **options}
    with dense_attention(pipe, layout, rule, **pipe_inputs) as dense:
        return pipe(**dense.inputs, generator=noise).images


# ----------------------------------------------------------------------------------- equations
def test_equation_2_and_3_keep_the_weights_of_the_own_segment_and_lose_the_rest(plan, scores):
    rule = Transfer(mask="weights")
    found, stock = rule.probabilities(scores, plan, FIRST), scores.softmax(dim=-1)
    cat = torch.tensor([0, 1, 8, 10, 11])  # its pixels, its word, text of no segment
    assert torch.equal(found[:, :, 0, cat], stock[:, :, 0, cat])
    assert found[:, :, 0].sum(-1).allclose(stock[:, :, 0, cat].sum(-1))
    assert (found[:, :, :8].sum(-1) < 1).all(), "nothing restores what was taken away"
    assert torch.equal(found[:, :, 8:], stock[:, :, 8:]), "text looks at what it likes"


def test_renormalised_it_is_the_hard_mask_before_the_softmax(plan, scores):
    ours = Transfer(mask="renormalised", special_tokens="background")
    hard = HardMask(quadrants=HardMask.quadrants[:2])
    for each, part in ((plan, scores), (plan.image_only(), scores[..., :8, :8])):
        one, two = (rule.probabilities(part, each, FIRST) for rule in (ours, hard))
        assert torch.allclose(one, two, atol=1e-6)
    neutral = replace(ours, special_tokens="neutral")
    other = neutral.probabilities(scores, plan, FIRST)
    assert not torch.allclose(other, hard.probabilities(scores, plan, FIRST), atol=1e-3)


def test_the_segment_mask_by_hand(plan):
    mask = segment_mask(plan)[0]
    assert mask.shape == (8, 12)
    assert mask[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1]
    assert mask[3].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1]
    assert segment_mask(plan, "background")[0, 0].tolist()[10:] == [0, 0]
    assert segment_mask(plan, "background")[0, 3].tolist()[10:] == [1, 1]
    assert segment_mask(plan, "negative")[0, :, 10:].sum() == 0


def test_pixels_of_no_region_see_everything_rather_than_nothing(plan):
    member = plan.member.clone()
    member[0, :8, 2] = False
    mask = segment_mask(Plan(member, plan.strengths, 8))[0]
    assert (mask[3:] == 1).all() and mask[0].sum() == 5


def test_equation_1_gives_small_segments_more_weight(plan, scores):
    found = segment_factor(plan)[0, [0, 2, 3, 8, 9, 10]]
    assert torch.equal(found, torch.tensor([6 / 8, 7 / 8, 1, 6 / 8, 7 / 8, 1]))
    assert torch.equal(segment_factor(plan, 2.0)[0, [0, 3, 9]], torch.tensor([14 / 8, 1, 15 / 8]))
    plain, sized = (
        Transfer(mask="weights", size_factor=factor).probabilities(scores, plan, FIRST)
        for factor in (None, 2.0)
    )
    assert torch.allclose(sized[:, :, 0, 8], plain[:, :, 0, 8] * 14 / 8)
    assert torch.allclose(sized[:, :, 2, 9], plain[:, :, 2, 9] * 15 / 8)
    assert torch.equal(sized[:, :, 3, 3:8], plain[:, :, 3, 3:8])
    assert torch.equal(sized[:, :, 8:], plain[:, :, 8:])


def test_the_square_root_of_d_model_is_a_temperature(pipe, plan, scores):
    heads, size = 4, 8
    assert Transfer.reported(pipe).temperature == pytest.approx((heads * size / size) ** 0.5)
    warm = Transfer(mask="weights", temperature=2.0).probabilities(scores, plan, FIRST)
    assert torch.allclose(
        warm, Transfer(mask="weights").probabilities(scores / 2, plan, FIRST), atol=1e-7
    )
    assert (warm[:, :, 8:].amax(-1) < scores[:, :, 8:].softmax(-1).amax(-1)).all()


def test_equation_4_adds_one_vector_to_each_segments_phrase(plan):
    text = torch.zeros(1, 4, 5000)
    found = Transfer(embedding=2.0).edit_text(text, plan, FIRST)[0]
    assert not found[2:].any(), "text of no segment"
    assert not torch.allclose(found[0], found[1])
    assert found[:2].std().item() == pytest.approx(2.0, rel=0.05)
    assert torch.equal(found, Transfer(embedding=2.0).edit_text(text, plan, FIRST)[0])
    assert Transfer().edit_text(text, plan, FIRST) is text


def test_equation_1_makes_new_noise_outside_the_segments_in_early_steps(pipe):
    latents = torch.zeros(2, 16, 4, 4)
    inside = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    inside[..., :2] = True

    def edited(index, seed=0):
        generator = torch.Generator().manual_seed(seed)
        rule = Transfer.reported(pipe)
        return rule.after_step(latents, inside, Step(index, 10, 0.9), generator)

    assert not edited(2)[..., :2].any() and edited(2)[..., 2:].std() > 0.8
    assert not torch.equal(edited(2), edited(2, seed=1))
    assert torch.equal(edited(2)[0], edited(2)[1])
    assert edited(3) is latents, "after 30 % of the steps"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask": "soft"}, "mask is 'soft', but has to be 'scores' or 'weights' or 'renormalised'"),
        ({"layers": "cross"}, "layers is 'cross'"),
        ({"temperature": 0.0}, "temperature is 0, but scores are divided by it"),
        ({"embedding": -1.0}, "embedding is -1.0"),
        ({"size_factor": -1.0}, "size_factor is -1.0"),
        ({"renoise": 1.5}, "renoise is 1.5, but has to be a finite number from 0 to 1"),
        ({"backend": "fused"}, "backend is 'fused'"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        Transfer(**wrong)


# ---------------------------------------------------------------------------- hooks in the model
def test_all_switches_off_the_pictures_are_those_of_densediffusion(pipe, layout):
    assert torch.equal(
        pictures(pipe, layout, Transfer()), pictures(pipe, layout, DenseConfig(backend="explicit"))
    )
    assert not torch.equal(
        pictures(pipe, layout, Transfer()), pictures(pipe, layout, Transfer(mask="weights"))
    )


def test_a_mask_that_reaches_no_layer_does_nothing(pipe, layout):
    stock = dict(pipe.transformer.attn_processors)
    found = pictures(pipe, layout, Transfer(layers="none"))
    assert pipe.transformer.attn_processors == stock
    inputs = {"num_inference_steps": 4, "output_type": "latent", "generator": dnb.generators([0])}
    plain = pipe(**dnb.sd3.call_inputs(pipe, layout, None, **inputs)).images
    assert torch.equal(found, plain)


def test_image_only_attention_is_edited_alone(pipe, layout):
    rule = Transfer(layers="image-only")
    assert rule.active(FIRST, joint=False) and not rule.active(FIRST, joint=True)
    alone = pictures(pipe, layout, rule)
    assert not torch.equal(alone, pictures(pipe, layout, Transfer(layers="none")))
    assert not torch.equal(alone, pictures(pipe, layout, Transfer()))


def test_latents_outside_the_regions_are_noise_after_an_early_step(pipe, layout):
    seen = []

    class Watched(Transfer):
        def after_step(self, latents, inside, step, generator):
            edited = super().after_step(latents, inside, step, generator)
            seen.append((step.index, inside, (edited != latents).any(dim=1, keepdim=True)))
            return edited

    rule = Watched(layers="none", renoise=0.5)
    noise = dnb.generators(4)
    four = pictures(pipe, [layout, layout], rule, num_images_per_prompt=2, noise=noise)
    assert [index for index, *_ in seen] == [0, 1, 2, 3]
    for index, inside, changed in seen:
        assert inside.shape == (4, 1, 32, 32) and inside.float().mean() == 5 / 8
        assert torch.equal(changed, ~inside if index < 2 else torch.zeros_like(inside))
    assert len(four) == 4


def test_generate_and_draw_apply_both_hooks(pipe, layout):
    """Every case gives the picture of the plain call, with and without a callback of the caller."""
    rule = Transfer(layers="none", embedding=1.0, renoise=0.5)
    stock = dnb.generate(pipe, layout, [0], None, steps=2, progress=lambda *_: None)
    by_step = []
    ours = dnb.generate(pipe, layout, [0], rule, steps=2, progress=lambda *at: by_step.append(at))
    assert by_step == [(1, 2), (2, 2)]
    plain = pictures(pipe, layout, rule, steps=2, output_type="pil")[0]
    assert ours[0].tobytes() == plain.tobytes() != stock[0].tobytes()

    latents = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn = [draw(pipe, each, [layout], latents, 2, 7.0) for each in (rule, None)]
    assert not torch.equal(*drawn)


def test_the_callers_callback_comes_after_the_rules(pipe, layout):
    seen = []

    def look(_, index, timestep, state):
        seen.append(state["latents"].clone())
        return {}

    rule = Transfer(layers="none", renoise=1.0)
    plain = pictures(pipe, layout, rule, steps=2, output_type="latent")
    with_callback = pictures(
        pipe, layout, rule, steps=2, output_type="latent", callback_on_step_end=look
    )
    assert torch.equal(plain, with_callback) and torch.equal(seen[-1], plain)
    count = len(seen)
    dnb.generate(pipe, layout, [0], rule, steps=2, callback_on_step_end=look)
    dnb.generate(pipe, layout, [0], None, steps=2, callback_on_step_end=look)
    assert len(seen) == count + 4


def test_a_picture_does_not_depend_on_its_batch(pipe, layout):
    rule = Transfer(layers="none", embedding=1.0, renoise=0.5)
    latents = torch.randn(2, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    both = draw(pipe, rule, [layout, layout], latents, 2, 7.0)
    for row in range(2):
        one = draw(pipe, rule, [layout], latents[row : row + 1], 2, 7.0)
        assert torch.allclose(one[0], both[row], atol=1e-4)


def test_only_rows_that_follow_the_layout_get_another_text(pipe, layout):
    given = []

    class Watched(Transfer):
        def edit_text(self, text, plan, step):
            given.append(text.shape)
            return super().edit_text(text, plan, step)

    taken = []
    hook = pipe.transformer.context_embedder.register_forward_pre_hook(
        lambda _, inputs: taken.append(inputs[0].clone())
    )
    try:
        pictures(pipe, layout, Watched(layers="none", embedding=1.0), steps=1)
        pictures(pipe, layout, Watched(layers="none"), steps=1)
    finally:
        hook.remove()
    assert {shape[0] for shape in given} == {1}
    with_embedding, without = taken
    assert torch.equal(with_embedding[0], without[0]), "the negative prompt"
    changed = (with_embedding[1] != without[1]).any(dim=-1)
    spans = dnb.sd3.text_regions(pipe, layout, without.shape[1] - 40).member.any(dim=1)
    assert torch.equal(changed, spans)


def test_other_rules_are_called_without_a_callback(pipe, layout):
    with dense_attention(pipe, layout, DenseConfig(), num_inference_steps=1) as dense:
        assert "callback_on_step_end" not in dense.inputs
        pipe(**dense.inputs, output_type="latent")
    assert Rule().edit_text(1, None, FIRST) == 1
    assert Rule().after_step(2, None, FIRST, None) == 2


def test_leftover_noise_is_what_the_autoencoder_cannot_show(miniature):
    vae, random = miniature.vae, torch.Generator().manual_seed(0)
    side = torch.linspace(-1, 1, 64)
    pixels = torch.stack(
        [side.expand(64, 64), side[:, None].expand(64, 64), 0 * side.expand(64, 64)]
    )
    latents = vae.encode(pixels[None]).latent_dist.mode() - vae.config.shift_factor
    latents = latents * vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=random)
    shares = leftover_noise(vae, torch.cat([latents, latents + 0.5 * noise, noise]))
    assert shares.shape == (3,) and shares[0] < 0.2
    assert shares[0] + 0.1 < shares[1] < shares[2] - 0.1


# ---------------------------------------------------------------------------- repairs and relapses
def test_each_repair_changes_what_its_name_says(miniature):
    rules = [asdict(rule(miniature)) for rule in REPAIRS.values()]
    assert list(REPAIRS) == ["report", *CHANGES, "repair-recommended"]
    for before, after, changes in zip(rules, rules[1:], CHANGES.values()):
        assert {name for name in before if before[name] != after[name]} <= set(changes)
        assert any(before[name] != after[name] for name in changes)
        assert {name: after[name] for name in changes} == changes


def test_the_chain_passes_the_hard_mask_and_ends_at_the_librarys_settings(miniature):
    chain = {name: rule(miniature) for name, rule in REPAIRS.items()}
    last = chain["repair-recommended"]
    recommended = asdict(DenseConfig.recommended(miniature))
    assert {name: asdict(last)[name] for name in recommended} == recommended | {
        "backend": "explicit"
    }
    assert asdict(last) == asdict(Transfer.recommended(miniature)), "no departure is left"
    value_range = asdict(STAGES["value-range"])
    soft = asdict(chain["repair-soft"])
    assert {name: soft[name] for name in value_range} == value_range | {"backend": "explicit"}


def test_the_end_of_the_chain_gives_the_librarys_pictures_bit_for_bit(miniature):
    layout = dnb.Layout(CAPTION, [dnb.Region("a blue cat", dnb.box(0.5, 0.4, 0.95, 0.95))])
    ours, theirs, before = (
        pictures(miniature, layout, rule, steps=3)
        for rule in (
            REPAIRS["repair-recommended"](miniature),
            DenseConfig.recommended(miniature),
            REPAIRS["repair-decay"](miniature),
        )
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)


def test_each_relapse_differs_from_the_librarys_setting_in_one_thing(miniature):
    recommended = asdict(Transfer.recommended(miniature))
    for name, rule in RELAPSES.items():
        changed = {
            key for key, value in asdict(rule(miniature)).items() if value != recommended[key]
        }
        assert len(changed) == 1, name


@pytest.mark.parametrize(
    ("relapse", "repair"), [("relapse-sum", "repair-window"), ("relapse-hard", "repair-sum")]
)
def test_a_mask_put_back_is_the_repairs_without_attn2(miniature, plan, scores, relapse, repair):
    ours, theirs = RELAPSES[relapse](miniature), REPAIRS[repair](miniature)
    assert torch.equal(*(rule.probabilities(scores, plan, FIRST) for rule in (ours, theirs)))
    assert ours.active(FIRST, joint=True) and theirs.active(FIRST, joint=True)
    assert theirs.active(FIRST, joint=False) and not ours.active(FIRST, joint=False)


def test_every_variant_is_a_method_of_the_command(miniature):
    for name, rule in (REPAIRS | READINGS | RELAPSES).items():
        assert METHODS[name](miniature) == rule(miniature)


def test_committed_rows_are_of_the_methods_as_they_are(miniature):
    """Rerun the table if its method has changed."""
    path = Path(__file__).parents[2] / "docs" / "transfer.json"
    rows = {row["method"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    ours = {name: rule for name, rule in (REPAIRS | READINGS | RELAPSES).items() if name in rows}
    assert {"report", "repair-window", "repair-recommended", "relapse-scale"} <= set(ours)
    for name, rule in ours.items():
        now = json.loads(json.dumps(asdict(rule(miniature))))
        given = rows[name]["settings"]
        differ = {key for key in now if now[key] != pytest.approx(given[key], abs=1e-3)}
        assert not differ, name
