"""Masks from picture files: the one place where pixels of a file become a mask."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from densenb.layout.masks import Mask, mask_from_array

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is not a picture, is cut off, or unpacks to far too much."""


def mask_from_png(path: str | Path | bytes) -> Mask:
    """A mask from a picture: white is in, black or transparent is out, gray is in between.

    Args:
        path: The file, or its bytes.

    Raises:
        ValueError: If the file is missing, is not a picture, or is black all over.
    """
    picture = read_picture(path)
    luminance = picture[..., :3] @ [0.299, 0.587, 0.114]  # (H, W, 3) -> (H, W)
    try:
        return mask_from_array(np.minimum(luminance * picture[..., 3], 1))
    except ValueError as error:
        name = picture_name(path)
        raise ValueError(f"{name}: {error} White is in, black or transparent is out.") from error


def mask_from_base64(text: str) -> Mask:
    """The mask that `to_dict` wrote as an inline PNG."""
    try:
        return mask_from_png(base64.b64decode(text, validate=True))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'"mask_png" must be a whole PNG in base64, got {text!r:.40} ({error}). Write it with'
            ' Layout.to_json, or use "mask": "file.png".'
        ) from error


def read_picture(path: str | Path | bytes) -> np.ndarray:
    """A picture file, or its bytes, as RGBA: float `[height, width, 4]` in [0, 1]."""
    name = picture_name(path)
    if not isinstance(path, bytes) and not Path(path).is_file():
        raise ValueError(
            f"{name} is not a file: check the name (paths in a layout file start at its folder)."
        )
    try:
        with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as file:
            image: Image.Image = file
            if image.mode.startswith("I"):  # 16-bit gray, which convert() would clip at 255
                image = Image.fromarray((np.array(image) / 257).round().astype(np.uint8))
            return np.array(image.convert("RGBA")) / 255
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture: give a PNG, JPEG or WebP file.") from error
    except BROKEN as error:
        raise ValueError(
            f"{name} cannot be read ({error}): it may be cut off. Save it again."
        ) from error


def picture_name(path: str | Path | bytes) -> str:
    """The name of a picture in error messages."""
    return "the picture" if isinstance(path, bytes) else str(path)
