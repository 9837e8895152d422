"""`Layout`: a caption, and for each of its phrases the place where it should appear.

`box`, `ellipse`, `polygon`, `mask_from_array` and `mask_from_png` describe places in fractions of
the picture. A `Layout` binds a phrase to each and is checked on construction, long before any
sampling. Taught in notebook 06.
"""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from densenb.layout.mask_files import mask_from_base64, mask_from_png
from densenb.layout.masks import Mask, box, ellipse, mask_from_array, polygon
from densenb.layout.phrases import append_phrases, clean_phrase, find_phrase, place_phrases
from densenb.layout.png import read_png, write_png
from densenb.layout.validation import check_count, check_keys, check_numbers, check_one_of

LATENT_PIXELS = 8  # side of one latent of SD 3.5: the VAE's scale factor
TOKEN_PIXELS = 2 * LATENT_PIXELS  # side of one image token: a patch of 2 x 2 latents


@dataclass(frozen=True)
class Region:
    """One phrase and the part of the picture where it should appear.

    Args:
        phrase: The words of the caption.
        mask: A `Mask`, or an array `[height, width]` in [0, 1].
        strength: Scales how strongly attention is modulated for this region; 0 is off.
        negative: What should not appear in this place, though it may elsewhere. It needs guidance
            (see `Layout.negative`).

    Raises:
        ValueError: For an empty phrase or mask, a negative strength, or a negative that is the
            phrase itself.
        TypeError: For values of the wrong type.
    """

    phrase: str
    mask: Mask
    strength: float = 1.0
    negative: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "phrase", clean_phrase("phrase", self.phrase))
        if not isinstance(self.mask, Mask):
            object.__setattr__(self, "mask", mask_from_array(self.mask))
        (strength,) = check_numbers(f'strength of "{self.phrase}"', [self.strength])
        if strength < 0:
            raise ValueError(
                f'strength of "{self.phrase}" is {strength}: it must be 0 (off) or more. To keep'
                " something out of a place, give that place to another region."
            )
        object.__setattr__(self, "strength", strength)
        if self.negative is not None:
            negative = clean_phrase(f'negative of "{self.phrase}"', self.negative)
            if negative.lower() == self.phrase.lower():
                raise ValueError(
                    f'negative of "{self.phrase}" is the phrase itself: a region cannot both show'
                    " and avoid it. Name what should not be there."
                )
            object.__setattr__(self, "negative", negative)


