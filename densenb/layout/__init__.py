"""The user's input: a caption, and a place in the picture for each of its phrases.

Start with `layout.py` (`Region`, `Layout`). `masks.py` has the shapes, `mask_files.py` and
`label_maps.py` read pictures, `phrases.py` finds phrases in a caption, and `png.py` embeds a layout
in a picture. `validation.py` has the checks that the whole library shares. Taught in notebook 06.
"""

from densenb.layout.label_maps import regions_from_label_map
from densenb.layout.layout import Layout, Region, against_neighbours, cover
from densenb.layout.mask_files import mask_from_base64, mask_from_png
from densenb.layout.masks import Mask, box, ellipse, mask_from_array, polygon
from densenb.layout.phrases import find_phrase, place_phrases

__all__ = [
    "Layout", "Mask", "Region", "against_neighbours", "box", "cover", "ellipse", "find_phrase",
    "mask_from_array", "mask_from_base64", "mask_from_png", "place_phrases", "polygon",
    "regions_from_label_map",
]  # fmt: skip
