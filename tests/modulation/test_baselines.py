"""The baselines against their formulas, transcribed one weight at a time."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_random import random_pipeline

import densenb as dnb
from densenb.evaluation.runner import METHODS
from densenb.modulation.baselines import (
    HardMask,
    MultiplyWeights,
    PaintWithWords,
    ScaleByArea,
    ScaleText,
    phrase_mask,
)
from densenb.modulation.plan import Plan, Step
from densenb.sd3.dense_attention import dense_attention

PIXELS, WORDS = 9, 6
RULES = [PaintWithWords(), MultiplyWeights(), ScaleText(), ScaleByArea(), HardMask()]
NAMES = ["hard-mask-alternating", "paint-with-words", "mis-dit", "taca", "omost"]


@pytest.fixture(scope="module", params=range(3))
def case(request):
    """Scores and a plan: three overlapping regions, and some pixels and words in no region."""
    g = torch.Generator().manual_seed(request.param)
    scores = 3 * torch.randn(2, 2, PIXELS + WORDS, PIXELS + WORDS, generator=g).double()
    member = torch.rand(2, PIXELS + WORDS, 4, generator=g) < 0.3
    member[..., -1] = False
    member[:, :PIXELS, -1] = ~member[:, :PIXELS].any(-1)
    member[:, -1] = False  # a word of no phrase
    return scores, Plan(member, torch.ones(2, 4), PIXELS)


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline()


LAYOUT = dnb.Layout(
    "a blue cat and an orange umbrella in a rose garden",
    [
        dnb.Region("a blue cat", dnb.box(0.0, 0.25, 0.5, 1.0)),
        dnb.Region("an orange umbrella", dnb.box(0.5, 0.0, 1.0, 0.5)),
    ],
)


def share(plan, b, i, k):
    """Whether two tokens of a row share a region."""
    return any(bool(x) and bool(y) for x, y in zip(plan.member[b, i], plan.member[b, k]))  # noqa: B905


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def each_row(scores):
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in scores.shape[:3])).tolist():
        yield b, h, i, scores[b, h, i].tolist()


def assert_rows(found, rows):
    """Compare with rows: (b, h, i) -> the expected weights."""
    for (b, h, i), expected in rows.items():
        assert found[b, h, i].tolist() == pytest.approx(expected, abs=1e-6), (b, h, i)
    assert len(rows) == found.shape[:3].numel()


# ------------------------------------------------------------------------------------- formulas
@pytest.mark.parametrize("sigma", [0.3, 0.9, 1.0])
def test_paint_with_words_adds_a_share_of_the_largest_score(case, sigma):
    scores, plan = case
    rows = {}
    for b, h, i, row in each_row(scores):
        if i < PIXELS:
            noise = min(14.6, sigma / (1 - sigma)) if sigma < 1 else 14.6
            most = max(
                scores[b, g, j, k].item()
                for g in range(2)
                for j in range(PIXELS)
                for k in range(PIXELS, PIXELS + WORDS)
            )
            for k in range(PIXELS, PIXELS + WORDS):
                row[k] += 0.7 * math.log(1 + noise) * most * share(plan, b, i, k)
        rows[b, h, i] = softmax(row)
    found = PaintWithWords(weight=0.7).probabilities(scores, plan, Step(0, 10, sigma))
    assert_rows(found, rows)


def test_paint_with_words_takes_the_largest_score_of_each_picture(case):
    scores, plan = case
    both = PaintWithWords().probabilities(scores, plan, Step(0, 10, 0.9))
    alone = Plan(plan.member[:1], plan.strengths[:1], PIXELS)
    one = PaintWithWords().probabilities(scores[:1], alone, Step(0, 10, 0.9))
    assert torch.allclose(both[:1], one), "a picture does not depend on its batch"


@pytest.mark.parametrize("image_area", [1.0, 2.0])
def test_weights_are_multiplied_as_mis_dit_does(case, image_area):
    scores, plan = case
    settings = {"text_text": 3.5, "image_text": 5.0, "image_image": 2.0}
    time = 0.8**3
    rows = {}
    for b, h, i, row in each_row(scores):
        p = softmax(row)
        everything = range(PIXELS + WORDS)
        for k in everything:
            if i < PIXELS:
                covered = sum(share(plan, b, i, j) for j in range(PIXELS)) / PIXELS
                size = max(0, 1 - image_area * covered)
                w = settings["image_image" if k < PIXELS else "image_text"]
                same = share(plan, b, i, k)
            elif k >= PIXELS:
                phrase = sum(share(plan, b, i, j) for j in range(PIXELS, PIXELS + WORDS)) / WORDS
                size, w = max(0, 1 - 4 * phrase), settings["text_text"]
                same = share(plan, b, i, k) or i == k
            else:
                continue  # text->image
            p[k] *= math.exp(size * w * time * (same - p[k]))
        rows[b, h, i] = [value / sum(p) for value in p]
    rule = MultiplyWeights(**settings, image_area=image_area)
    assert_rows(rule.probabilities(scores, plan, Step(0, 10, 0.8)), rows)


def test_weights_among_pixels_alone_are_multiplied_too(case):
    scores, plan = case
    part = scores[..., :PIXELS, :PIXELS]
    found = MultiplyWeights().probabilities(part, plan.image_only(), Step(0, 10, 1.0))
    assert found.isfinite().all() and not torch.allclose(found, part.softmax(-1))


def test_taca_scales_what_pixels_think_of_text(case):
    scores, plan = case
    rows = {}
    for b, h, i, row in each_row(scores):
        if i < PIXELS:
            row = row[:PIXELS] + [1.2 * value for value in row[PIXELS:]]
        rows[b, h, i] = softmax(row)
    assert_rows(ScaleText().probabilities(scores, plan, Step(0, 10, 1.0)), rows)


def test_omost_scales_by_area_and_hides_the_phrase_from_all_other_pixels(case):
    scores, plan = case
    rows = {}
    for b, h, i, row in each_row(scores):
        for k in range(PIXELS, PIXELS + WORDS) if i < PIXELS else ():
            area = sum(share(plan, b, j, k) for j in range(PIXELS))
            if not plan.member[b, k].any():
                continue
            row[k] = row[k] * PIXELS / area if share(plan, b, i, k) else -math.inf
        rows[b, h, i] = softmax(row)
    assert_rows(ScaleByArea().probabilities(scores, plan, Step(0, 10, 1.0)), rows)


# -------------------------------------------------------------------------------- shared behavior
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_rows_sum_to_one_and_nothing_changes_in_place(case, rule):
    scores, plan = case
    before = scores.clone()
    weights = rule.probabilities(scores, plan, Step(0, 10, 0.9))
    assert torch.allclose(weights.sum(-1), torch.ones(()).double())
    assert (weights >= 0).all() and torch.equal(scores, before)


@pytest.mark.parametrize("rule", [PaintWithWords(weight=0), ScaleText(scale=1)])
def test_without_strength_it_is_the_softmax(case, rule):
    scores, plan = case
    weights = rule.probabilities(scores, plan, Step(0, 10, 0.9))
    assert torch.allclose(weights, scores.softmax(-1))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_only_taca_does_not_ask_for_the_layout(case, rule):
    scores, plan = case
    elsewhere = Plan(plan.member.roll(3, dims=1), plan.strengths, PIXELS)
    here, there = (rule.probabilities(scores, each, Step(0, 10, 1.0)) for each in (plan, elsewhere))
    assert torch.equal(here, there) == isinstance(rule, ScaleText)


def test_a_phrase_is_seen_where_its_regions_are(case):
    _, plan = case
    mask = phrase_mask(plan)
    assert mask.shape == (2, PIXELS, WORDS) and not mask[:, :, -1].any()
    for b, i, k in torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)).tolist():
        assert mask[b, i, k] == share(plan, b, i, PIXELS + k)


# ------------------------------------------------------------------------------------ in a pipeline
@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_is_a_method_that_draws_another_picture(pipe, name):
    options = {"num_inference_steps": 4, "output_type": "latent"}
    with dense_attention(pipe, LAYOUT, METHODS[name](pipe), **options) as dense:
        found = pipe(**dense.inputs, generator=dnb.generators([0])).images
        stock = dict(dense.inputs)
    stock = pipe(**stock, generator=dnb.generators([0])).images
    assert found.isfinite().all() and not torch.allclose(found, stock)


def test_when_and_where_each_is_active(pipe):
    def steps(rule, joint=True):
        return sum(rule.active(Step(i, 28, 1.0), joint) for i in range(28))

    assert [steps(METHODS[name](pipe)) for name in NAMES] == [9, 28, 14, 3, 28]
    assert [steps(METHODS[name](pipe), joint=False) for name in NAMES] == [9, 0, 14, 0, 0]


def test_blocks_go_by_the_depth_of_the_model():
    deep = random_pipeline(layers=12)
    assert HardMask.alternating(deep).blocks == (0, 2, 4, 6, 8, 10)
    assert MultiplyWeights.for_model(deep).blocks == tuple(range(1, 12))
    assert MultiplyWeights.for_model(random_pipeline(layers=3), decay=1.0).blocks == (0, 1, 2)


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [
        (PaintWithWords, "weight", -0.1),
        (PaintWithWords, "most", math.inf),
        (PaintWithWords, "window", 1.5),
        (MultiplyWeights, "image_text", "5"),
        (MultiplyWeights, "text_area", -1),
        (MultiplyWeights, "decay", math.nan),
        (ScaleText, "scale", -1.2),
        (ScaleByArea, "window", -1),
    ],
)
def test_bad_settings_are_told_by_name(rule, name, value):
    with pytest.raises(ValueError, match=f"{name} is .*has to be a finite number"):
        rule(**{name: value})
