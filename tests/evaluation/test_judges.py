"""Judges: the oracle as before, and detectors and CLIP, as fakes that know the answer and tiny."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
import transformers

from densenb.evaluation import judge_models, judges, metrics, suites
from densenb.evaluation.judge_models import Boxes
from densenb.miniature.oracle import load_oracle
from densenb.plots import pictures

LEFT, RIGHT = (0.1, 0.2, 0.4, 0.8), (0.6, 0.2, 0.9, 0.8)


def mask(x0, y0, x1, y1, side=40) -> torch.Tensor:
    grid = torch.zeros(side, side, dtype=torch.bool)
    grid[round(y0 * side) : round(y1 * side), round(x0 * side) : round(x1 * side)] = True
    return grid


def values(tensor: torch.Tensor) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 4) for value in tensor[0].tolist()]


def undefined(scores: metrics.ObjectScores, *names: str) -> bool:
    return all(getattr(scores, name).isnan().all() for name in names)


# ----------------------------------------------------------------------------------- the oracle
def test_the_oracle_scores_a_suite_as_it_scores_label_maps(few_backgrounds):
    suite = suites.build_suite("test", 3)
    images = suite.images.float() / 255
    labels = load_oracle()(images)
    words = (getattr(suite.scenes, name) for name in ("noun", "colour", "colour2"))
    direct = metrics.score_objects(*labels, metrics.to_grid(suite.masks), *words)
    scores, features = judges.score_suite(judges.load_judge(), images, suite, range(3))
    for name in metrics.ObjectScores._fields:
        assert torch.equal(*(getattr(s, name).nan_to_num(-1) for s in (direct, scores))), name
    assert torch.equal(features, load_oracle().features(images))
    assert metrics.aggregate(scores)["mIoU"] > 80


def test_scenes_of_a_suite_are_scored_in_any_order(few_backgrounds):
    suite = suites.build_suite("test", 3)
    images = suite.images.float() / 255
    judge = judges.load_judge()
    one, _ = judges.score_suite(judge, images[[2, 0]], suite, [2, 0])
    every, _ = judges.score_suite(judge, images, suite, range(3))
    assert torch.equal(one.iou.nan_to_num(-1), every.iou[[2, 0]].nan_to_num(-1))


def test_boxes_and_ellipses_have_no_silhouette_iou(few_backgrounds):
    suite = suites.build_suite("test-boxes", 2)
    scores, _ = judges.score_suite(judges.load_judge(), suite.images / 255, suite, range(2))
    assert undefined(scores, "iou") and scores.box_iou.nanmean() > 0.7
    assert scores.in_mask.nanmean() > 0.9


# ---------------------------------------------------------------------------------- a detector
class Finds:
    """A detector that finds the same boxes of a phrase in every picture."""

    def __init__(self, **found):
        self.found, self.asked = found, []

    def find(self, images, phrases):
        assert len(images) == len(phrases)
        self.asked += phrases
        boxes = [self.found.get(phrase.split()[-1], []) for phrase in phrases]
        falling = torch.linspace(1, 0.2, 10)
        return [Boxes(torch.tensor(b).reshape(-1, 4), falling[: len(b)]) for b in boxes]


def detect(detector, phrases, masks):
    judge = judges.DetectorJudge(detector)
    return judge.score(torch.zeros(1, 3, 64, 64), [phrases], torch.stack(masks)[None])


def test_a_detector_compares_its_best_box_with_the_box_of_the_mask():
    half_out = (0.25, 0.2, 0.55, 0.8)  # as large as the region, half of it to the right
    detector = Finds(cat=[half_out, LEFT], dog=[RIGHT])  # a worse detection fits: it is not best
    scores = detect(detector, ["a cat", "a dog"], [mask(*LEFT), mask(*RIGHT)])
    assert values(scores.present) == [1, 1]
    assert values(scores.box_iou) == [round(1 / 3, 4), 1]
    assert values(scores.in_mask) == [0.5, 1]
    assert undefined(scores, "iou", "colour_bound", "phrase_bound", "leakage")


def test_what_is_not_found_is_absent_and_what_is_not_asked_has_no_score():
    detector = Finds(dog=[RIGHT])
    masks = [mask(*LEFT), mask(*RIGHT), mask(*LEFT), mask(0, 0, 0, 0)]
    scores = detect(detector, ["a cat", "a dog"], masks)
    assert values(scores.present) == [0, 1, None, None]
    assert values(scores.box_iou) == [0, 1, None, None]
    assert values(scores.in_mask) == [None, 1, None, None]
    hidden = detect(detector, ["a cat", "a dog"], [mask(*LEFT), mask(0, 0, 0, 0)])
    assert values(hidden.present) == [0, None] and detector.asked[-1] == "a cat"


def test_a_silhouette_is_compared_by_its_box():
    ring = mask(*LEFT) & ~mask(0.2, 0.3, 0.3, 0.7)
    scores = detect(Finds(cat=[LEFT]), ["a cat"], [ring])
    assert values(scores.box_iou) == [1] and values(scores.in_mask) == [1]


def test_one_phrase_twice_takes_two_boxes_in_the_order_that_fits():
    again = (0.61, 0.2, 0.9, 0.8)  # the same cat as RIGHT
    phrases, masks = ["a cat", "a cat"], [mask(*LEFT), mask(*RIGHT)]
    detector = Finds(cat=[RIGHT, again, LEFT])
    assert values(detect(detector, phrases, masks).box_iou) == [1, 1]
    assert detector.asked == ["a cat"]  # it looks once
    one = detect(Finds(cat=[RIGHT, again]), phrases, masks)
    assert values(one.present) == [0, 1] and values(one.box_iou) == [0, 1]


def test_pictures_keep_their_own_phrases():
    class Reads(Finds):
        def find(self, images, phrases):
            bright = images.flatten(1).mean(1) > 0.5
            assert bright.tolist() == [phrase == "a dog" for phrase in phrases]
            return super().find(images, phrases)

    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    masks = torch.stack([mask(*LEFT)])[None].repeat(2, 1, 1, 1)
    judge = judges.DetectorJudge(Reads(cat=[LEFT], dog=[RIGHT]))
    scores = judge.score(images, [["a cat"], ["a dog"]], masks)
    assert scores.box_iou[:, 0].tolist() == [1, 0] and judge.features(images) is None


# -------------------------------------------------------------------------------------- CLIP
class Sees:
    """Embeds a picture by its mean colour, and words by the colour that they name."""

    COLOURS = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0)}

    def pictures(self, images):
        self.shown = images
        return torch.nn.functional.normalize(
            torch.stack([image.mean((1, 2)) for image in images]), dim=-1
        )

    def texts(self, texts):
        return torch.stack([torch.tensor(self.COLOURS[text.split()[1]]) for text in texts])


def painted(*places) -> torch.Tensor:
    picture = torch.full((3, 40, 40), 0.1)
    for place, colour in places:
        picture[:, mask(*place)] = torch.tensor(Sees.COLOURS[colour])[:, None]
    return picture[None]


def look(picture, phrases, masks):
    return judges.ClipJudge(Sees()).score(picture, [phrases], torch.stack(masks)[None])


def test_clip_lets_a_region_s_phrase_compete_with_the_others():
    masks, phrases = [mask(*LEFT), mask(*RIGHT)], ["a red cat", "a blue dog"]
    right = look(painted((LEFT, "red"), (RIGHT, "blue")), phrases, masks)
    wrong = look(painted((LEFT, "blue"), (RIGHT, "blue")), phrases, masks)
    assert values(right.phrase_bound) == [1, 1] and values(wrong.phrase_bound) == [0, 1]
    everything_else = set(metrics.ObjectScores._fields) - {"phrase_bound"}
    assert undefined(right, *everything_else)


def test_a_phrase_without_a_rival_has_no_verdict():
    picture = painted((LEFT, "red"), (RIGHT, "red"))
    masks = [mask(*LEFT), mask(*RIGHT)]
    assert values(look(picture, ["a red cat"], masks[:1]).phrase_bound) == [None]
    assert values(look(picture, ["a red cat"] * 2, masks).phrase_bound) == [None, None]
    three = [*masks, mask(0, 0, 1, 0.1)]
    phrases = ["a red cat", "a red cat", "a green frog"]
    assert values(look(picture, phrases, three).phrase_bound) == [1, 1, 0]


def test_a_crop_shows_the_region_and_no_neighbour():
    picture = painted((LEFT, "red"), ((0.3, 0.3, 0.9, 0.7), "blue"))[0]
    masks = torch.stack([mask(*LEFT), mask(0.3, 0.3, 0.9, 0.7)])
    shown = judges.crop(picture, masks, 0)
    assert shown.shape == (3, 28, 28)  # 24 rows, and a tenth of that above and below
    mean = torch.tensor(judges.CLIP_MEAN)[:, None]
    assert torch.equal(shown[:, :, 0], mean.expand(3, 28))  # the bar that makes it square
    # what both regions hold stays as it is; what is the neighbour's alone is painted over
    assert torch.equal(shown[:, 14, 14 + 3], torch.tensor(Sees.COLOURS["blue"]))
    assert torch.equal(shown[:, 14, 14 + 7], mean[:, 0])
    assert torch.equal(shown[:, 5, 14], torch.tensor(Sees.COLOURS["red"]))


def test_masks_may_be_on_another_grid_than_the_pictures():
    picture = painted((LEFT, "red"), (RIGHT, "blue"))
    large = torch.nn.functional.interpolate(picture, scale_factor=2.0)
    masks = [mask(*LEFT), mask(*RIGHT)]
    for pixels in (picture, large):
        bound = look(pixels, ["a red cat", "a blue dog"], masks).phrase_bound
        assert values(bound) == [1, 1]


def test_clip_s_features_have_the_cosine_as_their_kernel():
    features = judges.ClipJudge(Sees()).features(torch.cat([painted((LEFT, "red"))] * 2))
    assert features.shape == (2, 3)
    assert (features @ features.T / 3).allclose(torch.ones(2, 2))


# ----------------------------------------------------------------------- models of transformers
def tiny_parts(tokenizer):
    common = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    text = common | ids | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.eos_token_id}
    length = {"max_position_embeddings": tokenizer.model_max_length}
    return {
        "text_config": text | length,
        "vision_config": common | {"image_size": 32, "patch_size": 8},
        "projection_dim": 16,
    }


def save_owl(folder, tokenizer, name):
    kind = getattr(transformers, f"{name}ForObjectDetection")
    model = kind(getattr(transformers, f"{name}Config")(**tiny_parts(tokenizer)))
    pixels = getattr(transformers, f"{name}ImageProcessor")(size={"height": 32, "width": 32})
    processor = getattr(transformers, f"{name}Processor")(pixels, tokenizer)
    return save(folder, model, processor)


def save_dino(folder, tokenizer):
    words = folder.parent / "vocab.txt"
    words.write_text("\n".join("[PAD] [UNK] [CLS] [SEP] [MASK] a cat red dog .".split()))
    few = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 2, 2], window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=transformers.BertConfig(vocab_size=10, hidden_size=16, **few),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5,
    )  # fmt: skip
    pixels = transformers.GroundingDinoImageProcessor(size={"height": 160, "width": 160})
    processor = transformers.GroundingDinoProcessor(
        pixels, transformers.BertTokenizerFast(vocab_file=str(words))
    )
    return save(folder, transformers.GroundingDinoForObjectDetection(config), processor)


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["OwlViT", "Owlv2", "Grounding DINO"])
def detector(request, random_pipe, tmp_path_factory):
    """A random detector in a folder, its processor and texts as those of the real one."""
    if request.param == "Owlv2":
        pytest.importorskip("scipy", reason="OWLv2 resizes pictures with scipy")
    folder = tmp_path_factory.mktemp("detector") / "model"
    torch.manual_seed(0)
    if request.param == "Grounding DINO":
        return save_dino(folder, random_pipe.tokenizer)
    return save_owl(folder, random_pipe.tokenizer, request.param)


def test_detectors_of_transformers_judge_behind_the_interface(detector):
    judge = judges.load_judge(f"detector:{detector}", threshold=0.0)
    assert judge.name == f"detector:{detector}"
    images = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([mask(*LEFT), mask(*RIGHT)])[None].repeat(2, 1, 1, 1)
    scores = judge.score(images, [["a cat", "a red dog"], ["a red cat", "a dog"]], masks)
    assert (scores.present == 1).all()  # at threshold 0, something is always found
    assert ((scores.box_iou >= 0) & (scores.box_iou <= 1)).all()
    together = judge.model.find(images, ["a cat", "a red dog"])
    alone = judge.model.find(images[1:], ["a red dog"])
    assert torch.allclose(together[1].box, alone[0].box, atol=1e-4)
    for boxes in together:
        assert (boxes.score[1:] <= boxes.score[:-1]).all()
        assert ((boxes.box >= 0) & (boxes.box <= 1)).all()
    strict = judges.load_judge(f"detector:{detector}", threshold=1.0)
    assert (strict.score(images, [["a cat"], ["a dog"]], masks[:, :1]).present == 0).all()


@pytest.fixture(scope="module")
def clip(random_pipe, tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = random_pipe.tokenizer
    model = transformers.CLIPModel(transformers.CLIPConfig(**tiny_parts(tokenizer)))
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**square), tokenizer)
    return save(tmp_path_factory.mktemp("clip") / "model", model, processor)


def test_clip_of_transformers_judges_behind_the_interface(clip):
    judge = judges.load_judge(f"clip:{clip}")
    images = torch.rand(3, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([mask(*LEFT), mask(*RIGHT)])[None].repeat(3, 1, 1, 1)
    phrases = [["a cat", "a dog"], ["a red cat"], ["a blue bird", "a cat"]]
    scores = judge.score(images, phrases, masks)
    assert scores.phrase_bound[1].isnan().all()
    assert torch.isin(scores.phrase_bound[[0, 2]], torch.tensor([0.0, 1.0])).all()
    assert judge.features(images).shape == (3, 16)
    # one crop can only look most like one of two phrases
    swapped = judge.score(images[:1], [["a dog", "a cat"]], masks[:1])
    assert torch.equal(swapped.phrase_bound + scores.phrase_bound[:1], torch.ones(1, 2))


def test_clip_s_embeddings_are_those_of_its_own_logits(clip):
    loaded = judge_models.load_clip(clip)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    inputs = loaded.processor(
        text=["a cat"], images=[pictures.to_image(image)], return_tensors="pt"
    )
    with torch.no_grad():
        logits = loaded.model(**inputs).logits_per_image / loaded.model.logit_scale.exp()
    assert torch.allclose(loaded.pictures([image]) @ loaded.texts(["a cat"]).T, logits, atol=1e-5)


# ------------------------------------------------------------------------------- what goes wrong
@pytest.mark.parametrize("name", ["oracl", "", "clip:", "detector", "blip:some/model"])
def test_an_unknown_judge_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="give oracle, detector:MODEL or clip:MODEL"):
        judges.load_judge(name)


@pytest.mark.parametrize("name", ["detector:owner/model", "clip:owner/model"])
def test_a_model_that_cannot_be_had_says_how_to_get_it(name, monkeypatch):
    def offline(model, **options):
        raise OSError("no connection")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(ValueError, match="`hf download owner/model`.*works offline"):
        judges.load_judge(name)


def test_a_model_of_the_wrong_kind_is_refused(clip, random_pipe, tmp_path):
    owl = save_owl(tmp_path / "owl", random_pipe.tokenizer, "OwlViT")
    with pytest.raises(ValueError, match="is a owlvit: give a CLIP such as openai"):
        judges.load_judge(f"clip:{owl}")
    with pytest.raises(ValueError, match="cannot judge: give a zero-shot detector such as google"):
        judges.load_judge(f"detector:{clip}")


def test_a_missing_package_is_said_when_loading(random_pipe, tmp_path, monkeypatch):
    owl = save_owl(tmp_path / "owl", random_pipe.tokenizer, "OwlViT")

    def lacking(*arguments, **options):
        raise ImportError("requires the scipy library")

    monkeypatch.setattr(judge_models.Detector, "find", lacking)
    with pytest.raises(ValueError, match="a package that is not installed.*scipy"):
        judges.load_judge(f"detector:{owl}")


def test_a_model_without_its_processor_is_refused(clip, tmp_path):
    folder = shutil.copytree(clip, tmp_path / "clip")
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    with pytest.raises(ValueError, match="cannot"):
        judges.load_judge(f"clip:{folder}")
