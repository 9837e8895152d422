"""Figures and widgets: text that is read as a formula, work that is done for nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fault_helpers import cat_and_umbrella
from matplotlib.cbook import is_math_text
from matplotlib.text import Text
from PIL import Image

import densenb as dnb
from densenb.plots import layouts
from densenb.widgets.playground import Playground

DOLLARS = "a $5 cat and a $10 dog"


def figures(caption):
    """A figure of each kind that shows a user's words."""
    layout = dnb.Layout(caption, [dnb.Region(caption, dnb.box(0, 0, 0.5, 1))])
    blank = [Image.new("RGB", (64, 64))]
    return [
        layouts.token_grid(layout, 8, 8),
        layouts.before_after(blank, blank, layout, caption, caption),
    ]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A8: set as a formula")
def test_dollars_stay_dollars_in_figures():
    texts = [text for figure in figures(DOLLARS) for text in figure.findobj(Text)]
    assert any("5" in text.get_text() for text in texts)
    formulas = [t for t in texts if t.get_parse_math() and is_math_text(t.get_text())]
    assert not formulas


@pytest.mark.xfail(strict=True, raises=ValueError, reason="A8: the error of a parser")
def test_what_is_no_formula_is_drawn_all_the_same():
    for figure in figures("a $^$ cat"):
        figure.savefig(io.BytesIO())


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the preview is made anew")
def test_a_slider_of_a_setting_leaves_the_layout_alone(pipe, monkeypatch):
    play, rastered = Playground(pipe, cat_and_umbrella()), []
    plain = dnb.Layout.token_masks

    def token_masks(layout, *arguments, **options):
        rastered.append(layout)
        return plain(layout, *arguments, **options)

    monkeypatch.setattr(dnb.Layout, "token_masks", token_masks)
    play.settings["image_text"].value = 0.5
    assert play.config.image_text == 0.5
    assert not rastered


def test_the_page_shows_what_python_has_after_a_bomb(monkeypatch):
    pytest.importorskip("anywidget")
    from densenb.widgets.painter import Painter

    painter = Painter(cat_and_umbrella(), 64, 64)
    before = list(painter.canvas.masks)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # so that a small picture is a bomb
    other = dnb.mask_from_array(np.tri(64)).to_dict()["mask_png"]
    painter.canvas.masks = [other, before[1]]
    assert painter.message
    assert painter.canvas.masks == before
