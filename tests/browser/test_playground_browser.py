"""The playground in JupyterLab, by hand: paint, undo, generate, cancel, keep, reopen."""

from __future__ import annotations

import re

import pytest
from hands import handle, keys, paint, row, write

SETUP = """
import densenb as dnb
from densenb.widgets.playground import Playground
pipe = dnb.load("tiny")
layout = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [
    dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
    dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
])
"""
PLAY = "play = Playground(pipe, layout, steps=4)\nplay"
AGAIN = "play.set_layout(layout)\nplay.seed.value, play.steps.value = 0, 4"


@pytest.fixture(scope="module")
def opened(lab, chromium):
    notebook = lab.open(chromium, lab.write("play.ipynb", SETUP, PLAY))
    notebook.run_all()
    yield notebook
    notebook.close()


@pytest.fixture
def play(opened):
    """The widget's cell, as it was in the beginning."""
    opened.run(AGAIN)
    cell = opened.cell(1)
    cell.locator("canvas").scroll_into_view_if_needed()
    return cell


def panels(play) -> list[str]:
    """The bytes on the screen of both pictures."""
    return [play.locator("img").nth(i).screenshot() for i in (0, 1)]


def generate(opened, play) -> None:
    play.get_by_role("button", name="Generate").click()
    opened.wait_until("play._job is not None and not play._job.running and play.status == 'done'")


# -------------------------------------------------------------------------- masks and pictures
def test_a_stroke_undo_and_redo(opened, play):
    paint(play.locator("canvas"), (0.1, 0.1), (0.6, 0.1))
    opened.wait_until("play.layout != layout")
    cat, umbrella = (f"play.layout.pixel_masks(100, 100)[{i}]" for i in (0, 1))
    assert opened.value(f"{cat}[10, 12:58].min().item()") == 1
    assert opened.value(f"({umbrella} == layout.pixel_masks(100, 100)[1]).all().item()")
    play.get_by_role("button", name="Undo").click()
    opened.wait_until("play.layout == layout")
    play.get_by_role("button", name="Redo").click()
    opened.wait_until("play.layout != layout")


def test_generate_shows_two_pictures_that_follow_the_masks(opened, play):
    before = panels(play)
    generate(opened, play)
    assert opened.value("play.message") == ""
    play.get_by_text("done", exact=True).wait_for()
    stock, dense = panels(play)
    assert stock != before[0] and dense != before[1] and stock != dense
    assert opened.value("play.made.layout == layout")

    paint(play.locator("canvas"), (0.1, 0.1), (0.6, 0.1))
    play.get_by_text("(drawn before the last change)").wait_for()
    kept = "play.pictures['stock'].tobytes().hex()[:64]"
    old = opened.value(kept), opened.value("hash(play.pictures['dense'].tobytes())")
    generate(opened, play)
    assert opened.value("play.made.layout != layout")
    assert opened.value(kept) == old[0]  # the same noise and words
    assert opened.value("hash(play.pictures['dense'].tobytes())") != old[1]
    opened.screenshot("playground", play)


def test_cancel_in_the_middle_then_a_new_picture(opened, play):
    generate(opened, play)
    old = opened.value("hash(play.pictures['dense'].tobytes())")
    opened.run("play.steps.value, play.seed.value = 60, 1")
    play.get_by_role("button", name="Generate").click()
    play.get_by_text(re.compile(r"stock: step \d+ of 60")).wait_for(timeout=60_000)
    assert play.get_by_role("button", name="Generate").is_disabled()
    play.get_by_role("button", name="Cancel").click()
    play.get_by_text("cancelled", exact=True).wait_for(timeout=60_000)
    opened.wait_until("not play._job.running")
    assert opened.value("hash(play.pictures['dense'].tobytes())") == old
    assert opened.value("play._bar.value < play._bar.max")
    assert opened.value("play.message") == ""

    opened.run("play.steps.value = 4")
    generate(opened, play)
    assert opened.value("play.made.seed") == 1
    assert opened.value("hash(play.pictures['dense'].tobytes())") != old


# -------------------------------------------------------------------------------- each control
def test_caption_phrase_and_background(opened, play):
    row(play, "caption").locator("textarea").fill("a blue cat and a red ball in a rose garden")
    write(row(play, "region 2"), "a red ball")
    opened.wait_until("play.layout.regions[1].phrase == 'a red ball'")
    opened.wait_until("play.layout.caption.startswith('a blue cat and a red ball')")
    play.get_by_role("button", name="Region 2: a red ball").wait_for()
    write(row(play, "background"), "a rose garden")
    opened.wait_until("play.layout.background == 'a rose garden'")
    assert opened.value("play.layout.regions[1].mask == layout.regions[1].mask")


def test_the_strength_of_one_region(opened, play):
    assert row(play, "strength").nth(1).locator(".noUi-target").bounding_box()["width"] > 50
    keys(handle(play, "strength", 1), "Home")
    opened.wait_until("[r.strength for r in play.layout.regions] == [1.0, 0.0]")


def test_add_and_remove_a_region(opened, play):
    play.get_by_role("button", name="Add region").click()
    opened.wait_until("len(play.layout.regions) == 3")
    added = opened.value("play.layout.regions[2].phrase")
    play.get_by_role("button", name=f"Region 3: {added}").wait_for()
    remove = play.get_by_role("button", name="Remove")
    remove.nth(2).wait_for()
    remove.nth(1).click()
    opened.wait_until(f"[r.phrase for r in play.layout.regions] == ['a blue cat', {added!r}]")


@pytest.mark.parametrize(
    "setting",
    ["image_text", "image_image", "text_image", "text_text", "window", "decay", "area"],
)
def test_settings(opened, play, setting):
    for key, end in (("Home", "min"), ("End", "max")):
        keys(handle(play, setting), key)
        opened.wait_until(f"play.config.{setting} == play.settings[{setting!r}].{end}")
    opened.run("play.set_config(dnb.DenseConfig())")


def test_seed_and_steps(opened, play):
    write(row(play, "seed"), "7")
    write(row(play, "steps"), "5")
    write(row(play, "look every"), "0")
    opened.wait_until("[play.seed.value, play.steps.value, play.every.value] == [7, 5, 0]")
    opened.wait_until("'seeds=[7]' in play.code and 'steps=5' in play.code")


def test_what_is_wrong_is_told_in_the_page(opened, play):
    row(play, "caption").locator("textarea").fill("")
    write(row(play, "region 1"), "")
    play.get_by_text("ValueError").first.wait_for()
    opened.wait_until("play.message != ''")


def test_save_and_open(opened, play, lab):
    paint(play.locator("canvas"), (0.1, 0.1), (0.6, 0.1))
    opened.wait_until("play.layout != layout")
    generate(opened, play)
    for name in ("kept.json", "kept.png"):
        write(row(play, "file"), name)
        play.get_by_role("button", name="Save").click()
        play.get_by_text(f"saved {name}").wait_for()
        opened.run(f"painted = play.layout\n{AGAIN}\nplay.seed.value = 3")
        play.get_by_role("button", name="Open").click()
        play.get_by_text(f"opened {name}").wait_for()
        assert opened.value("play.layout == painted")
        assert (lab.root / name).is_file()
    assert opened.value("play.seed.value") == 0  # of the picture
