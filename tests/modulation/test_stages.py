"""The course's stages, the shuffled masks control, and the committed tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from densenb.evaluation.runner import LAYOUTS
from densenb.evaluation.suites import build_suite, shuffled_captions, shuffled_masks
from densenb.models.tiers import TINY
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.stages import RECOMMENDED_RANGE, STAGES

DOCS = Path(__file__).parents[2] / "docs"
CHANGES = {
    "fixed-bias-image-image": {"image_text", "image_image"},
    "value-range": {"image_text", "image_image", "value_range"},
    "area": {"area"},
    "decay": {"decay"},
    "text-image": {"text_image"},
    "text-text": {"text_text"},
}


def test_each_stage_changes_what_its_name_says():
    chain = ["fixed-bias-image-text", *CHANGES]
    for before, after in zip(chain, chain[1:]):
        one, two = asdict(STAGES[before]), asdict(STAGES[after])
        assert {name for name in one if one[name] != two[name]} == CHANGES[after]


def test_the_stage_of_decay_is_the_papers_rule_with_the_background_given_its_words():
    assert STAGES["decay"] == DenseConfig(special_tokens="background")


@pytest.mark.usefixtures("few_backgrounds")
def test_shuffled_masks_are_of_other_scenes_with_as_many_objects():
    suite = build_suite("test", 7)
    layouts = shuffled_masks(suite)
    for index, (mine, wrong) in enumerate(zip(suite.layouts, layouts)):
        assert mine.phrases == wrong.phrases and mine.caption == wrong.caption
        masks = wrong.pixel_masks(64, 64)
        others = [i for i, each in enumerate(suite.layouts) if len(each.regions) == len(masks)]
        owner = [i for i in others if torch.equal(suite.layouts[i].pixel_masks(64, 64), masks)]
        assert len(owner) == 1 and (owner[0] != index or len(others) == 1)
    assert LAYOUTS["shuffled-masks"] is shuffled_masks


@pytest.mark.usefixtures("few_backgrounds")
def test_shuffled_captions_keep_the_masks_and_take_all_words_from_the_scene_whose_masks_went():
    suite = build_suite("test", 7)
    for mine, other, swapped in zip(suite.layouts, shuffled_captions(suite), shuffled_masks(suite)):
        assert torch.equal(mine.pixel_masks(64, 64), other.pixel_masks(64, 64))
        source = next(each for each in suite.layouts if each.caption == other.caption)
        assert other.phrases == source.phrases
        assert torch.equal(source.pixel_masks(64, 64), swapped.pixel_masks(64, 64))
    assert LAYOUTS["shuffled-captions"] is shuffled_captions


def _sweep():
    import sys

    sys.path.insert(0, str(DOCS.parent / "experiments"))
    try:
        import sweep
    finally:
        sys.path.pop(0)
    return sweep


@pytest.mark.parametrize("name", list(_sweep().ROUNDS))
def test_the_sweep_was_of_the_settings_in_the_script(name):
    settings = _sweep().ROUNDS[name]
    rows = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
    assert set(settings) <= {row["method"] for row in rows}
    for row in rows:
        if (rule := settings.get(row["method"])) is not None:
            now = json.loads(json.dumps(asdict(rule)))
            differ = {key for key in now if now[key] != row["settings"].get(key, now[key])}
            assert differ <= {"backend"}, row["method"]


def test_the_settings_with_names_were_swept():
    swept = _sweep().ALL
    assert DenseConfig(**TINY.recommended) == swept["neutral fixed bias 6, text-image 1"]
    assert RECOMMENDED_RANGE == swept["area 0, image-text 0.5"]
