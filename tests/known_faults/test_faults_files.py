"""Layout files and pictures that carry one: what is read, what is refused, what is overwritten."""

from __future__ import annotations

import base64
import codecs
import io
import json

import numpy as np
import pytest
from fault_helpers import Failed, TooSlow, cat_and_umbrella, full_disk, within
from PIL import Image

import densenb as dnb
from densenb.cli.main import main

GOOD = {
    "caption": "a blue cat",
    "regions": [{"phrase": "a blue cat", "box": [0, 0, 0.5, 1]}],
}
TEXT = json.dumps(GOOD)


def read(folder, text):
    """The layout of a file with this text, or these bytes."""
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / "read.json").write_bytes(raw)
    return dnb.Layout.from_json(folder / "read.json")


# ------------------------------------------------------------------------- as other tools write it
@pytest.mark.xfail(strict=True, raises=ValueError, reason="only UTF-8 without a mark is read")
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(codecs.BOM_UTF8 + TEXT.encode(), id="UTF-8 with a byte order mark"),
        pytest.param(TEXT.encode("utf-16"), id="UTF-16, as PowerShell writes it"),
    ],
)
def test_files_as_windows_writes_them_are_read(raw, tmp_path):
    assert read(tmp_path, raw) == dnb.Layout.from_dict(GOOD)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="only JSON is read")
def test_the_command_line_takes_a_picture_that_carries_its_layout(tmp_path):
    cat_and_umbrella().to_png(Image.new("RGB", (64, 64)), tmp_path / "picture.png")
    assert main(["preview", "--layout", str(tmp_path / "picture.png")]) == 0


# ------------------------------------------------------------------------------------ what is wrong
@pytest.mark.xfail(strict=True, raises=RecursionError, reason="A9")
def test_deep_nesting_is_refused(tmp_path):
    with pytest.raises(ValueError, match="read.json"):
        read(tmp_path, "[" * 100_000 + "]" * 100_000)


@pytest.mark.xfail(strict=True, raises=Failed, reason="the last one wins")
def test_a_key_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="box"):
        read(tmp_path, TEXT.replace('"box"', '"box": [0.5, 0, 1, 1], "box"'))


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="all of the file is repeated")
def test_a_message_about_a_large_file_is_short(tmp_path):
    with pytest.raises((TypeError, ValueError)) as refused:
        read(tmp_path, json.dumps([{"bbox": [1, 2, 3, 4]}] * 20_000))  # results of COCO
    assert len(str(refused.value)) < 1000


@pytest.mark.xfail(strict=True, raises=OSError, reason="A13: the file system's error")
def test_the_name_of_a_mask_that_is_too_long_is_refused(tmp_path):
    region = {"phrase": "a blue cat", "mask": "a" * 300 + ".png"}
    with pytest.raises(ValueError, match="mask"):
        read(tmp_path, json.dumps(GOOD | {"regions": [region]}))


@pytest.mark.xfail(strict=True, raises=Failed, reason="A13: it is opened")
@pytest.mark.parametrize("absolute", [True, False])
def test_a_mask_outside_of_the_layouts_folder_is_refused(absolute, tmp_path):
    (tmp_path / "layouts").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "secret.png")
    name = str(tmp_path / "secret.png") if absolute else "../secret.png"
    region = {"phrase": "a blue cat", "mask": name}
    with pytest.raises(ValueError, match="secret.png"):
        read(tmp_path / "layouts", json.dumps(GOOD | {"regions": [region]}))


# ------------------------------------------------------------------------------ what is too much
def blank(width, height):
    """A white PNG of some hundred bytes."""
    file = io.BytesIO()
    Image.new("1", (width, height), 1).save(file, "PNG")
    return file.getvalue()


def with_mask(width, height):
    """A layout whose mask has that many pixels, as the text of a file."""
    mask = base64.b64encode(blank(width, height)).decode()
    return GOOD | {"regions": [{"phrase": "a blue cat", "mask_png": mask}]}


@pytest.mark.xfail(strict=True, raises=Failed, reason="A5: only their product has a limit")
@pytest.mark.parametrize("kind", ["mask", "layout", "picture"])
def test_an_endlessly_long_mask_is_refused(kind, tmp_path):
    width, path = 2**20, tmp_path / "long.png"
    if kind == "mask":
        path.write_bytes(blank(width, 1))
        with pytest.raises(ValueError, match=str(width)):
            dnb.mask_from_png(path)
    elif kind == "layout":
        with pytest.raises(ValueError, match=str(width)):
            read(tmp_path, json.dumps(with_mask(width, 1)))
    else:
        layout = dnb.Layout.from_dict(with_mask(width, 1))
        layout.to_png(Image.new("RGB", (8, 8)), path)
        with pytest.raises(ValueError, match=str(width)):
            dnb.Layout.from_png(path)


@pytest.mark.xfail(strict=True, raises=Failed, reason="A5: only pictures have it")
def test_a_layout_file_has_the_limits_of_a_picture(tmp_path):
    with pytest.raises(ValueError, match="pixels"):
        read(tmp_path, json.dumps(with_mask(4100, 4100)))


@pytest.mark.xfail(strict=True, raises=TooSlow, reason="A5: the time is cubic")
def test_thousands_of_regions_are_refused_at_once(tmp_path):
    regions = [{"phrase": "a", "box": [0, 0, 1, 1]}] * 2000
    with within(2), pytest.raises(ValueError, match="2000"):
        read(tmp_path, json.dumps({"caption": "a " * 2000, "regions": regions}))


# ---------------------------------------------------------------------------- what is overwritten
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A6: an empty file is left")
def test_a_layout_file_survives_a_text_that_cannot_be_written(tmp_path):
    path = tmp_path / "layout.json"
    path.write_text(TEXT)
    with pytest.raises(ValueError):
        dnb.Layout("a cat \ud800", [dnb.Region("a cat", dnb.box(0, 0, 1, 1))]).to_json(path)
    assert path.read_text() == TEXT


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A6: a cut file is left")
@pytest.mark.parametrize("suffix", ["json", "png"])
def test_what_is_overwritten_survives_a_full_disk(suffix, tmp_path):
    path, noise = tmp_path / f"layout.{suffix}", np.random.default_rng(0).random((128, 128))
    path.write_text("as it was")
    layout = dnb.Layout("a cat", [dnb.Region("a cat", noise)])
    with full_disk(4096), pytest.raises(OSError):
        if suffix == "json":
            layout.to_json(path)
        else:
            layout.to_png(Image.fromarray((noise * 255).astype(np.uint8)), path)
    assert path.read_bytes() == b"as it was"


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A6: a cut file is left")
def test_a_picture_survives_a_full_disk_during_generate(layout_file, tmp_path):
    old = tmp_path / "seed-0.png"
    old.write_text("as it was")
    with full_disk(4096):
        asked = ["generate", "--layout", str(layout_file), "--out", str(tmp_path), "--steps", "1"]
        assert main(asked) == 2
    assert old.read_bytes() == b"as it was"
