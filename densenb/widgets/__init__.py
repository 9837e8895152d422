"""Sliders, explorer, painter and playground for notebooks.

`sliders.py` moves a layout or a setting (`live_preview.py` draws it). `painter.py`, with
`painter.js` and `painter.css`, paints masks. `explorer.py` shows recorded attention, and
`playground.py` joins them (`layout_form.py`; long work runs in `worker.py`).
"""

from densenb.widgets.explorer import SideBySide
from densenb.widgets.painter import Painter
from densenb.widgets.playground import Playground
from densenb.widgets.sliders import ConfigSliders, MaskSliders, explore

__all__ = ["ConfigSliders", "MaskSliders", "Painter", "Playground", "SideBySide", "explore"]
