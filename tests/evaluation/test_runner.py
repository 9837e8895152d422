"""The grid of methods over scenes: what it measures, what it compares, what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image

from densenb.evaluation import measure, metrics, runner, suites, tables
from densenb.evaluation.judges import OracleJudge, named_object
from densenb.evaluation.log import Log
from densenb.evaluation.measure import score_layout
from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.miniature.oracle import OracleLabels
from densenb.miniature.world import COLOURS, NOUNS
from densenb.models import tiers
from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig

QUICK = {"steps": 2, "batch_size": 2, "device": "cpu"}


class Echo(torch.nn.Module):
    """Knows the renders of a suite by heart and sees background in every other picture."""

    def __init__(self, suite):
        super().__init__()
        self.suite = suite
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        labels = OracleLabels(*torch.zeros(2, len(images), 64, 64, dtype=torch.long))
        masks = metrics.to_grid(self.suite.masks)
        known = self.suite.images.float() / 255
        for row, image in enumerate(images):
            for index in (known - image).abs().amax((1, 2, 3)).lt(1e-6).nonzero()[:, 0].tolist():
                for slot, mask in enumerate(masks[index]):
                    labels.noun[row][mask] = self.suite.scenes.noun[index, slot] + 1
                    labels.colour[row][mask] = self.suite.scenes.colour[index, slot] + 2
                    if self.suite.scenes.colour2[index, slot] >= 0:  # half of it each
                        half = mask & (torch.arange(64) % 2 == 0)
                        labels.colour[row][half] = self.suite.scenes.colour2[index, slot] + 2
        return labels

    def features(self, images):
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


@pytest.fixture(scope="module")
def suite():
    return suites.build_suite("test", 4)


@pytest.fixture(scope="module")
def rows(random_pipe, suite):
    methods = ["stock", "transferred", "hard-mask"]
    return runner.evaluate(random_pipe, methods, suite, judge=OracleJudge(Echo(suite)), **QUICK)


def test_a_suite_has_one_two_and_three_coloured_objects_in_turn(suite):
    noun, colour = suite.scenes.noun, suite.scenes.colour
    assert (noun >= 0).sum(1).tolist() == [1, 2, 3, 1]
    assert ((colour >= 0) == (noun >= 0)).all()
    assert suite.images.shape == suite.references.shape == (4, 3, 256, 256)
    assert not (suite.images == suite.references).flatten(1).all(1).any()


def test_layouts_ask_for_the_silhouettes_by_phrases_of_the_caption(suite):
    for index, layout in enumerate(suite.layouts):
        shown = suite.masks[index][suite.scenes.noun[index] >= 0]
        assert torch.equal(layout.pixel_masks(256, 256) >= 0.5, shown)
        assert layout.text == layout.caption  # every phrase is verbatim in it
        assert all(phrase in layout.caption for phrase in layout.phrases)


def test_suites_grow_at_the_end_and_differ_by_name_and_seed(suite):
    assert torch.equal(suites.build_suite("test", 2).images, suite.images[:2])
    for name, seed in (("tune", 0), ("test", 1)):
        other = suites.build_suite(name, 2, seed)
        assert not (other.images == suite.images[:2]).flatten(1).all(1).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("tset", 4), "did you mean 'test'"), (("test", 0), "at least 1"), (("test", 2, -1), "seed")],
)
def test_a_suite_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        suites.build_suite(*arguments)


def test_noise_depends_on_suite_scene_and_seed_only(suite):
    shape = (4, 2, 2)
    both = suites.noise(suite, [0, 1], 0, shape)
    assert torch.equal(both[1:], suites.noise(suite, [1], 0, shape))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, suites.noise(suite, [0, 1], 1, shape))
    tune = suites.build_suite("tune", 2)
    assert not torch.equal(both, suites.noise(tune, [0, 1], 0, shape))


def test_rows_have_their_keys_and_are_json(rows):
    assert [row["method"] for row in rows] == [
        "ground-truth", "token-grid ceiling", "stock", "transferred", "hard-mask",
    ]  # fmt: skip
    wanted = {
        "method", "suite", "scenes", "mIoU", "interval", "mIoU_by_scene", "mIoU_present", "in_mask",
        "presence", "presence_by_objects", "colour_binding", "leakage", "box_iou",
        "phrase_binding", "quality", "headline", "objects_by_scene", "seed", "seeds", "model",
        "steps", "guidance", "dtype", "judge", "settings",
    }  # fmt: skip
    for row in rows:
        assert set(row) == wanted and row["suite"] == "test" and row["scenes"] == 4
        assert len(row["mIoU_by_scene"]) == 4
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[2]["settings"] == {} and rows[2]["steps"] == 2
    assert rows[3]["settings"]["rule"] == "DenseConfig"
    assert rows[3]["settings"]["image_image"] == 0.3


def test_the_renders_score_full_marks_and_noise_none(rows):
    truth, ceiling, stock = rows[:3]
    for name in ("mIoU", "in_mask", "presence", "colour_binding"):
        assert truth[name] == 100
    assert truth["leakage"] == 0 and truth["steps"] is None
    assert truth["presence_by_objects"] == {"1": 100, "2": 100, "3": 100}
    assert 50 < ceiling["mIoU"] < 100 and ceiling["presence"] is None
    assert stock["presence"] == 0 and stock["in_mask"] is None


def test_a_picture_depends_on_its_scene_and_seed_not_on_its_batch(random_pipe, suite):
    draw = runner.artist(random_pipe, "transferred", suite, steps=2)
    pairs = [(0, 0), (0, 2), (1, 2)]
    together, alone = draw(pairs), torch.cat([draw([pair]) for pair in pairs])
    assert together.shape == (3, 3, 256, 256)
    assert torch.allclose(together, alone, atol=2e-3)
    assert not torch.allclose(together[1], together[2], atol=2e-2)


def test_the_batch_size_does_not_matter(random_pipe, suite, rows):
    options = {**QUICK, "judge": OracleJudge(Echo(suite)), "batch_size": 3}
    again = runner.evaluate(random_pipe, ["transferred", "hard-mask"], suite, **options)
    assert again == [row for row in rows if row["method"] != "stock"]


def test_methods_share_the_noise_and_only_strength_tells_them_apart(random_pipe, suite):
    latents = suites.noise(suite, [0, 1], 0, runner.latent_shape(random_pipe))
    layouts = suite.layouts[:2]

    def drawn(rule):
        return runner.draw(random_pipe, rule, layouts, latents, steps=2, guidance=4.0)

    stock = drawn(None)
    off = drawn(DenseConfig(image_text=0.0, image_image=0.0))
    assert torch.equal(stock, off)
    assert not torch.equal(stock, drawn(DenseConfig(window=1.0)))
    assert not torch.equal(stock, drawn(HardMask(window=1.0)))


def test_several_seeds_are_pooled_by_scene(random_pipe, suite):
    scored = []

    class Counting(Echo):
        def forward(self, images):
            scored.append(len(images))
            return super().forward(images)

    (*_, row) = runner.evaluate(
        random_pipe, ["stock"], suite, seeds=(0, 1), judge=OracleJudge(Counting(suite)), **QUICK
    )
    assert sum(scored) == 4 + 2 * 4
    assert row["seeds"] == [0, 1] and row["scenes"] == 4


# ------------------------------------------------------------------------------- kept in a log


class Stop(Exception):
    """Somebody pulls the plug."""


class Breaking(Echo):
    """Stops the run before it has judged its n-th batch."""

    def __init__(self, suite, batches):
        super().__init__(suite)
        self.left = batches

    def forward(self, images):
        if self.left == 0:
            raise Stop
        self.left -= 1
        return super().forward(images)


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_an_interrupted_run_goes_on_and_counts_nothing_twice(
    random_pipe, suite, rows, tmp_path, batches
):
    methods, path = ["stock", "transferred", "hard-mask"], tmp_path / "log.jsonl"
    with pytest.raises(Stop):
        runner.evaluate(
            random_pipe, methods, suite, log=Log(path), judge=OracleJudge(Breaking(suite, batches)),
            **QUICK,
        )  # fmt: skip
    scored = sum('"scores":[[' in line for line in path.read_text().splitlines())
    assert scored == 2 * batches  # every batch that was finished, and no other
    moved = path.rename(tmp_path / "another machine.jsonl")
    left = Breaking(suite, batches=8 - batches)  # just enough for what is not done yet
    again = runner.evaluate(
        random_pipe, methods, suite, log=Log(moved), judge=OracleJudge(left), **QUICK
    )
    assert again == rows and left.left == 0
    lines = [json.loads(line) for line in moved.read_text().splitlines()]
    keys = [(line["run"], line["seed"], line["scene"]) for line in lines if "scene" in line]
    assert len(keys) == len(set(keys)) == (2 + len(methods)) * len(suite)


def test_a_log_names_every_setting_and_no_machine(random_pipe, suite, tmp_path):
    path = tmp_path / "log.jsonl"
    judge = OracleJudge(Echo(suite))
    runner.evaluate(
        random_pipe, ["hard-mask"], suite, seeds=(3,), log=Log(path), judge=judge, **QUICK
    )
    runs = list(Log(path).settings.values())
    assert [run["method"] for run in runs] == ["references", "ground-truth", "hard-mask"]
    assert runs[2]["rule"] == json.loads(json.dumps(tables.settings_of(HardMask())))
    assert runs[2]["steps"] == 2 and runs[2]["guidance"] == 7 and runs[2]["dtype"] == "float32"
    text = path.read_text()
    assert str(tmp_path) not in text and "cpu" not in json.dumps(runs)


def test_other_settings_never_share_pictures(random_pipe, suite, tmp_path):
    log, judge = Log(tmp_path / "log.jsonl"), OracleJudge(Echo(suite))
    runner.evaluate(random_pipe, ["stock"], suite, log=log, judge=judge, **QUICK)
    before = len(log.lines)
    with pytest.warns(UserWarning, match="pictures of other steps: they are kept"):
        runner.evaluate(random_pipe, ["stock"], suite, log=log, judge=judge, **QUICK | {"steps": 1})
    assert len(log.lines) == before + len(suite)  # the renders are the same
    with torch.no_grad():
        weight = next(random_pipe.transformer.parameters())
        weight.flatten()[0] += 1
        try:
            with pytest.warns(UserWarning, match="pictures of other weights: they are kept"):
                runner.evaluate(random_pipe, ["stock"], suite, log=log, judge=judge, **QUICK)
        finally:
            weight.flatten()[0] -= 1
    assert len(log.lines) == before + 2 * len(suite)


def test_more_scenes_and_seeds_add_to_a_log(random_pipe, suite, rows):
    log, judge = Log(), OracleJudge(Echo(suite))
    few = suites.build_suite("test", 2)
    runner.evaluate(random_pipe, ["stock"], few, seeds=(1,), log=log, judge=judge, **QUICK)
    counting = OracleJudge(Breaking(suite, batches=1 + 2 + 1))  # one batch of renders; seeds 0, 1
    (*_, both) = runner.evaluate(
        random_pipe, ["stock"], suite, seeds=(0, 1), log=log, judge=counting, **QUICK
    )
    assert counting.oracle.left == 0 and both["seeds"] == [0, 1]
    (*_, one) = runner.evaluate(random_pipe, ["stock"], suite, log=log, judge=counting, **QUICK)
    assert one == rows[2]


def test_states_are_told_apart_the_same_in_every_precision():
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    name = runner.weights_id(model)
    assert runner.weights_id(model.to(torch.bfloat16)) == name
    torch.nn.init.zeros_(model.bias)
    assert runner.weights_id(model) != name


def test_every_method_of_the_registry_makes_a_rule(random_pipe, monkeypatch):
    measured = dataclasses.replace(tiers.tier(random_pipe), measured=True)
    monkeypatch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, measured, raising=False)
    made = {name: method(random_pipe) for name, method in runner.METHODS.items()}
    assert made["stock"] is None and made["transferred"] == DenseConfig()
    assert made["published"] == DenseConfig.published()
    rules = [str(rule) for name, rule in made.items() if name not in runner.LAYOUTS]
    assert len(set(rules)) == len(rules)
    for rule in made.values():
        json.dumps(tables.plain(tables.settings_of(rule)))


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (["stok"], {}, "did you mean 'stock'"),
        ([], {}, "methods is 0"),
        (["stock"], {"batch_size": -1}, "batch_size is -1"),
        (["stock"], {"steps": 0}, "steps is 0"),
        (["stock"], {"seeds": ()}, "seeds is 0"),
    ],
)
def test_bad_requests_are_refused_before_any_work(random_pipe, suite, methods, options, message):
    with pytest.raises(ValueError, match=message):  # such a judge would be an error later
        runner.evaluate(random_pipe, methods, suite, judge=object(), **QUICK | options)


def test_a_picture_of_nan_stops_the_run(random_pipe, suite):
    latents = torch.full((1, *runner.latent_shape(random_pipe)), torch.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        runner.draw(random_pipe, None, suite.layouts[:1], latents, steps=1, guidance=1.0)


def test_quality_compares_textures_and_needs_enough_pictures(random_pipe, suite, rows, monkeypatch):
    assert all(row["quality"] is None for row in rows)
    monkeypatch.setattr(tables, "FEWEST_FOR_QUALITY", 4)

    class Grey(Echo):
        """Tells renders, which are colourful, from a random model's pictures, which are grey."""

        def features(self, images):
            return images.amax((2, 3)) - images.amin((2, 3))

    truth, _, stock = runner.evaluate(
        random_pipe, ["stock"], suite, judge=OracleJudge(Grey(suite)), **QUICK
    )
    assert truth["quality"] < stock["quality"]


