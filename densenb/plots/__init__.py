"""One palette and one style for every picture.

`pictures.py` draws without axes and fast enough for sliders; `maps.py` (attention over the
picture), `charts.py` (attention as numbers) and `layouts.py` make figures. Lessons write
`from densenb import plots`. Figures are returned, never shown, and do not use pyplot, so they also
work on machines without a display.
"""

from densenb.plots.charts import (
    block_step_heatmap,
    curves,
    quadrants,
    read_curves,
    read_heatmap,
    read_quadrants,
)
from densenb.plots.layouts import before_after, mask_grids, name_regions, show, token_grid
from densenb.plots.maps import attention_strip, read_strip, share_inside
from densenb.plots.pictures import (
    PALETTE,
    overlay,
    region_colour,
    sheet,
    side_by_side,
    to_image,
)

__all__ = [
    "PALETTE", "attention_strip", "before_after", "block_step_heatmap", "curves", "mask_grids",
    "name_regions", "overlay", "quadrants", "read_curves", "read_heatmap", "read_quadrants",
    "read_strip", "region_colour", "share_inside", "sheet", "show", "side_by_side", "to_image",
    "token_grid",
]  # fmt: skip
