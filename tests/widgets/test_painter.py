"""The painter, driven from Python as its page would: masks both ways, exactness, errors, fallback.

What the page itself does is seen in a browser, in `tests/browser`.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densenb as dnb
from densenb.plots.pictures import region_colour
from densenb.widgets import painter as module
from densenb.widgets.painter import Painter

CAT = dnb.Region("a blue cat", dnb.box(0.5, 0.42, 0.95, 0.97), strength=0.5)
UMBRELLA = dnb.Region("an orange umbrella", dnb.ellipse(0.28, 0.28, 0.23, 0.23))
LAYOUT = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [CAT, UMBRELLA])


def png(levels: np.ndarray, mode: str = "RGBA") -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).convert(mode).save(file, format="PNG")
    return file.getvalue()


def text(levels: np.ndarray) -> str:
    """As the page writes a mask: an opaque grey RGBA picture."""
    return base64.b64encode(png(levels)).decode("ascii")


def square(height: int = 256, width: int = 256) -> np.ndarray:
    levels = np.zeros((height, width))
    levels[64:128, 32:96] = 255
    return levels


def paint(painter: Painter, region: int, mask: str) -> None:
    """What the page does when a stroke is done: the trait arrives as it would by wire."""
    masks = [*painter.canvas.masks]
    masks[region] = mask
    painter.canvas.set_state({"masks": masks})


# ------------------------------------------------------------------------------------- both ways
def test_the_page_is_given_the_masks_in_the_regions_colours():
    canvas = Painter(LAYOUT).canvas
    assert [region["phrase"] for region in canvas.regions] == list(LAYOUT.phrases)
    assert [region["colour"] for region in canvas.regions] == [region_colour(0), region_colour(1)]
    for mask, region in zip(canvas.masks, LAYOUT.regions, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask))))
        assert (shown == 255 * region.mask.raster(256, 256).numpy()).all()
    assert "render" in canvas._esm and ".densenb-painter" in canvas._css
    assert "://" not in canvas._esm  # nothing is fetched from anywhere


def test_a_painted_region_is_painted_and_no_other():
    painter = Painter(LAYOUT)
    paint(painter, 0, text(square()))
    cat, umbrella = painter.layout.regions
    assert cat == replace(CAT, mask=dnb.mask_from_array(square() / 255))
    assert umbrella.mask is UMBRELLA.mask and not painter.message


def test_untouched_and_undone_regions_keep_the_mask_that_was_given():
    painter = Painter(LAYOUT)
    assert painter.layout == LAYOUT
    start = painter.canvas.masks[0]
    paint(painter, 0, text(square()))
    assert painter.layout != LAYOUT
    paint(painter, 0, start)  # undo, in the page
    assert painter.layout.regions[0].mask is CAT.mask


def test_a_painted_box_is_the_box():
    painter = Painter(LAYOUT)
    paint(painter, 0, text(square()))
    exact = dnb.box(32 / 256, 64 / 256, 96 / 256, 128 / 256)
    painted = painter.layout.regions[0].mask
    for side in (16, 64, 256):
        assert (painted.raster(side, side) == exact.raster(side, side)).all()


def test_regions_may_overlap():
    painter = Painter(LAYOUT)
    paint(painter, 0, text(square()))
    paint(painter, 1, text(square()))
    first, second = painter.layout.pixel_masks(256, 256)
    assert (first == second).all() and first.sum() == 64 * 64


def test_masks_need_not_be_square():
    painter = Painter(LAYOUT, height=128, width=192)
    paint(painter, 1, text(square(128, 192)))
    assert painter.layout.regions[1].mask.raster(128, 192).sum() == 64 * 64


def test_soft_edges_are_kept():
    painter = Painter(LAYOUT)
    levels = square()
    levels[100] = 77
    paint(painter, 0, text(levels))
    assert (painter.layout.regions[0].mask.raster(256, 256)[100] == np.float32(77 / 255)).all()


# --------------------------------------------------------------------------- layouts from Python
def test_another_layout():
    painter, heard = Painter(LAYOUT), []
    paint(painter, 0, text(square()))
    loads = painter.canvas.loads
    painter.on_change(lambda: heard.append(painter.layout))
    other = dnb.Layout("a red squid", [dnb.Region("a red squid", dnb.box(0.1, 0.2, 0.3, 0.4))])
    painter.set_layout(other)
    assert painter.layout == other and heard == [other]
    assert [region["phrase"] for region in painter.canvas.regions] == ["a red squid"]
    assert painter.canvas.loads == loads + 1  # the page forgets what could be undone


# ------------------------------------------------------------------------------------------- code
def test_the_code_is_the_layout():
    words = 'a blue cat and an orange umbrella, the cat\'s hat, a "rose" garden'
    regions = [replace(CAT, negative="a dog"), UMBRELLA]
    layout = dnb.Layout(words, regions, background='a "rose" garden')
    painter = Painter(layout)
    assert eval(painter.code, {"dnb": dnb}) == layout and "dnb.box(" in painter.code
    paint(painter, 1, text(square()))
    assert eval(painter.code, {"dnb": dnb}) == painter.layout != layout
    assert painter.canvas.code == painter.code


# ----------------------------------------------------------------------------------------- errors
def test_an_empty_region_is_named():
    painter, heard = Painter(LAYOUT), []
    painter.on_change(lambda: heard.append(painter.message))
    paint(painter, 1, text(np.zeros((256, 256))))
    for read in (lambda: painter.layout, lambda: painter.code):
        with pytest.raises(ValueError, match='region 2, "an orange umbrella", is empty: paint it'):
            read()
    assert "is empty" in painter.message and heard == [painter.message]
    paint(painter, 1, text(square()))
    assert painter.layout.regions[0] == CAT and not painter.message


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("words", "not a PNG of 256 x 256"),
        (text(square(128, 256)), "it has 256 x 128 pixels"),
        (text(square())[:200], "not a PNG"),
        (base64.b64encode(b"GIF89a").decode(), "cannot identify"),
        (17, "not a PNG"),
    ],
)
def test_what_is_no_mask_is_refused_aloud(mask, reason):
    painter, heard = Painter(LAYOUT), []
    paint(painter, 1, text(square()))
    kept, shown = painter.layout, painter.canvas.masks
    painter.on_change(lambda: heard.append(1))
    paint(painter, 0, mask)
    assert reason in painter.message and "masks stay" in painter.message
    assert painter.layout == kept and painter.canvas.masks == shown and not heard


def test_too_few_masks_are_refused_aloud():
    painter = Painter(LAYOUT)
    painter.canvas.set_state({"masks": [text(square())]})
    assert "1 masks were painted for 2 regions" in painter.message and painter.layout == LAYOUT


def test_an_error_of_a_callback_is_shown():
    painter = Painter(LAYOUT)
    painter.on_change(lambda: 1 / 0)
    paint(painter, 0, text(square()))
    assert painter.message == "ZeroDivisionError: division by zero"
    assert painter.layout.regions[0] != CAT
    with pytest.raises(ZeroDivisionError):  # in Python it is an error
        painter.set_layout(LAYOUT)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layout": "a cat"}, TypeError, "one Layout"),
        ({"height": 0}, ValueError, "height is 0, but has to be at least 1"),
        ({"width": 64.0}, TypeError, "width must be an int"),
        ({"width": 4096}, ValueError, "width is 4096, but at most 2048"),
    ],
)
def test_what_cannot_be_painted_is_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        Painter(**{"layout": LAYOUT} | arguments)


def test_phrases_outside_the_caption_are_told_once(recwarn):
    def told() -> int:
        return sum("appended to the caption" in str(warning.message) for warning in recwarn)

    layout = dnb.Layout("a garden", [CAT])
    assert told() == 1
    painter = Painter(layout)
    assert painter.layout.text == layout.text and told() == 1


# ------------------------------------------------------------------ without anywidget, and the page
def test_without_anywidget_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "anywidget", None)
    with pytest.raises(ImportError, match="pip install anywidget"):
        Painter(LAYOUT)


def test_the_module_imports_without_anywidget():
    code = (
        "import sys; sys.modules['anywidget'] = None; import densenb.widgets.painter; print('fine')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "fine\n", result.stderr


def test_the_painter_shows_itself_in_a_notebook(monkeypatch):
    from densenb.widgets import explorer

    shown, painter = [], Painter(LAYOUT)
    monkeypatch.setattr(explorer, "display", shown.append)
    painter._ipython_display_()
    assert shown == [painter.box]


def test_the_page_travels_with_the_package():
    root = Path(module.__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["setuptools"]["package-data"]["densenb.widgets"]
    for name in ("painter.js", "painter.css"):
        assert any(fnmatch(name, pattern) for pattern in packed), name
