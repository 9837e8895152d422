"""A picture and the layout that made it in one PNG file: `Layout.to_png`, `Layout.from_png`.

The layout is JSON in the text metadata (an iTXt chunk under the key "densenb"), next to the other
settings that made the picture. Reading takes only numbers and words from that text: no code runs,
no other file is opened, and every size is checked against a limit before anything is unpacked.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from densenb.layout.validation import check_keys

KEY = "densenb"
FORMAT = "densenb picture 1"
OPTIONAL = ["config", "seed", "steps", "model"]
LARGEST_FILE = 64 * 2**20  # bytes
LARGEST_TEXT = 2**20  # bytes of JSON, a megabyte; Pillow refuses to unpack more from one chunk
LARGEST_PICTURE = 2**26  # pixels, 8192 x 8192
LARGEST_MASKS = 2**24  # pixels of all painted masks together, sixteen of 1024 x 1024


def write_png(picture: Image.Image, about: Mapping[str, Any], path: str | Path) -> None:
    """Write the picture with text metadata for `read_png`.

    Args:
        picture: The PIL image.
        about: "layout" (`Layout.to_dict`) and, if known, "config" (`DenseConfig.to_dict`), "seed",
            "steps" and "model" (a line for human readers).
        path: The file to write.

    Raises:
        ValueError: For what `read_png` would refuse.
        TypeError: If `picture` is not a PIL image.
    """
    if not isinstance(picture, Image.Image):
        raise TypeError(f"picture is {picture!r:.60}, but has to be a PIL image.")
    about = {"format": FORMAT, **dict.fromkeys(OPTIONAL), **about}
    text = json.dumps(about, ensure_ascii=False)
    size = len(text.encode("utf-8"))
    if size > LARGEST_TEXT:
        raise ValueError(
            f"the layout takes {size / 2**20:.1f} MB as text, but a PNG may have"
            f" {LARGEST_TEXT // 2**20}: paint its masks with fewer pixels, or save the layout alone"
            " with to_json."
        )
    check_picture(picture)
    try:
        check_about(json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"such a picture could not be read again: {error}") from None
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text, zip=True)
    picture.save(path, format="PNG", pnginfo=info)


def read_png(path: str | Path) -> dict[str, Any]:
    """What `write_png` wrote into a picture, as plain data. Pixels are not decoded.

    Returns:
        "layout", "config", "seed", "steps" and "model"; unset entries are None.

    Raises:
        ValueError: For a missing file, a file that is not a PNG or has no layout, and beyond the
            limits: 64 MB of file, 1 MB of text, 2**26 pixels of picture, 2**24 pixels of all
            painted masks.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file: check the name of the picture.")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"{path} has {size / 2**20:.0f} MB, but at most {LARGEST_FILE // 2**20} are allowed:"
            " choose a picture that densenb wrote."
        )
    text = read_text(path)
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has text under {KEY!r} that is not JSON ({error}).") from None
    try:
        check_about(about)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is refused: {error}") from error
    return {"layout": about["layout"], **{name: about.get(name) for name in OPTIONAL}}


def check_about(about: Any) -> None:
    """ValueError or TypeError for text that is not what `write_png` writes."""
    check_keys("picture's text", about, required=["format", "layout"], optional=OPTIONAL)
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']!r}, but has to be {FORMAT!r}.")
    check_masks(about["layout"])
    for name in ("seed", "steps"):
        value = about.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"{name} is {value!r}, but has to be a whole number of at least 0.")
    model = about.get("model")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"model is {model!r}, but has to be text.")


def read_text(path: Path) -> str:
    """The text under `KEY` of a PNG file, no longer than `LARGEST_TEXT`."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            check_picture(image)
            text = image.info.get(KEY)  # of the chunks before the pixels
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a PNG picture ({error}).") from error
    except ValueError as error:  # from check_picture, or from Pillow if a chunk is too large
        raise ValueError(f"{path} is refused: {error}") from error
    if not isinstance(text, str):
        raise ValueError(
            f"{path} carries no layout: to_png writes one, but chats, mail and painting programs"
            " often drop it. Use the file as it was saved, or a layout file."
        )
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_TEXT:
        raise ValueError(f"{path} carries more than {LARGEST_TEXT // 2**20} MB of text.")
    return text


def check_picture(image: Image.Image) -> None:
    """ValueError for a picture with too many pixels."""
    if image.width * image.height > LARGEST_PICTURE:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than the limit of {LARGEST_PICTURE}:"
            " use a smaller picture."
        )


def check_masks(layout: Any) -> None:
    """ValueError for a mask in another file, and for masks beyond the limit once unpacked."""
    regions = layout.get("regions") if isinstance(layout, Mapping) else None
    regions = regions if isinstance(regions, list) else []
    pixels = 0
    for region in (region for region in regions if isinstance(region, Mapping)):
        if "mask" in region:
            raise ValueError(
                f"the picture names another file for a mask, {region['mask']!r}: masks must be"
                ' inline ("mask_png").'
            )
        if isinstance(region.get("mask_png"), str):
            try:
                file = io.BytesIO(base64.b64decode(region["mask_png"], validate=True))
                with Image.open(file, formats=["PNG"]) as mask:
                    pixels += mask.width * mask.height
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ValueError(f"a mask in the picture is not a PNG ({error}).") from error
    if pixels > LARGEST_MASKS:
        raise ValueError(
            f"its painted masks have {pixels} pixels together, but at most {LARGEST_MASKS} are"
            " allowed: paint them with fewer, for masks fit any picture size."
        )
