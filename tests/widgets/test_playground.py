"""The playground, driven from Python: every control, the thread, cancel, errors, files."""

from __future__ import annotations

import gc
import io
import re
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import densenb as dnb
from densenb.models import tiers
from densenb.models.lock import alone
from densenb.widgets import painter, playground, worker
from densenb.widgets.layout_form import LayoutForm, SliderBoard
from densenb.widgets.painter import Painter
from densenb.widgets.playground import Playground, foreseen, half_size
from densenb.widgets.worker import Cancelled, Job

CAT = dnb.Region("a blue cat", dnb.box(0.5, 0.42, 0.95, 0.97))
UMBRELLA = dnb.Region("an orange umbrella", dnb.ellipse(0.28, 0.28, 0.23, 0.23))
LAYOUT = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [CAT, UMBRELLA])
SECONDS = 60  # a bound for what hangs, no measure


@pytest.fixture(scope="module")
def pipe(random_pipe):
    """The random pipeline with a short text and a tier of few steps."""
    with pytest.MonkeyPatch.context() as patch:
        small = replace(
            tiers.tier(random_pipe), steps=3, guidance=3.0, height=128, width=128, t5_length=32
        )
        patch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, small, raising=False)
        yield random_pipe


@pytest.fixture
def play(pipe):
    play = Playground(pipe, LAYOUT)
    yield play
    play.cancel()
    if play._job is not None:
        assert play._job.wait(SECONDS)


def shown(play: Playground, name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(play._panels[name].value)))


def on_step(play: Playground, listener: Callable[[str, int, int], object]) -> None:
    """Call `listener(name, done, total)` after every step, in the thread that draws."""

    def told(change) -> None:
        if step := re.fullmatch(r"(\w+): step (\d+) of (\d+)", change["new"]):
            listener(step[1], int(step[2]), int(step[3]))

    play._status.observe(told, names="value")


def stock_again(pipe) -> bool:
    kinds = {type(each).__name__ for each in pipe.transformer.attn_processors.values()}
    return kinds == {"JointAttnProcessor2_0"}


# ------------------------------------------------------------------------------------ what is asked
def test_untouched_it_says_what_was_given(play):
    assert play.layout == LAYOUT and play.config == dnb.DenseConfig()
    assert (play.seed.value, play.steps.value) == (0, 3)
    assert str(play.preview) == str(dnb.preview(LAYOUT, play.pipe))
    assert not play.message and not play.pictures


def test_every_setting_has_a_slider(play):
    for name, value in (
        ("image_text", 0.7), ("image_image", 0.2), ("text_image", 0.1), ("text_text", 0.4),
        ("window", 0.5), ("decay", 2.0), ("area", 0.3),
    ):  # fmt: skip
        play.settings[name].value = value
        assert play.config == replace(play.config, **{name: value})
        assert f"{name}={value}" in play.code


def test_strengths_say_what_they_are_counted_in(play):
    unit = play._settings_box.children[0]
    assert "range" in unit.value and play.settings["image_text"].max == 1
    play.set_config(dnb.DenseConfig(value_range=None, image_text=6.0))
    unit, *sliders = play._settings_box.children
    assert "logits" in unit.value and sliders == [*play.settings.values()]
    assert play.settings["image_text"].max == 10
    play.settings["image_text"].value = 2.0  # the setting keeps its unit
    assert play.config == dnb.DenseConfig(value_range=None, image_text=2.0)


def test_words_and_strengths(play):
    form = play.form
    form.rows[0].phrase.value = "a red cat"
    form.rows[1].strength.value = 0.5
    form.background.value = "a rose garden"
    form.caption.value = "a red cat by an orange umbrella in a rose garden"
    assert play.layout == dnb.Layout(
        form.caption.value,
        [replace(CAT, phrase="a red cat"), replace(UMBRELLA, strength=0.5)],
        "a rose garden",
    )
    assert form.board.layout.phrases[0] == "a red cat"  # the board writes it on its region
    assert "a red cat" in play._preview.value
    form.background.value = " "
    assert play.layout.background is None


