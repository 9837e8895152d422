"""Sliders and explorer in JupyterLab: what a hand does in the page arrives in Python, and back."""

from __future__ import annotations

import pytest
from hands import handle, keys, row, write

SETUP = """
import torch
import densenb as dnb
from densenb.recording.record import Entry, Record
from densenb.widgets import MaskSliders, explore
pipe = dnb.load("tiny")
layout = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [
    dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
    dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
])
entries = [
    Entry(0, step, 1.0, block, "attn", 0, 0, True, False, {"image_text": torch.rand(2, 2, 8, 8)})
    for step in range(3) for block in range(4)
]
record = Record((layout,), ((),), (0, 1), entries=entries)
"""
SLIDERS = 'sliders = MaskSliders(pipe, layout, ["image_text"], steps=2)\nsliders'
WALK = "walk = explore(record)\nwalk"


@pytest.fixture(scope="module")
def notebook(lab, chromium):
    """One kernel for all tests here; each has a cell of its own."""
    notebook = lab.open(chromium, lab.write("widgets.ipynb", SETUP, SLIDERS, WALK))
    notebook.run_all()
    yield notebook
    notebook.close()


# ---------------------------------------------------------------------------------------- sliders
@pytest.fixture
def sliders(notebook):
    cell = notebook.cell(1)
    cell.scroll_into_view_if_needed()
    yield cell
    notebook.value("setattr(sliders.region, 'value', 0)")


def test_a_slider_moved_by_keys_moves_the_region_and_the_preview(notebook, sliders):
    live = sliders.locator("img").first
    before = live.screenshot()
    x = notebook.value("sliders.regions[0].x.value")
    keys(handle(sliders, "x"), *["ArrowRight"] * 10)
    notebook.wait_until(f"abs(sliders.regions[0].x.value - {x} - 0.1) < 1e-6")
    # JupyterLab lets widgets speak in a thread of their own: what follows from x comes after x.
    notebook.wait_until("abs(sliders.layout.regions[0].mask.x0 - 0.15) < 0.006")
    assert notebook.value("sliders.layout.regions[0].mask.x1") == pytest.approx(0.6, abs=0.006)
    notebook.page.wait_for_timeout(300)
    assert live.screenshot() != before


def test_a_slider_dragged_by_the_mouse(notebook, sliders):
    before = notebook.value("sliders.regions[0].width.value")
    box = handle(sliders, "width").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = notebook.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - 40, y, steps=5)
    mouse.up()
    notebook.wait_until(f"sliders.regions[0].width.value < {before} - 0.05")
    notebook.wait_until(
        "sliders.layout.pixel_masks(99, 99)[0].sum() < 0.9 * layout.pixel_masks(99, 99)[0].sum()"
    )


def test_the_drop_down_chooses_whose_sliders_are_shown(notebook, sliders):
    row(sliders, "region").locator("select").select_option("2: an orange umbrella")
    notebook.wait_until("sliders.region.value == 1")
    before = notebook.value("sliders.regions[1].y.value")
    first = notebook.value("sliders.regions[0].y.value")
    row(sliders, "y").locator(".widget-readout", has_text=f"{before:.2f}").wait_for()
    keys(handle(sliders, "y"), "ArrowUp", "ArrowUp")
    notebook.wait_until(f"abs(sliders.regions[1].y.value - {before} - 0.02) < 1e-6")
    assert notebook.value("sliders.regions[0].y.value") == first
    row(sliders, "shape").locator("select").select_option("box")
    notebook.wait_until("type(sliders.layout.regions[1].mask).__name__ == 'Box'")


def test_the_setting_and_the_seed_reach_the_code(notebook, sliders):
    keys(handle(sliders, "image_text"), "Home")
    notebook.wait_until("sliders.config.image_text == 0")
    write(row(sliders, "seed"), "7")
    notebook.wait_until("sliders.seed.value == 7")
    sliders.locator("pre", has_text="image_text=0.0").wait_for()
    assert sliders.locator("pre").inner_text() == notebook.value("sliders.code")


def test_draw(notebook, sliders):
    assert sliders.locator("img").count() == 1
    sliders.get_by_role("button", name="Draw (2 steps)").click()
    drawn = sliders.locator("img").nth(1)
    drawn.wait_for(timeout=60_000)
    assert "2 steps" in sliders.inner_text().partition("a preview")[2]
    assert notebook.value("sliders.message") == ""
    size = drawn.evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    assert size == notebook.value("sliders.picture.size")
    notebook.screenshot("sliders", sliders)


# ---------------------------------------------------------------------------------- the explorer
def test_explorer_sliders(notebook):
    cell = notebook.cell(2)
    cell.scroll_into_view_if_needed()
    shown = cell.locator("img")
    before = shown.screenshot()
    for name, value in (("step", 2), ("block", 2), ("head", 1)):
        keys(handle(cell, name), "End", "ArrowLeft" if name == "block" else "End")
        notebook.wait_until(f"walk.{name}.value == {value}")
    notebook.page.get_by_text("a blue cat, step 2 (sigma 1.00), block 2, head 1:").wait_for()
    assert notebook.value("walk.reading") in cell.inner_text()
    expected = "entries[-2].values['image_text'][1, 0]"
    assert notebook.value(f"(walk.values == {expected}).all().item()")
    assert shown.screenshot() != before
