"""The modulation's math: compared with a transcript of the released code, and its properties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig, modulate
from densenb.modulation.formulas import (
    area_weight,
    push_pull,
    region_strength,
    same_region,
    schedule,
)
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule

ALL = {"image_text": 0.9, "image_image": 0.5, "text_image": 0.7, "text_text": 0.3}
seeds = st.integers(0, 2**31)


def random_case(seed: int, batch: int = 2, heads: int = 2, image: int = 12, text: int = 7):
    """Scores and a plan with overlaps, unassigned pixels and unlabelled text."""
    g = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(batch, heads, image + text, image + text, generator=g).double()
    member = torch.rand(batch, image + text, 3, generator=g) < 0.3
    background = torch.zeros(batch, image + text, 1, dtype=torch.bool)
    background[:, :image, 0] = ~member[:, :image].any(-1)
    strengths = torch.cat([torch.rand(batch, 3, generator=g), torch.ones(batch, 1)], dim=1)
    return scores, Plan(torch.cat([member, background], dim=-1), strengths, image)


def at(sigma: float) -> Step:
    return Step(0, 10, sigma)


def plain(plan: Plan, keep_background: bool = True) -> Plan:
    member = plan.member.clone()
    member[..., -1] &= keep_background
    return replace(plan, member=member, strengths=torch.ones_like(plan.strengths))


def released(scores, masks, token_maps, w, t, image_keys: bool):
    """DenseDiffusion's released code, one query row at a time, as plain Python."""
    heads, pixels, keys = scores.shape
    out = scores.clone()
    for i in range(pixels):
        shared = [sum(float(m[i] * m[k]) for m in masks) for k in range(pixels)]
        size = 1 - 1.0 * sum(shared) / pixels
        a = w * size * (t / 1000) ** 5
        for h in range(heads):
            hi, lo = scores[h, i].max(), scores[h, i].min()
            for k in range(keys):
                s = scores[h, i, k]
                positive = shared[k] > 0 if image_keys else float(token_maps[k][i]) > 0
                out[h, i, k] = s + a * (hi - s) if positive else s - a * (s - lo)
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quadrant", ["image_image", "image_text"])
def test_published_rule_is_the_released_code(seed, quadrant):
    scores, plan = random_case(seed, batch=1)
    plan = plain(plan, keep_background=False)
    image, t = plan.image, 930.0
    masks = plan.member[0, :image].float().T
    assert (masks.sum(0) == 0).any() and (masks.sum(0) > 1).any()  # unassigned, overlap
    token_maps = [
        (plan.member[0, u] & plan.member[0, :image]).any(-1).float()
        for u in range(image, plan.member.shape[1])
    ]
    if quadrant == "image_image":
        rows = scores[0, :, :image, :image]
        expected = released(rows, masks, None, 0.3, t, image_keys=True)
        plan, scores = plan.image_only(), rows[None]
        result = modulate(scores, plan, DenseConfig.published(), at(t / 1000))[0]
    else:
        expected = released(scores[0, :, :image, image:], masks, token_maps, 1.0, t, False)
        result = modulate(scores, plan, DenseConfig.published(), at(t / 1000))[0, :, :image, image:]
    assert torch.allclose(result, expected, atol=1e-5)


def test_published_area_may_turn_the_sign_and_ours_may_not():
    everywhere = torch.ones(1, 4, 3, dtype=torch.bool)  # three regions, each the whole picture
    assert area_weight(everywhere, everywhere, overlap="sum").eq(-2).all()
    assert area_weight(everywhere, everywhere, overlap="union").eq(0).all()


def test_area_weight_by_hand():
    pixels = torch.tensor([[[1, 0], [1, 1], [0, 1], [0, 0]]], dtype=torch.bool)
    assert area_weight(pixels, pixels)[0].tolist() == [0.5, 0.25, 0.5, 1.0]
    assert area_weight(pixels, pixels, area=0.5)[0].tolist() == [0.75, 0.625, 0.75, 1.0]
    assert area_weight(pixels, pixels, overlap="sum")[0].tolist() == [0.5, 0.0, 0.5, 1.0]