def test_the_preview_keeps_the_kernels_deprecations_out(pipe, monkeypatch):
    def warns(*size: object) -> torch.Tensor:
        warnings.warn("datetime.utcnow() is deprecated", DeprecationWarning, stacklevel=1)
        warnings.warn("a region is thin", UserWarning, stacklevel=1)
        return original(LAYOUT, 16, 16)

    original = dnb.Layout.token_masks
    monkeypatch.setattr(dnb.Layout, "token_masks", warns)
    assert dnb.preview(LAYOUT, pipe).warnings == ("a region is thin",)


def test_a_missing_phrase_is_told_in_the_preview_and_a_bad_one_refused(play):
    play.form.rows[0].phrase.value = "a green frog"
    assert "the caption lacks" in play._preview.value and not play.message
    kept = play.layout
    play.form.rows[0].phrase.value = " "
    assert "phrase is empty" in play.message and play.layout == kept
    with pytest.raises(ValueError, match="phrase is empty"):
        play.generate()
    play.form.rows[0].phrase.value = "a blue cat"
    assert not play.message and play.layout == LAYOUT


def test_regions_come_and_go(play):
    play.form.add.click()
    assert play.layout.phrases[2] == "a red fish" and len(play.form.rows) == 3
    play.form.rows[0].remove.click()
    assert play.layout.phrases == ("an orange umbrella", "a red fish")
    assert play.layout.regions[0] == UMBRELLA
    play.form.rows[0].remove.click()
    play.form.rows[0].remove.click()
    assert "no regions" in play.form.message.value and len(play.layout.regions) == 1
    with pytest.raises(ValueError, match="no region 5"):
        play.form.remove_region(5)


def test_a_painted_mask_is_drawn_with(pipe, play):
    if painter.anywidget is None:
        pytest.skip("the painter needs anywidget")
    assert isinstance(play.form.board, Painter)
    mask = torch.zeros(128, 128)
    mask[:64] = 1
    other = Painter(replace(LAYOUT, regions=[replace(CAT, mask=mask), UMBRELLA]), 128, 128)
    play.form.board.canvas.set_state({"masks": other.canvas.masks})
    assert torch.equal(play.layout.regions[0].mask.raster(128, 128), mask)
    assert play.layout.regions[1] == UMBRELLA


def test_without_anywidget_there_are_sliders(pipe, monkeypatch):
    monkeypatch.setattr(painter, "anywidget", None)
    play = Playground(pipe, LAYOUT)
    board = play.form.board
    assert isinstance(board, SliderBoard)
    before = board._shown.value
    board.regions[0].x.value = 0.3
    assert play.layout.regions[0].mask == dnb.box(0.075, 0.42, 0.525, 0.97)
    assert board._shown.value != before
    board.region.value = 1
    assert board._moving.children == board.regions[1].controls
    play.form.rows[0].phrase.value = "a red cat"
    assert play.layout.regions[0].mask == dnb.box(0.075, 0.42, 0.525, 0.97)
    play.form.remove_region(1)
    assert board.region.value == 0 and len(board.regions) == 1


def test_what_cannot_be_shown_is_refused_at_once(pipe):
    with pytest.raises((TypeError, ValueError), match="Layout"):
        Playground(pipe, "a cat")
    with pytest.raises(ValueError, match="DenseConfig"):
        Playground(pipe, LAYOUT, dnb.HardMask())
    for numbers in ({"steps": 0}, {"steps": 2.5}, {"seed": -3}, {"seed": 2**53}):
        with pytest.raises(ValueError, match=f"{next(iter(numbers))} is .* whole number from"):
            Playground(pipe, LAYOUT, **numbers)
    with pytest.raises(TypeError, match="one Layout"):
        LayoutForm(LAYOUT, 64, 64).set_layout(None)


