"""Widgets in JupyterLab itself: what the hand does in the page arrives in Python, and comes back."""

from __future__ import annotations

SETUP = """
import densenb as dnb
from densenb.widgets import MaskSliders, StepBlockHead
pipe = dnb.load("tiny")
layout = dnb.Layout("a blue cat and an orange umbrella in a rose garden", [
    dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
    dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
])
"""


def test_first(lab, open_notebook):
    notebook = open_notebook(lab.write("sliders.ipynb", SETUP, "1 + 1"))
    notebook.run_all()
    assert notebook.value("len(layout.regions)") == 2