@dataclass(frozen=True)
class Layout:
    """A caption and its regions, checked on construction.

    Args:
        caption: The whole prompt.
        regions: At least one `Region`. They may overlap.
        background: The phrase for the pixels in no region; None if it has none.

    Attributes:
        text: The text that is encoded: the caption, plus every phrase it lacks, appended after a
            comma (with a warning).
        occurrences: Phrase i of `phrases` is occurrence `occurrences[i]` of it in `text`, counted
            from 0. Equal phrases take turns, and a phrase avoids words that a longer one covers.

    Raises:
        ValueError: For a layout without regions.
        TypeError: For values of the wrong type.
    """

    caption: str
    regions: Sequence[Region]
    background: str | None = None
    text: str = field(init=False, compare=False)
    occurrences: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.caption, str):
            raise TypeError(f"caption must be a str, got {self.caption!r}: give the whole prompt.")
        if isinstance(self.regions, (Region, str)) or not isinstance(self.regions, Iterable):
            raise TypeError(f"regions must be a list, got {self.regions!r}: put it in [ ].")
        regions = tuple(self.regions)
        for region in regions:
            if not isinstance(region, Region):
                raise TypeError(f"{region!r} is not a Region: write Region(phrase, mask).")
        if not regions:
            raise ValueError("layout has no regions: give at least one Region(phrase, mask).")
        if self.background is not None:
            object.__setattr__(self, "background", clean_phrase("background", self.background))
        object.__setattr__(self, "caption", unicodedata.normalize("NFC", self.caption).strip())
        object.__setattr__(self, "regions", regions)

        # Equal phrases need one occurrence each: the caption may have the first but not the second.
        places = place_phrases(self.caption, self.phrases)
        missing = [self.phrases[i] for i, place in enumerate(places) if place is None]
        text = append_phrases(self.caption, missing)
        if missing:
            warnings.warn(
                f"phrases appended to the caption, which lacks them: {missing}. Text: {text!r}",
                stacklevel=3,
            )
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "occurrences", place_phrases(text, self.phrases))

    @property
    def phrases(self) -> tuple[str, ...]:
        """One phrase per region, then the background's if it has one."""
        background = [] if self.background is None else [self.background]
        return (*(region.phrase for region in self.regions), *background)

    def negative(self, prompt: str = "") -> Layout | None:
        """The layout of the negative rows of a guided batch: each region's negative in its mask.

        While a rule is active, the negatives are encoded alone, and their embeddings replace their
        tokens in the negative rows' text. The pooled text stays that of the negative prompt. Taught
        in notebook 06.

        Args:
            prompt: The negative prompt, which is for the whole picture.

        Returns:
            A layout whose text is the negative prompt and then every region's negative, separated
            by commas. Regions without one belong to its background. None if no region has one.
        """
        regions = [
            Region(region.negative, region.mask, region.strength)
            for region in self.regions
            if region.negative is not None
        ]
        if not regions:
            return None
        prompt = unicodedata.normalize("NFC", prompt).strip()
        negative = Layout(append_phrases(prompt, [r.phrase for r in regions]), regions)
        # The prompt's words stay with the whole picture even if a region's negative repeats them.
        own = [len(find_phrase(prompt, phrase)) for phrase in negative.phrases]
        places = place_phrases(negative.text[len(prompt) :], negative.phrases)
        after = tuple(skip + (place or 0) for skip, place in zip(own, places, strict=True))
        object.__setattr__(negative, "occurrences", after)
        return negative

    def pixel_masks(self, height: int, width: int) -> Tensor:
        """The regions on a pixel grid: float `[R, height, width]` in [0, 1].

        Raises:
            TypeError, ValueError: For a size that is not a whole number from 1.
        """
        return torch.stack([region.mask.raster(height, width) for region in self.regions])

    def token_masks(self, rows: int, columns: int, method: str = "area") -> Tensor:
        """Which image tokens belong to each region.

        Args:
            rows: Image tokens from top to bottom: the picture's height / 16.
            columns: Image tokens from left to right.
            method: "area" takes tokens that are at least half covered; a region too small for that
                gets the token it covers best, with a warning. "soft" gives the covered share of a
                token, 0 to 1, which overlapping regions divide among them. "nearest" takes one
                sample per token, so that small regions may vanish: the released DenseDiffusion
                (Kim et al. 2023).

        Returns:
            Bool `[R, rows, columns]`; float if soft.

        Raises:
            TypeError, ValueError: For an unknown method, or a size that is not a whole number
                from 1.
        """
        check_one_of("method", method, ("area", "soft", "nearest"))
        check_count("rows", rows)
        check_count("columns", columns)
        pixels = self.pixel_masks(rows * TOKEN_PIXELS, columns * TOKEN_PIXELS)  # (R, H, W)
        if method == "nearest":
            return pixels[:, ::TOKEN_PIXELS, ::TOKEN_PIXELS] >= 0.5
        covered = cover(pixels, TOKEN_PIXELS)  # (R, rows, columns)
        if method == "soft":
            return covered / covered.sum(dim=0).clamp(min=1)
        masks = covered >= 0.5
        for region, mask, share in zip(self.regions, masks, covered, strict=True):
            if not mask.any():
                mask.view(-1)[share.argmax()] = True
                warnings.warn(
                    f'region "{region.phrase}" covers half of none of the {rows} x {columns} image'
                    " tokens: it gets the one it covers best. Enlarge the region or the picture.",
                    stacklevel=2,
                )
        return masks

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, in which painted masks are inline PNGs."""
        regions = [
            {"phrase": region.phrase, **region.mask.to_dict(), "strength": region.strength}
            | ({} if region.negative is None else {"negative": region.negative})
            for region in self.regions
        ]
        return {"caption": self.caption, "background": self.background, "regions": regions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: str | Path = ".") -> Layout:
        """The inverse of `to_dict`.

        Args:
            data: Keys "caption", "regions" and, optionally, "background".
            folder: Where the paths of `"mask": "file.png"` start.

        Raises:
            ValueError: For an unknown or missing key, or a value that `Layout` refuses.
            TypeError: For values of the wrong type.
        """
        check_keys("layout", data, required=["caption", "regions"], optional=["background"])
        if isinstance(data["regions"], (str, Mapping)) or not isinstance(data["regions"], Iterable):
            raise TypeError(f'"regions" must be a list, got {data["regions"]!r}: put it in [ ].')
        regions = [region_from_dict(region, Path(folder)) for region in data["regions"]]
        return cls(data["caption"], regions, data.get("background"))

    def to_json(self, path: str | Path) -> None:
        """Write the layout as a JSON file."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> Layout:
        """Read a layout file.

        Raises:
            ValueError: If the file is missing, is not JSON, or has an unknown or missing key.
            TypeError: For values of the wrong type.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path} is not a file: check the name of the layout file.")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}): fix it there.") from error
        return cls.from_dict(data, folder=path.parent)

    def to_png(self, picture: Image.Image, path: str | Path, **made: Any) -> None:
        """Write the picture as PNG with the layout in its text metadata, for `from_png`.

        Taught in notebook 11.

        Args:
            picture: The PIL image.
            path: The file to write.
            **made: How it was made, if known: `config` (a `DenseConfig`), `seed`, `steps` and
                `model` (a line for human readers).

        Raises:
            ValueError: For what `from_png` would refuse.
            TypeError: If `picture` is not a PIL image.
        """
        config = made.get("config")
        if config is not None:
            if not hasattr(config, "to_dict"):
                raise ValueError(
                    f"config is {config!r}, but only a DenseConfig can be saved in a picture."
                )
            made["config"] = config.to_dict()
        layout = self.to_dict()
        Layout.from_dict(layout)
        write_png(picture, {"layout": layout, **made}, path)

    @classmethod
    def from_png(cls, path: str | Path) -> Layout:
        """The layout of a picture that `to_png` wrote. Taught in notebook 11.

        `densenb.layout.png.read_png` also returns the other entries.

        Raises:
            ValueError: For a file without a layout, and beyond the limits: 64 MB of file, 1 MB of
                text, 2**26 pixels of picture, 2**24 pixels of painted masks.
        """
        try:
            return cls.from_dict(read_png(path)["layout"])
        except TypeError as error:
            raise ValueError(f"{path} is refused: {error}") from error


def check_layouts(layout: Layout | Sequence[Layout]) -> list[Layout]:
    """One layout, or several, as a list; ValueError for anything else."""
    layouts = [layout] if isinstance(layout, Layout) else list(layout)
    if not layouts or not all(isinstance(each, Layout) for each in layouts):
        raise ValueError(f"layout is {layout!r}, but has to be a Layout or a list of them.")
    return layouts


def against_neighbours(layout: Layout) -> Layout:
    """The layout in which each region has the other regions' phrases as its negative."""
    regions = []
    for region in layout.regions:
        phrases = (each.phrase for each in layout.regions)
        others = [phrase for phrase in phrases if phrase.lower() != region.phrase.lower()]
        regions.append(replace(region, negative=", ".join(others) or None))
    return replace(layout, regions=regions)