def test_the_table_is_aligned_and_shows_what_is_undefined(rows):
    lines = tables.table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[0].split()[:2] == ["method", "mIoU"] and "pres. 3" in lines[0]
    assert set(lines[1]) == {"-"} and max(map(len, lines)) == len(lines[1])
    assert lines[2].startswith("ground-truth") and "100.0" in lines[2]
    assert lines[3].rstrip().endswith("-")


def test_plain_rounds_and_empties():
    assert tables.plain({"a": [float("nan"), 1.23456], "b": (True, "x")}) == {
        "a": [None, 1.235], "b": [True, "x"],
    }  # fmt: skip


def test_layouts_of_a_suite_survive_json(suite):
    layout = suite.layouts[1]
    again = Layout.from_dict(layout.to_dict())
    assert torch.equal(again.pixel_masks(64, 64) >= 0.5, layout.pixel_masks(64, 64) >= 0.5)


# ---------------------------------------------------------------- pictures of one layout


class Painted(torch.nn.Module):
    """Sees a blue cat in the left half and an orange umbrella in the lower half of the right."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        assert images.shape[1:] == (3, 256, 256) and images.dtype == torch.float32
        assert 0 <= images.min() and images.max() <= 1
        noun, colour = torch.zeros(2, len(images), 64, 64, dtype=torch.long)
        for rows, columns, words in (
            (slice(None), slice(0, 32), "a blue cat"),
            (slice(32, 64), slice(32, 64), "an orange umbrella"),
        ):
            what, first, _ = named_object(words)
            noun[:, rows, columns], colour[:, rows, columns] = what + 1, first + 2
        return OracleLabels(noun, colour)


LEFT, RIGHT = box(0, 0, 0.5, 1), box(0.5, 0, 1, 1)


def halves(left: str, right: str) -> Layout:
    caption = "a blue cat and an orange umbrella"
    return Layout(caption, [Region(left, LEFT), Region(right, RIGHT)])


def test_measure_reads_the_objects_from_the_phrases():
    pictures = [Image.new("RGB", (256, 256), "white")] * 2
    right = measure(pictures, halves("a blue cat", "an orange umbrella"), Painted())
    wrong = measure(pictures, halves("an orange umbrella", "a blue cat"), Painted())
    assert right == {
        "mIoU": 75, "mIoU_present": 75, "in_mask": 100, "presence": 100, "colour_binding": 100,
        "leakage": 0, "box_iou": 75, "phrase_binding": 100,
    }  # fmt: skip
    assert wrong["in_mask"] == 0 and wrong["presence"] == 100
    assert wrong["colour_binding"] == 100  # the colour is the object's, wherever it stands


def test_pictures_and_tensors_score_alike_object_by_object():
    asked = halves("a blue cat", "an orange umbrella")
    pixels = torch.ones(2, 3, 256, 256)
    scores = score_layout(pixels, asked, Painted())
    assert scores.iou.tolist() == [[1, 0.5], [1, 0.5]]
    again = score_layout([Image.new("RGB", (256, 256), "white")] * 2, asked, Painted())
    assert again.iou.equal(scores.iou)


def test_a_phrase_names_a_noun_and_up_to_two_colours():
    squid = "A magnificent squid, shimmering in shades of deep indigo and vibrant teal"
    names = list(COLOURS)
    assert named_object("cat") == (NOUNS.index("cat"), -1, -1)
    assert named_object("Cat, a blue CAT") == (NOUNS.index("cat"), names.index("blue"), -1)
    assert named_object(squid) == (
        NOUNS.index("squid"), names.index("indigo"), names.index("teal"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("a rose garden", "0 objects and 0 colors"),
        ("a cat with a red umbrella", "2 objects and 1 colors"),
        ("a red, blue and teal cat", "1 objects and 3 colors"),
    ],
)
def test_a_phrase_that_the_oracle_cannot_judge_is_refused(phrase, found):
    with pytest.raises(ValueError, match=found):
        named_object(phrase)