def test_region_strength_is_the_strongest_of_the_querys_regions():
    member = torch.tensor([[[1, 0], [1, 1], [0, 1], [0, 0]]], dtype=torch.bool)
    strengths = torch.tensor([[0.5, 2.0]])
    assert region_strength(member, strengths)[0].tolist() == [0.5, 2.0, 2.0, 1.0]


def test_schedule():
    assert schedule(at(1.0), "sigma", 5, 0.3) == 1 and schedule(at(0.5), "sigma", 0, 0.3) == 1
    assert schedule(at(0.9), "sigma", 5, 0.3) == pytest.approx(0.59049)
    halfway = Step(7, 28, 0.9)
    assert schedule(halfway, "fraction", 2, 0.5) == pytest.approx(0.75**2)
    assert schedule(halfway, "cosine", 1, 0.5) == pytest.approx(0.5)
    assert schedule(Step(14, 28, 0.9), "cosine", 1, 0.5) == pytest.approx(0)
    assert schedule(Step(0, 28, 1.0), "cosine", 3, 0.5) == 1


def test_the_published_schedule_is_weaker_by_fraction_than_by_sigma():
    """Under shift 3, sigma ** 5 stays 1.46 times (1 - i / 28) ** 5 in the mean of the window."""
    steps = [Step(i, 28, 3 * (1 - i / 28) / (1 + 2 * (1 - i / 28))) for i in range(9)]
    means = [
        sum(schedule(step, clock, 5, 0.3) for step in steps) / 9 for clock in ("sigma", "fraction")
    ]
    assert means == [pytest.approx(0.757, abs=0.01), pytest.approx(0.517, abs=0.01)]


def test_push_pull_by_hand():
    scores = torch.tensor([[[[0.0, 2.0, 4.0]]]])
    same = torch.tensor([[[1.0, 1.0, 0.0]]])
    moved = push_pull(scores, same, torch.full((1, 1, 3), 0.5))
    assert moved[0, 0, 0].tolist() == [2.0, 3.0, 2.0]
    halved = push_pull(scores, same / 2, torch.full((1, 1, 3), 0.5))  # half in the region
    assert halved[0, 0, 0].tolist() == [1.0, 2.0, 2.0]


def test_fixed_bias_is_in_logits():
    scores, plan = random_case(0)
    config = DenseConfig(**ALL, value_range=None, area=0, special_tokens="negative")
    moved = modulate(scores, plain(plan), config, at(1.0)) - scores
    same = same_region(plan.member, plan.member) > 0
    free = plan.unlabelled
    image = plan.image
    for rows, columns, strength in [
        (slice(image), slice(image, None), 0.9),
        (slice(image), slice(image), 0.5),
        (slice(image, None), slice(image), 0.7),
        (slice(image, None), slice(image, None), 0.3),
    ]:
        sign = torch.where(same[:, rows, columns], 1.0, -1.0).double()
        if rows.start:  # text queries do not move unlabelled text, nor does it move as a query
            sign = sign.masked_fill(free[:, rows, None] | free[:, None, columns], 0)
        expected = (sign * strength)[:, None].expand(2, 2, -1, -1)
        assert torch.allclose(moved[:, :, rows, columns], expected)


def test_each_quadrant_touches_only_itself():
    scores, plan = random_case(1)
    image = plan.image
    part = {"image": slice(image), "text": slice(image, None)}
    off = dict.fromkeys(ALL, 0.0)
    for name in ALL:
        moved = modulate(scores, plan, DenseConfig(**off | {name: 0.5}), at(0.9)) != scores
        query, key = name.split("_")
        assert moved[:, :, part[query], part[key]].any()
        moved[:, :, part[query], part[key]] = False
        assert not moved.any(), name


