"""The painter in JupyterLab itself: what is painted in the page is a mask in the kernel."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

PAINTER = """
import densenb as dnb
from densenb.widgets.painter import Painter

layout = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [
    dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
    dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
])
before = layout.pixel_masks(256, 256)
painter = Painter(layout)

def added(region):
    "How many pixels a region gained."
    return int((painter.layout.pixel_masks(256, 256) - before)[region].sum())

painter"""


@pytest.fixture(scope="module")
def notebook(lab, chromium) -> Iterator:
    notebook = lab.open(chromium, lab.write("painter.ipynb", PAINTER, "1 + 1"))
    notebook.run_all()
    notebook.page.locator(".densenb-painter canvas").wait_for()
    yield notebook
    notebook.close()


@pytest.fixture
def hand(notebook) -> Hand:
    """Each test starts from the layout as it was given, with the brush on the first region."""
    hand = Hand(notebook)
    hand.press("1")
    hand.click("Brush")
    for _ in range(10):
        hand.press("Control+z")
    notebook.wait_until("painter.layout == layout")
    return hand


class Hand:
    """What a hand does with mouse and keys, in pixels of the masks."""

    def __init__(self, notebook) -> None:
        self.page = notebook.page
        self.root = self.page.locator(".densenb-painter")
        self.canvas = self.root.locator("canvas")

    def click(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def press(self, *keys: str) -> None:
        self.canvas.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def drag(self, *places: tuple[float, float]) -> None:
        self.canvas.scroll_into_view_if_needed()
        frame = self.canvas.bounding_box()
        on_page = [
            (frame["x"] + x / 256 * frame["width"], frame["y"] + y / 256 * frame["height"])
            for x, y in places
        ]
        self.page.mouse.move(*on_page[0])
        self.page.mouse.down()
        for place in on_page[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()


def test_brush_undo_redo(notebook, hand):
    hand.drag((150, 220), (230, 220))
    notebook.wait_until("added(0) > 1500")
    assert notebook.value("added(1)") == 0
    notebook.screenshot("painter", hand.root)
    hand.click("Undo (Ctrl+Z)")
    notebook.wait_until("painter.layout == layout")
    hand.click("Redo (Ctrl+Y)")
    notebook.wait_until("added(0) > 1500")


def test_box_and_eraser(notebook, hand):
    hand.press("2")
    hand.click("Box")
    hand.drag((8, 16), (40, 64))
    exact = "dnb.box(8 / 256, 16 / 256, 40 / 256, 64 / 256).raster(256, 256)"
    notebook.wait_until(f"added(1) == 32 * 48 == int({exact}.sum())")
    mask = "painter.layout.regions[1].mask.raster(256, 256)"
    assert notebook.value(f"bool(({mask} == before[1].maximum({exact})).all())")
    hand.click("Eraser")
    hand.drag((0, 40), (60, 40))
    notebook.wait_until("added(1) < 32 * 48")
    assert notebook.value(f"int({mask}[40, :60].sum())") == 0


def test_keys_paint_and_do_not_reach_the_notebook(notebook, hand):
    cells = notebook.page.locator(".jp-Cell").count()
    hand.press("2", "ArrowDown", "ArrowDown", "Space")
    notebook.wait_until("added(1) > 0")
    assert notebook.value("added(0)") == 0
    hand.press("d", "d", "a", "b", "m")  # cut, insert, Markdown: commands of the notebook
    assert notebook.page.locator(".jp-Cell").count() == cells
    assert notebook.page.locator(".jp-MarkdownCell").count() == 0
    hand.press("Control+z")
    notebook.wait_until("painter.layout == layout")


def test_png_import(notebook, hand):
    levels = np.zeros((64, 64), dtype=np.uint8)
    levels[:32] = 255
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG")
    picture = {"name": "half.png", "mimeType": "image/png", "buffer": file.getvalue()}
    hand.root.locator("input[type=file]").set_input_files(picture)
    mask = "painter.layout.regions[0].mask.raster(256, 256)"
    notebook.wait_until(f"{mask}[:118].min() == 1 and {mask}[138:].max() == 0")


def test_what_python_does_is_seen_and_undone_in_the_page(notebook, hand):
    hand.click("Clear the chosen region")
    said = hand.root.locator(".message")
    said.get_by_text('region 1, "a blue cat", is empty').wait_for()
    hand.press("Control+z")
    notebook.wait_until("painter.layout == layout and painter.message == ''")
    notebook.value(
        "[painter.canvas.set_state({'masks': ['no picture'] * 2}), painter.layout == layout]"
    )
    said.get_by_text("which is not a PNG of 256 x 256 pixels").wait_for()
    hand.drag((150, 220), (230, 220))
    notebook.wait_until("added(0) > 1500 and painter.message == ''")
    hand.press("Control+z")
    notebook.wait_until("painter.layout == layout")