def cover(masks: Tensor, side: int) -> Tensor:
    """How much of each cell of side x side pixels a mask covers: `[R, H, W]` -> `[R, H/s, W/s]`.

    Cells are means, so averaging to latents first and to tokens then gives the same result.
    Taught in notebook 06.
    """
    return torch.nn.functional.avg_pool2d(masks, side)


SHAPES: dict[str, Callable[..., Mask]] = {
    "box": box,
    "ellipse": ellipse,
    "polygon": polygon,
    "mask": mask_from_png,
    "mask_png": mask_from_base64,
}
FOUR = {"box": "[x0, y0, x1, y1]", "ellipse": "[cx, cy, rx, ry]"}


def region_from_dict(data: Mapping[str, Any], folder: Path) -> Region:
    """One entry of a layout's "regions"."""
    check_keys("region", data, required=["phrase"], optional=[*SHAPES, "strength", "negative"])
    kinds = [kind for kind in SHAPES if kind in data]
    if len(kinds) != 1:
        raise ValueError(
            f"region {data['phrase']!r} has {kinds or 'no shape'}: give one of {', '.join(SHAPES)}."
        )
    (kind,) = kinds
    values = data[kind]
    if kind == "mask":
        if not isinstance(values, str):
            raise TypeError(f'mask of {data["phrase"]!r} is {values!r}: name a file, "file.png".')
        values = folder / values
    if kind in FOUR and (not isinstance(values, (list, tuple)) or len(values) != 4):
        raise ValueError(f"{kind} of {data['phrase']!r} is {values!r}: give {FOUR[kind]}.")
    mask = SHAPES[kind](*values) if kind in FOUR else SHAPES[kind](values)
    return Region(data["phrase"], mask, data.get("strength", 1.0), data.get("negative"))