# -------------------------------------------------------------------------------------- the picture
def test_the_pictures_are_those_of_the_plain_calls(pipe, play):
    play.settings["image_text"].value = 0.6
    play.seed.value, play.every.value = 3, 0
    play.generate()
    pictures = play.wait(SECONDS)
    plain = eval(play.code, {"dnb": dnb, "pipe": pipe})
    assert pictures["dense"].tobytes() == plain.tobytes()
    (stock,) = dnb.generate(pipe, LAYOUT, [3], None)
    assert pictures["stock"].tobytes() == stock.tobytes() != plain.tobytes()
    assert play.pictures is pictures and play.status == "done" and not play.message
    assert (play.made.layout, play.made.config, play.made.seed) == (LAYOUT, play.config, 3)
    assert "3 steps" in play.made.model and "seeds 3" in play.made.model


def test_progress_looks_and_buttons(play):
    seen = []
    values = []
    play._panels["dense"].observe(lambda change: values.append(change["new"]), names="value")

    def listener(*step):
        seen.append((*step, play.generate_button.disabled, play.cancel_button.disabled))

    on_step(play, listener)
    play.every.value = 1
    play.generate_button.click()
    play.wait(SECONDS)
    steps = [(name, done, 3, True, False) for name in ("stock", "dense") for done in (1, 2, 3)]
    assert seen == steps
    assert play._bar.value == play._bar.max == 6
    assert not play.generate_button.disabled and play.cancel_button.disabled
    sizes = [Image.open(io.BytesIO(value)).size for value in values]
    assert sizes == [(64, 64), (128, 128)]  # a look at half size, then the picture
    assert "drawn before" not in play._stale.value
    play.form.rows[0].strength.value = 0.9
    assert "drawn before the last change" in play._stale.value


def test_the_stock_picture_is_drawn_once(play):
    names = []
    on_step(play, lambda name, done, total: names.append(name))
    play.generate()
    first = play.wait(SECONDS)
    play.form.rows[0].strength.value = 0.2
    play.generate()
    second = play.wait(SECONDS)
    assert names == ["stock"] * 3 + ["dense"] * 6 and play._bar.max == 3
    assert second["stock"] is first["stock"]
    assert second["dense"].tobytes() != first["dense"].tobytes()
    play.seed.value = 1
    play.generate()
    assert play.wait(SECONDS)["stock"].tobytes() != first["stock"].tobytes()


