"""The painter's page in headless Chromium, with a real `Painter` behind it: each control, by hand.

A few lines of page stand in for the notebook's front end, so every control is tried in a second;
the painter in JupyterLab itself is in `test_painter_lab.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers import LAYOUT
from PIL import Image

import densenb as dnb
from densenb.widgets.painter import Painter

TRAITS = ("height", "width", "regions", "masks", "loads", "message", "code")

# A model as anywidget gives it: what is saved goes to Python, what Python has then comes back.
PAGE = """<!doctype html><meta charset="utf-8"><style>%(css)s</style><div id="root"></div>
<script type="module">
const source = new Blob([%(esm)s], { type: "text/javascript" });
const { default: widget } = await import(URL.createObjectURL(source));
let state = %(state)s;
let pending = 0;
const heard = {};
const tracked = (call) => async (...values) => {
  pending += 1;
  try { return await call(...values); } finally { pending -= 1; }
};
window.createImageBitmap = tracked(window.createImageBitmap);
const model = {
  get: (name) => state[name],
  set: (name, value) => update({ [name]: value }),
  on: (event, callback) => (heard[event] ??= []).push(callback),
  off: (event, callback) => (heard[event] = heard[event].filter((other) => other !== callback)),
  save_changes: tracked(async () => update(await window.python({ masks: state.masks }))),
};
function update(values) {
  const changed = Object.keys(values).filter(
    (name) => JSON.stringify(values[name]) !== JSON.stringify(state[name]),
  );
  state = { ...state, ...values };
  changed.forEach((name) => heard[`change:${name}`]?.forEach((callback) => callback()));
}
const close = widget.render({ model, el: document.getElementById("root") });
const settled = async () => {
  do await new Promise((resolve) => setTimeout(resolve, 20)); while (pending);
};
Object.assign(window, { update, close, heard, settled });
</script>"""


class Hand:
    """A painter, its page, and a hand that paints on it, in pixels of the masks."""

    def __init__(self, browser, **size: int) -> None:
        self.painter = Painter(LAYOUT, **size)
        self.page = browser.new_page(viewport={"width": 700, "height": 900})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.expose_function("python", self._python)
        canvas = self.painter.canvas
        parts = {"css": canvas._css, "esm": json.dumps(canvas._esm)}
        html = PAGE % {**parts, "state": json.dumps(self._state())}
        self.page.route(
            "http://localhost/", lambda route: route.fulfill(body=html, content_type="text/html")
        )
        self.page.goto("http://localhost/")
        self.canvas = self.page.locator("canvas")
        self.page.get_by_role("button", name="Region 1").wait_for()

    def _state(self) -> dict:
        return {name: getattr(self.painter.canvas, name) for name in TRAITS}

    def _python(self, changed: dict) -> dict:
        self.painter.canvas.set_state(changed)
        return self._state()

    def from_python(self) -> None:
        """What was changed in Python reaches the page."""
        self.page.evaluate("(state) => window.update(state)", self._state())
        self.settle()

    def settle(self) -> None:
        """The page has sent what there is to send, and shows what it got."""
        self.page.evaluate("() => window.settled()")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()
        self.settle()

    def at(self, x: float, y: float) -> tuple[float, float]:
        frame, canvas = self.canvas.bounding_box(), self.painter.canvas
        return (
            frame["x"] + x / canvas.width * frame["width"],
            frame["y"] + y / canvas.height * frame["height"],
        )

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.at(*place), steps=4)
        self.page.mouse.up()
        self.settle()

    def masks(self) -> torch.Tensor:
        canvas = self.painter.canvas
        return self.painter.layout.pixel_masks(canvas.height, canvas.width)


@pytest.fixture
def hand(chromium) -> Iterator[Hand]:
    hand = Hand(chromium)
    yield hand
    hand.page.close()
    assert not hand.errors


BEFORE = LAYOUT.pixel_masks(256, 256)


# ------------------------------------------------------------------------------------- the tools
def test_brush(hand):
    hand.page.get_by_label("brush size").fill("20")
    hand.drag((100, 40), (200, 40))
    cat, umbrella = hand.masks()
    new = (cat != BEFORE[0]).nonzero()
    assert new.min(0).values.tolist() == [30, 90] and new.max(0).values.tolist() == [49, 209]
    assert (cat[31:49, 100:200] == 1).all() and cat[30, 90] == 0  # round ends
    assert (umbrella == BEFORE[1]).all()


def test_size_of_the_brush(hand):
    hand.page.get_by_label("brush size").fill("40")
    hand.drag((100, 40), (100, 40))
    added = (hand.masks()[0] - BEFORE[0]).sum().item()
    assert added == pytest.approx(np.pi * 20**2, rel=0.02)


def test_a_stroke_reaches_the_edges(hand):
    hand.page.get_by_label("brush size").fill("20")
    hand.drag((128, 20), (300, 20), (300, 0), (-40, 0))
    cat = hand.masks()[0]
    assert (cat[10:20, 128:] == 1).all() and (cat[0, :] == 1).all()


def test_eraser(hand):
    hand.click("Eraser")
    hand.drag((0, 200), (256, 200))
    cat, umbrella = hand.masks()
    assert cat[200].sum() == 0 and (umbrella == BEFORE[1]).all()
    assert (cat[100:180] == BEFORE[0, 100:180]).all()


def test_fill_stops_at_what_is_painted(hand):
    hand.click("Clear the chosen region")
    hand.page.get_by_label("brush size").fill("4")
    hand.drag((50, 50), (150, 50), (150, 150), (50, 150), (50, 50))
    hand.click("Fill")
    hand.drag((100, 100), (100, 100))
    inside = hand.masks()[0]
    assert (inside[50:150, 50:150] == 1).all() and inside.sum() < 110**2
    hand.drag((10, 10), (10, 10))
    assert (hand.masks()[0] == 1).all()


@pytest.mark.parametrize(
    ("tool", "exact"),
    [
        ("Box", dnb.box(30 / 256, 20 / 256, 200 / 256, 80 / 256)),
        ("Ellipse", dnb.ellipse(115 / 256, 50 / 256, 85 / 256, 30 / 256)),
    ],
)
def test_shapes_are_those_of_python(hand, tool, exact):
    hand.click("Clear the chosen region")
    hand.click(tool)
    hand.drag((200, 80), (100, 30), (30, 20))  # from any corner
    assert (hand.masks()[0] == exact.raster(256, 256)).all()


def test_a_shape_that_leaves_the_picture_is_cut(hand):
    hand.click("Clear the chosen region")
    hand.click("Box")
    hand.drag((200, 200), (300, 300))
    assert (hand.masks()[0] == dnb.box(200 / 256, 200 / 256, 1, 1).raster(256, 256)).all()


def test_masks_that_are_not_square(chromium):
    hand = Hand(chromium, height=128, width=192)
    hand.click("Clear the chosen region")
    hand.click("Box")
    hand.drag((48, 32), (96, 64))
    exact = dnb.box(0.25, 0.25, 0.5, 0.5)
    assert (hand.masks()[0] == exact.raster(128, 192)).all()
    hand.page.close()


# -------------------------------------------------------------------------------- regions, history
def test_each_region_has_its_own_mask(hand):
    hand.page.get_by_role("button", name="Region 2").click()
    hand.click("Box")
    hand.drag((20, 100), (120, 240))  # over the cat
    cat, umbrella = hand.masks()
    assert (cat == BEFORE[0]).all() and (umbrella[100:240, 20:120] == 1).all()


def test_undo_and_redo_end_where_they_began(hand):
    hand.drag((10, 10), (60, 10))
    first = hand.painter.layout
    hand.click("Box")
    hand.drag((150, 200), (250, 250))
    second = hand.painter.layout
    hand.click("Undo (Ctrl+Z)")
    assert hand.painter.layout == first
    hand.click("Undo (Ctrl+Z)")
    assert hand.painter.layout == LAYOUT  # the box is a box again
    assert hand.page.get_by_role("button", name="Undo").is_disabled()
    hand.press("Control+z")
    assert hand.painter.layout == LAYOUT
    hand.click("Redo (Ctrl+Y)")
    hand.click("Redo (Ctrl+Y)")
    assert hand.painter.layout == second
    hand.click("Undo (Ctrl+Z)")
    hand.drag((200, 10), (250, 10))  # a new stroke, and nothing is left to redo
    third = hand.painter.layout
    hand.press("Control+y")
    assert hand.painter.layout == third


def test_an_empty_region_is_told_and_undone(hand):
    hand.click("Clear the chosen region")
    assert 'region 1, "a blue cat", is empty' in hand.page.locator(".message").inner_text()
    with pytest.raises(ValueError, match="is empty"):
        hand.masks()
    hand.press("Control+z")
    assert hand.painter.layout == LAYOUT and hand.page.locator(".message").inner_text() == ""


def test_what_python_says_stays_while_it_is_true(hand):
    said = hand.page.locator(".message")
    hand.click("Clear the chosen region")
    hand.press("2")
    hand.drag((200, 100), (250, 100))
    assert "region 1" in said.inner_text()  # still empty


# ------------------------------------------------------------------------------------------- keys
def test_keys_alone(hand):
    hand.page.get_by_label("brush size").fill("16")
    hand.page.get_by_role("button", name="Brush").focus()
    hand.press("2")
    hand.canvas.focus()
    hand.press("ArrowUp", "ArrowUp", "Shift+ArrowLeft", " ")  # from the middle
    _, umbrella = hand.masks()
    disc = dnb.ellipse(127 / 256, 112 / 256, 8 / 256, 8 / 256).raster(256, 256)
    assert (umbrella == torch.maximum(BEFORE[1], disc)).all() and (disc > BEFORE[1]).any()
    hand.press("Control+z")
    assert hand.painter.layout == LAYOUT
    hand.press("Control+y")
    assert hand.painter.layout != LAYOUT
    hand.press("Control+z", "Control+Shift+z")
    assert hand.painter.layout != LAYOUT


def test_shapes_by_keys(hand):
    hand.click("Clear the chosen region")
    hand.click("Box")
    hand.canvas.focus()
    hand.press("Enter", *["ArrowRight"] * 4, *["ArrowDown"] * 2, "Escape")  # given up
    hand.press("Enter", *["ArrowLeft"] * 4, *["ArrowUp"] * 2, "Enter")
    exact = dnb.box(128 / 256, 128 / 256, 160 / 256, 144 / 256)
    assert (hand.masks()[0] == exact.raster(256, 256)).all()


def test_every_control_can_be_reached_and_has_a_name(hand):
    names = []
    hand.page.locator("body").press("Tab")
    for _ in range(16):
        focused = hand.page.evaluate(
            "() => document.activeElement.ariaLabel ?? document.activeElement.parentNode.innerText"
        )
        names.append((focused or "").strip())
        hand.page.keyboard.press("Tab")
    wanted = ["Region 1: a blue cat", "Region 2: an orange umbrella", "Brush", "Eraser", "Fill"]
    wanted += ["Box", "Ellipse", "brush size in pixels", "Undo (Ctrl+Z)", "Redo (Ctrl+Y)"]
    wanted += ["Clear the chosen region", "Import a PNG as the chosen region", "token grid"]
    assert names[: len(wanted)] == wanted and names[len(wanted)].startswith("Painted regions")


def test_keys_stay_in_the_painter(hand):
    """JupyterLab would delete the cell at "d", "d"."""
    hand.page.evaluate("""() => {
        window.got = [];
        document.addEventListener("keydown", (event) => window.got.push(event.key));
    }""")
    hand.canvas.focus()
    hand.press("d", "d", "1", "ArrowUp", " ", "Control+z", "Control+s")
    got = hand.page.evaluate("() => window.got")
    assert [key for key in got if key != "Control"] == ["s"]  # to save is the notebook's own


# ------------------------------------------------------------------------------------------- touch
def test_touch(chromium):
    hand = Hand(chromium)
    session = hand.page.context.new_cdp_session(hand.page)
    for kind, place in (("touchStart", (100, 40)), ("touchMove", (200, 40)), ("touchEnd", None)):
        x, y = hand.at(*place) if place else (0, 0)
        points = [{"x": x, "y": y}] if place else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    hand.settle()
    cat = hand.masks()[0]
    assert (cat[35:45, 100:200] == 1).all()
    hand.page.close()


# --------------------------------------------------------------------------- pictures, from Python
def half(side: int = 100) -> bytes:
    levels = np.zeros((side, side), dtype=np.uint8)
    levels[:, : side // 2] = 255
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG")
    return file.getvalue()


def upload(hand: Hand, name: str, content: bytes) -> None:
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    hand.page.locator("input[type=file]").set_input_files(file)
    hand.settle()


def test_png_import(hand):
    hand.press("2")
    hand.page.get_by_role("button", name="Region 2").click()
    upload(hand, "half.png", half())
    cat, umbrella = hand.masks()
    assert (cat == BEFORE[0]).all()
    assert (umbrella[:, :126] == 1).all() and (umbrella[:, 130:] == 0).all()
    hand.press("Control+z")
    assert hand.painter.layout == LAYOUT


def test_a_picture_that_is_none_is_told(hand):
    upload(hand, "words.png", b"words")
    assert "words.png: " in hand.page.locator(".message").inner_text()
    assert hand.painter.layout == LAYOUT


def test_another_layout_has_no_history(hand):
    hand.drag((10, 10), (60, 10))
    other = dnb.Layout("a red squid", [dnb.Region("a red squid", dnb.box(0.1, 0.2, 0.3, 0.4))])
    hand.painter.set_layout(other)
    hand.from_python()
    assert hand.page.get_by_role("button", name="Undo").is_disabled()
    hand.canvas.focus()
    hand.press("Control+z")
    assert hand.painter.layout == other
    hand.drag((200, 200), (250, 200))
    assert (hand.masks()[0][200, 200:250] == 1).all()
    assert hand.page.get_by_role("group", name="regions").inner_text() == "1 a red squid"


def test_the_code_is_shown_and_copied(hand):
    hand.drag((10, 10), (60, 10))
    hand.page.get_by_text("copy this layout").click()
    shown = hand.page.locator("pre").inner_text()
    assert shown == hand.painter.code and eval(shown, {"dnb": dnb}) == hand.painter.layout
    hand.click("Copy the Python code")
    assert hand.page.evaluate("() => getSelection().toString()").strip() in ("", shown)
    assert hand.page.get_by_label("Copy the Python code").inner_text() != "Copy"


def test_what_is_seen(hand):
    def colour(x: float, y: float) -> list[int]:
        return hand.page.evaluate(
            "([x, y]) => [...document.querySelector('canvas').getContext('2d')"
            ".getImageData(4 * x, 4 * y, 1, 1).data].slice(0, 3)",
            [x, y],
        )

    assert colour(5, 5) == [240, 240, 240]
    assert colour(30, 100) == pytest.approx([233, 187, 84], abs=2)  # chosen: 65 % of the orange
    before = colour(16, 4)
    hand.page.get_by_label("token grid").check()
    assert colour(16, 4) != before


def test_a_closed_page_is_not_called_any_more(hand):
    hand.page.evaluate("() => window.close()")
    assert hand.page.evaluate("() => Object.values(window.heard).flat().length") == 0
