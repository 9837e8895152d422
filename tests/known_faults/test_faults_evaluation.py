"""Logs of evaluations and states of trainings that are trusted without a check."""

from __future__ import annotations

import json
from pickle import UnpicklingError

import pytest
import torch
from accelerate import Accelerator
from fault_helpers import Failed, full_disk
from torch import nn

import densenb as dnb
from densenb.evaluation import metrics
from densenb.evaluation.log import Key, Log, results, run_id
from densenb.evaluation.runner import evaluate
from densenb.evaluation.suites import build_suite
from densenb.miniature.training.loop import Loop, Schedule

# ----------------------------------------------------------- A2: a key narrower than the result


@pytest.fixture(scope="module")
def suite(few_backgrounds):
    return build_suite("test", 1)


@pytest.fixture(scope="module")
def logged(pipe, suite, tmp_path_factory):
    """The text of a log with one picture of the miniature."""
    path = tmp_path_factory.mktemp("logged") / "log.jsonl"
    evaluate(pipe, ["stock"], suite, steps=1, device="cpu", log=Log(path))
    return path.read_text()


def other_vae(pipe):
    pipe.vae.decoder.conv_out.weight.data.zero_()


def other_text_encoder(pipe):
    pipe.text_encoder.text_model.final_layer_norm.weight.data.zero_()


def other_shift(pipe):
    config = {**pipe.scheduler.config, "shift": 9.0}
    pipe.scheduler = type(pipe.scheduler).from_config(config)


def other_weight(pipe):
    pipe.transformer.proj_out.weight.data[-1].zero_()


def same(pipe):
    pass


narrow = pytest.mark.xfail(strict=True, raises=AssertionError, reason="A2: nothing is drawn anew")


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        (same, 0),
        pytest.param(other_vae, 1, marks=narrow),
        pytest.param(other_text_encoder, 1, marks=narrow),
        pytest.param(other_shift, 1, marks=narrow),
        pytest.param(other_weight, 1, marks=narrow),
    ],
)
@pytest.mark.filterwarnings("ignore:.* also has pictures of other")
def test_another_models_pictures_do_not_count(change, fresh, logged, suite, tmp_path):
    (tmp_path / "log.jsonl").write_text(logged)
    log = Log(tmp_path / "log.jsonl")
    before, pipe = len(log.lines), dnb.load("tiny")
    change(pipe)
    evaluate(pipe, ["stock"], suite, steps=1, device="cpu", log=log)
    assert len(log.lines) == before + fresh


# ------------------------------------------------------------- A11: records that are not checked
SETTINGS = {"method": "stock", "suite": "test"}
RUN = run_id(SETTINGS)


def line(scene):
    fields = metrics.ObjectScores._fields
    scores = metrics.ObjectScores(*(torch.full((1, 2), 0.5) for _ in fields))
    return results([Key(RUN, 0, scene)], scores, torch.zeros(1, 8))[0]


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.start(SETTINGS)
    log.add([line(0)])
    return log


def append(log, text):
    with open(log.path, "a") as file:
        file.write(text + "\n")


@pytest.mark.xfail(strict=True, raises=Failed, reason="A11: it is believed")
@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        pytest.param("0.5", "57", id="score above 1"),
        pytest.param("0.5", "NaN", id="NaN"),
        pytest.param('"features":"', '"features":"?', id="no base64"),
    ],
)
def test_a_line_that_cannot_be_true_is_a_broken_line(was, is_now, log):
    text = json.dumps(line(1), separators=(",", ":"))
    assert was in text
    append(log, text.replace(was, is_now, 1))
    with pytest.warns(UserWarning, match="1 broken line"):
        read = Log(log.path)
    assert list(read.lines) == [Key(RUN, 0, 0)]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A11: the last one wins, silently")
@pytest.mark.filterwarnings("ignore")
def test_a_picture_that_is_there_again_does_not_replace_the_first(log):
    append(log, json.dumps(line(0)).replace("0.5", "0.9"))
    assert Log(log.path).lines[Key(RUN, 0, 0)] == line(0)


@pytest.mark.xfail(strict=True, raises=TypeError, reason="A9: a traceback when the run starts")
@pytest.mark.filterwarnings("ignore")
def test_settings_that_are_no_object_are_a_broken_line(log):
    append(log, json.dumps({"run": "0" * 12, "settings": 5}))
    Log(log.path).start(SETTINGS | {"steps": 2})


@pytest.mark.xfail(strict=True, raises=Failed, reason="A4: a write that is cut short is ignored")
def test_a_full_disk_stops_an_evaluation(log):
    size = log.path.stat().st_size
    with full_disk(size + 20), pytest.raises((OSError, ValueError), match="log.jsonl"):
        log.add([line(1)])


# ---------------------------------------------------------------------- A12: states of a training
class Toy(nn.Module):
    """A linear map whose forward is its loss."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 2)

    def forward(self, x):
        return self.map(x).square().mean()


def toy_loop(state, seed=0):
    def batch(step, generator):
        return (torch.randn(4, 3, generator=generator),)

    return Loop("toy", Accelerator(cpu=True), Toy(), batch, Schedule(2, 0.01), state, seed)


@pytest.mark.xfail(strict=True, raises=Failed, reason="A12: resumed, silently")
def test_a_state_of_another_seed_is_refused(tmp_path):
    toy_loop(tmp_path / "toy.state").run()
    with pytest.raises(ValueError, match="seed"):
        toy_loop(tmp_path / "toy.state", seed=1)


@pytest.mark.xfail(strict=True, raises=UnpicklingError, reason="A12: another library's error")
def test_a_corrupt_state_is_refused_by_name(tmp_path):
    (tmp_path / "toy.state").write_bytes(b"corrupt")
    with pytest.raises(ValueError, match="toy.state"):
        toy_loop(tmp_path / "toy.state")