def test_what_is_foreseen_is_the_end_of_a_straight_path():
    picture, noise = torch.randn(2, 1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    path = [(1 - sigma) * picture + sigma * noise for sigma in (0.9, 0.7)]
    ahead = foreseen(*path, torch.tensor(0.9), torch.tensor(0.7))
    torch.testing.assert_close(ahead, picture, atol=1e-5, rtol=1e-5)


def test_the_look_before_the_last_step_is_near_the_picture(pipe, play, monkeypatch):
    given, ends = [], []
    real = playground.half_size
    monkeypatch.setattr(playground, "half_size", lambda *a: given.append(a[1]) or real(*a))
    decode = pipe.vae.decode

    def spy(latents, *args, **kwargs):
        ends.append(latents)
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(pipe.vae, "decode", spy)
    play.steps.value, play.every.value = 6, 5
    play.generate()
    play.wait(SECONDS)
    _, stock, _, dense = ends
    scale, shift = pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor
    for ahead, end in zip(given, (stock, dense), strict=True):
        final = (end - shift) * scale
        assert (ahead - final).norm() < 0.2 * final.norm()


def test_a_look_is_of_the_latents(pipe):
    image, latents = Image.effect_noise((64, 64), 60), torch.zeros(1, 16, 16, 16)
    assert half_size(pipe, latents).size == image.size
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert half_size(pipe, latents).tobytes() != half_size(pipe, noise).tobytes()


# ------------------------------------------------------------------------------------------- cancel
@pytest.mark.parametrize("name", ["stock", "dense"])
def test_cancel_stops_within_a_step_and_loses_nothing(pipe, play, name):
    play.generate()
    before = play.wait(SECONDS)
    seen = []

    def cancel(*step):
        seen.append(step)
        if step[:2] == (name, 2):
            play.cancel_button.click()

    on_step(play, cancel)
    play.seed.value = 5
    play.generate()
    assert play.wait(SECONDS) is before
    assert seen[-1] == (name, 2, 3)
    assert play.status == "cancelled" and not play.message
    assert stock_again(pipe) and not play.generate_button.disabled
    assert (shown(play, "dense").shape[:2]) == (128, 128)
    play.generate()  # and it goes on
    play.cancel()
    play.wait(SECONDS)


def test_a_second_picture_is_refused_in_plain_words(pipe, play):
    other = Playground(pipe, LAYOUT)
    entered, go = threading.Event(), threading.Event()

    def hold(*step):
        entered.set()
        assert go.wait(SECONDS)

    on_step(play, hold)
    play.generate()
    try:
        assert entered.wait(SECONDS)
        for each in (play, other):
            with pytest.raises(RuntimeError, match="already"):
                each.generate()
        other.generate_button.click()
        assert "already: wait" in other.message
        with pytest.raises(TimeoutError, match="still drawing"):
            play.wait(0.01)
        with pytest.raises(RuntimeError, match="already"), alone(pipe):
            pass
    finally:
        go.set()
    play.wait(SECONDS)
    other.generate()  # the pipeline is free again
    assert other.wait(SECONDS)


def test_an_open_dense_attention_is_told(pipe, play):
    with dnb.dense_attention(pipe, LAYOUT) as dense:
        with pytest.raises(RuntimeError, match="dense_attention is already active"):
            play.generate()
        play.generate_button.click()
        assert "dense_attention is already active" in play.message
        pipe(**{**dense.inputs, "num_inference_steps": 1}, output_type="latent")
    play.generate()
    assert play.wait(SECONDS) and not play.message


# ------------------------------------------------------------------------------------------- errors
def test_an_error_of_a_step_reaches_the_widget_and_who_waits(pipe, play):
    def broken(name, done, total):
        if (name, done) == ("dense", 1):
            raise ValueError("no <luck>")

    on_step(play, broken)
    play.generate()
    with pytest.raises(ValueError, match="luck"):
        play.wait(SECONDS)
    assert "ValueError: no &lt;luck&gt;" in play.message and play.status == "failed"
    assert stock_again(pipe) and not play.generate_button.disabled and not play.pictures


def test_an_error_of_the_model_reaches_the_widget(pipe, play, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(pipe.vae, "decode", broken)
        play.generate()
        with pytest.raises(RuntimeError, match="out of memory"):
            play.wait(SECONDS)
        assert "RuntimeError: out of memory" in play.message
    play.generate()
    assert play.wait(SECONDS) and not play.message


def test_waiting_for_nothing_and_an_interrupt(play, monkeypatch):
    with pytest.raises(RuntimeError, match="call generate"):
        play.wait()
    play.generate()
    job = play._job

    def interrupted(timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play.wait()
    assert job.wait(SECONDS) and isinstance(job.error, Cancelled)


# -------------------------------------------------------------------------------------------- files
def test_layout_and_picture_are_kept_and_reopened(play, tmp_path):
    play.settings["window"].value, play.seed.value = 0.6, 4
    play.generate()
    picture, config = play.wait(SECONDS)["dense"], play.config
    for name in ("layout.json", "picture.png"):
        play.path.value = str(tmp_path / name)
        play.save_button.click()
        assert not play.message and play.status.startswith("saved")
    assert Image.open(tmp_path / "picture.png").tobytes() == picture.tobytes()

    play.set_layout(dnb.Layout("a red fish", [dnb.Region("a red fish", UMBRELLA.mask)]))
    play.settings["window"].value, play.seed.value, play.steps.value = 0.1, 0, 9
    play.path.value = str(tmp_path / "layout.json")
    play.open_button.click()
    assert play.layout == LAYOUT and play.config != config and play.steps.value == 9
    play.open(tmp_path / "picture.png")
    assert (play.layout, play.config) == (LAYOUT, config)
    assert (play.seed.value, play.steps.value) == (4, 3)
    assert "drawn before" not in play._stale.value


def test_the_numbers_of_a_picture_are_taken_over_exactly_or_not_at_all(play, tmp_path):
    fish = dnb.Layout("a red fish", [dnb.Region("a red fish", UMBRELLA.mask)])
    picture = Image.new("RGB", (8, 8))
    fish.to_png(picture, tmp_path / "fish.png", seed=2**40, steps=150)
    play.open(tmp_path / "fish.png")
    assert (play.layout, play.seed.value, play.steps.value) == (fish, 2**40, 150)
    for name, value in (("seed", 2**60), ("steps", 10_000)):
        LAYOUT.to_png(picture, tmp_path / "beyond.png", **{name: value})
        play.path.value = str(tmp_path / "beyond.png")
        play.open_button.click()
        assert f"{name} is {value}, but" in play.message and play.layout == fish
    assert (play.seed.value, play.steps.value) == (2**40, 150)


def test_files_are_not_lost_and_bad_ones_told(play, tmp_path):
    path = tmp_path / "layout.json"
    play.save(path)
    with pytest.raises(ValueError, match="there already"):
        play.save(path)
    play.form.background.value = "a rose garden"
    play.save(path, overwrite=True)
    assert dnb.Layout.from_json(path).background == "a rose garden"
    with pytest.raises(ValueError, match="nothing is drawn"):
        play.save(tmp_path / "picture.png")
    with pytest.raises(ValueError, match="neither a layout .* ends in .json or .png"):
        play.save(tmp_path / "picture.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    play.path.value = str(tmp_path / "plain.png")
    kept = play.layout
    play.open_button.click()
    assert "carries no layout" in play.message and play.layout == kept


def test_a_playground_shows_itself(play, monkeypatch):
    from densenb.widgets import explorer

    seen = []
    monkeypatch.setattr(explorer, "display", seen.append)
    play._ipython_display_()
    assert seen == [play.box]


# --------------------------------------------------------------------------------------- the worker
class Pipe:
    """Something to hold."""


def test_each_pipeline_has_its_own_job():
    go, one, two = threading.Event(), Pipe(), Pipe()
    jobs = [Job(each, lambda job: go.wait(SECONDS)) for each in (one, two)]
    with pytest.raises(RuntimeError, match="already"):
        Job(one, lambda job: None)
    assert not jobs[0].wait(0.01) and jobs[0].running
    go.set()
    assert all(job.wait(SECONDS) for job in jobs)
    assert Job(one, lambda job: None).wait(SECONDS)


def test_a_job_keeps_its_error_and_frees_the_pipeline():
    one = Pipe()

    def stops(job):
        job.cancel()
        job.check()

    job = Job(one, stops)
    assert job.wait(SECONDS) and isinstance(job.error, Cancelled)
    with alone(one):
        pass
    with pytest.raises(KeyError), alone(one):
        raise KeyError
    assert worker.take(one).locked()


def test_locks_do_not_keep_pipelines_alive():
    one = Pipe()
    assert Job(one, lambda job: None).wait(SECONDS)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_a_thread_that_cannot_start_leaves_the_pipeline_free(monkeypatch):
    one = Pipe()

    def no(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(worker.threading.Thread, "start", no)
        with pytest.raises(RuntimeError, match="start new thread"):
            Job(one, lambda job: None)
    assert Job(one, lambda job: None).wait(SECONDS)