def test_what_pixels_make_of_special_tokens():
    scores, plan = random_case(2)
    assert plan.unlabelled.any()
    neutral, negative, background = (
        modulate(scores, plan, DenseConfig(**ALL, special_tokens=policy), at(0.9))
        for policy in ("neutral", "negative", "background")
    )
    image = slice(0, plan.image)
    for row, token in plan.unlabelled.nonzero().tolist():
        before = scores[row, :, :, token]
        behind = plan.pixels[row, :, -1]
        assert torch.equal(neutral[row, :, :, token], before)
        assert (negative[row, :, image, token] <= before[:, image]).all()
        moved = background[row, :, image, token] - before[:, image]
        assert (moved[:, behind] >= 0).all() and moved[:, behind].any()
        assert (moved[:, ~behind] <= 0).all() and moved[:, ~behind].any()
        for after in (neutral, negative, background):  # an attention sink for phrases
            assert torch.equal(after[row, :, token], scores[row, :, token])
            assert torch.equal(after[row, :, plan.image :, token], before[:, plan.image :])


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_soft_regions_move_scores_between_the_hard_cases(seed):
    scores, plan = random_case(seed)
    config = DenseConfig(image_text=0, image_image=0.8, area=0)
    g = torch.Generator().manual_seed(seed)
    soft = torch.rand(plan.member.shape, generator=g)
    soft = plan.member * soft / plan.member.sum(-1, keepdim=True).clamp(min=1)
    none, some, whole = (
        modulate(scores, replace(plan, member=member), config, at(1.0))
        for member in (torch.zeros_like(soft), soft, plan.member.float())
    )
    assert (some >= none - 1e-9).all() and (some <= whole + 1e-9).all()


def test_row_range_reaches_across_quadrants():
    scores, plan = random_case(3)
    scores[..., 0] = 50.0  # an image key that dominates all others
    row = modulate(scores, plan, DenseConfig(value_range="row"), at(0.9))
    quadrant = modulate(scores, plan, DenseConfig(), at(0.9))
    text = slice(plan.image, None)
    assert quadrant[..., text].max() <= scores[..., text].max() < row[..., text].max()


def test_half_precision_scores_are_lifted_to_float32():
    scores, plan = random_case(4)
    assert modulate(scores.half(), plan, DenseConfig(), at(0.9)).dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(0, 3), st.sampled_from(["quadrant", "row"]))
def test_scores_stay_in_the_range_of_their_row(seed, strength, value_range):
    scores, plan = random_case(seed)
    config = DenseConfig(**dict.fromkeys(ALL, strength), value_range=value_range)
    moved = modulate(scores, plan, config, at(1.0))
    assert (moved <= scores.amax(-1, keepdim=True) + 1e-9).all()
    assert (moved >= scores.amin(-1, keepdim=True) - 1e-9).all()
    weights = config.probabilities(scores, plan, Step(0, 10, 1.0))
    assert torch.allclose(weights.sum(-1), torch.ones((), dtype=weights.dtype))


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_monotone_in_strength(seed, one, other):
    scores, plan = random_case(seed)
    weak, strong = (
        modulate(scores, plan, DenseConfig(**dict.fromkeys(ALL, strength)), at(0.9))
        for strength in sorted([one, other])
    )
    same = same_region(plan.member, plan.member)[:, None] > 0
    rise = torch.where(same, strong - weak, weak - strong)
    assert (rise >= -1e-9).all()


