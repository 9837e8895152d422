"""Sliders, explorer, painter and playground for notebooks.

Start with `sliders.py`. The painter's front end is `painter.js` and `painter.css`; long work runs
in `worker.py`.
"""

from densenb.widgets.explorer import SideBySide
from densenb.widgets.painter import Painter
from densenb.widgets.playground import Playground
from densenb.widgets.sliders import ConfigSliders, MaskSliders, explore

__all__ = ["ConfigSliders", "MaskSliders", "Painter", "Playground", "SideBySide", "explore"]