@settings(deadline=None, max_examples=30)
@given(seeds, st.permutations([0, 1, 2]))
def test_the_order_of_regions_does_not_matter(seed, order):
    scores, plan = random_case(seed)
    shuffled = replace(
        plan, member=plan.member[..., [*order, 3]], strengths=plan.strengths[:, [*order, 3]]
    )
    for config in (DenseConfig(**ALL), DenseConfig.published()):
        assert torch.equal(
            modulate(scores, plan, config, at(0.9)), modulate(scores, shuffled, config, at(0.9))
        )


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_image_only_equals_temperature_and_bias(seed):
    """softmax((1 - a) s + a (hi - lo) M): the one-line form of the same rule."""
    scores, plan = random_case(seed)
    plan = plain(plan).image_only()
    scores = scores[:, :, : plan.image, : plan.image]
    config = DenseConfig(image_image=0.8)
    a = (0.8 * area_weight(plan.member, plan.pixels) * 0.9**5)[:, None, :, None]
    spread = scores.amax(-1, keepdim=True) - scores.amin(-1, keepdim=True)
    matching = same_region(plan.member, plan.member)[:, None]
    expected = ((1 - a) * scores + a * spread * matching).softmax(-1)
    assert torch.allclose(config.probabilities(scores, plan, Step(0, 10, 0.9)), expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_hard_mask_blinds_tokens_of_different_regions_only(seed):
    scores, plan = random_case(seed)
    plan = plain(plan, keep_background=False)
    rule = HardMask(special_tokens="neutral")
    weights = rule.probabilities(scores, plan, Step(0, 10, 1.0))
    assert torch.allclose(weights.sum(-1), torch.ones((), dtype=weights.dtype))
    free = ~plan.member.any(-1)
    for row in range(2):
        for query in range(plan.member.shape[1]):
            for key in range(plan.member.shape[1]):
                shared = (plan.member[row, query] & plan.member[row, key]).any()
                sees = bool(shared or free[row, query] or free[row, key])
                assert (weights[row, :, query, key] > 0).all() == sees


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_hard_mask_leaves_unlabelled_text_to_the_background_and_to_text(seed):
    scores, plan = random_case(seed)
    weights = HardMask().probabilities(scores, plan, Step(0, 10, 1.0))
    assert torch.allclose(weights.sum(-1), torch.ones((), dtype=weights.dtype))
    sees = weights.amin(1) > 0  # [B, Q, K]: in every head
    free, background = plan.unlabelled, plan.member[..., -1]
    pixel = torch.arange(sees.shape[1]) < plan.image
    owned = pixel & ~background
    assert not (sees & owned[:, :, None] & free[:, None]).any()
    assert sees[(background | ~pixel)[:, :, None] & free[:, None]].all()


def test_hard_mask_in_some_quadrants_leaves_the_others_open():
    scores, plan = random_case(0)
    weights = HardMask(quadrants=(("image", "text"),)).probabilities(scores, plan, at(1.0))
    assert (weights[:, :, plan.image :] > 0).all() and (weights[..., : plan.image] > 0).all()
    assert (weights[:, :, : plan.image, plan.image :] == 0).any()
    with pytest.raises(ValueError, match="quadrants"):
        HardMask(quadrants=(("image", "words"),))


def test_hard_mask_names_a_wrong_policy():
    with pytest.raises(ValueError, match="special_tokens is 'none'"):
        HardMask(special_tokens="none")


def test_window_counts_steps_exactly():
    def edited(window: float, count: int) -> int:
        return sum(Rule(window=window).active(Step(i, count, 1.0), True) for i in range(count))

    assert [edited(0.3, 28), edited(0.3, 50), edited(0.3, 10)] == [9, 15, 3]
    assert [edited(0.07, 100), edited(0, 28), edited(1, 28)] == [7, 0, 28]


def test_nothing_to_do_is_not_active():
    first = Step(0, 28, 1.0)
    only_text = DenseConfig(image_image=0)
    assert only_text.active(first, joint=True) and not only_text.active(first, joint=False)
    assert not DenseConfig(image_text=0, image_image=0).active(first, joint=True)
    assert not DenseConfig(image_text=0, image_image=0).active(first, joint=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_text", -0.1),
        ("image_text", float("nan")),
        ("image_text", True),
        ("image_image", "strong"),
        ("window", 1.5),
        ("decay", -1),
        ("decay", 10**400),
        ("decay", np.float32("inf")),
        ("area", 2),
        ("value_range", "key"),
        ("special_tokens", "positive"),
        ("blocks", ()),
        ("blocks", [-1]),
        ("blocks", "all"),
        ("blocks", 3),
        ("backend", "fast"),
        ("unassigned", "negative"),
        ("overlap_area", "max"),
        ("masks", "blurry"),
        ("phrase_match", "last"),
        ("encode_phrases_alone", "yes"),
        ("pooled", "mean"),
    ],
)
def test_settings_are_checked_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        DenseConfig(**{name: value})


def test_blocks_may_be_any_sequence():
    assert DenseConfig(blocks=range(2, 6, 2)).blocks == (2, 4)
    assert DenseConfig(blocks=np.arange(2)).blocks == (0, 1)


def test_numbers_of_other_libraries_become_pythons_own():
    config = DenseConfig(image_text=np.float32(0.5), decay=np.int64(3), blocks=[np.int32(1)])
    assert config == DenseConfig(image_text=0.5, decay=3, blocks=[1])
    values = (config.image_text, config.decay, *config.blocks)
    assert [type(value) for value in values] == [float, int, int]
