"""A layout inside its picture: an exact round trip, limits, and no side effects."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

import densenb as dnb
from densenb.layout import png
from densenb.layout.png import KEY, read_png, write_png
from densenb.modulation.baselines import HardMask

PAINTED = torch.zeros(32, 48)
PAINTED[4:20, 8:30] = 0.6
LAYOUT = dnb.Layout(
    'a blue cat, "an orange umbrella" and ein Käfer in a rose garden at night',
    [
        dnb.Region("a blue cat", dnb.box(0.123456789, 0.42, 0.95, 0.97), strength=0.5),
        dnb.Region("an orange umbrella", dnb.ellipse(0.28, 0.28, 0.23, 0.23), negative="a cat"),
        dnb.Region("ein Käfer", PAINTED),
        dnb.Region("a rose garden", dnb.polygon([(0.1, 0.1), (0.5, 0.1), (0.3, 0.4)])),
    ],
    background="night",
)
PICTURE = Image.effect_noise((40, 24), 60).convert("RGB")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "picture.png"


def written(path: Path, text: str, key: str = KEY, size: tuple[int, int] = (8, 8)) -> Path:
    """A PNG with text in its metadata that densenb did not write."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, text, zip=True)
    Image.new("RGB", size).save(path, pnginfo=info)
    return path


def about(**changes) -> dict:
    return {"format": png.FORMAT, "layout": LAYOUT.to_dict()} | changes


def region(**mask) -> dict:
    """A layout of one region as JSON data."""
    return {"caption": "a cat", "regions": [{"phrase": "a cat", **mask}]}


CUT = LAYOUT.regions[2].mask.to_dict()["mask_png"][:-40]  # cut off


# --------------------------------------------------------------------------------------- round trip
def test_layout_and_picture_come_back_exactly(path):
    LAYOUT.to_png(PICTURE, path)
    assert dnb.Layout.from_png(path) == LAYOUT
    assert Image.open(path).tobytes() == PICTURE.tobytes()


def test_the_picture_says_how_it_was_made(path):
    config = dnb.DenseConfig(window=0.5, special_tokens="background", blocks=[1, 2])
    LAYOUT.to_png(PICTURE, path, config=config, seed=7, steps=12, model="miniature")
    made = read_png(path)
    assert dnb.Layout.from_dict(made["layout"]) == LAYOUT
    assert dnb.DenseConfig.from_dict(json.loads(json.dumps(made["config"]))) == config
    assert (made["seed"], made["steps"], made["model"]) == (7, 12, "miniature")
    LAYOUT.to_png(PICTURE, path)
    assert read_png(path) == {"layout": LAYOUT.to_dict(), **dict.fromkeys(png.OPTIONAL)}


def test_the_text_is_an_itxt_chunk_that_others_can_read(path):
    LAYOUT.to_png(PICTURE, path)
    assert b"iTXt" + KEY.encode() + b"\0" in path.read_bytes()
    text = Image.open(path).text[KEY]
    assert isinstance(text, PngImagePlugin.iTXt)
    assert json.loads(text)["layout"] == LAYOUT.to_dict()


# ------------------------------------------------------------------------------------ refused files
def test_files_without_a_layout(path, tmp_path):
    with pytest.raises(ValueError, match="not a file"):
        dnb.Layout.from_png(path)
    PICTURE.save(path)
    with pytest.raises(ValueError, match="carries no layout"):
        dnb.Layout.from_png(path)
    written(path, json.dumps(about()), key="other")
    with pytest.raises(ValueError, match="carries no layout"):
        dnb.Layout.from_png(path)
    for name, content in (("a.jpg", None), ("text.png", b"hello"), ("cut.png", b"\x89PNG\r\n")):
        file = tmp_path / name
        PICTURE.save(file) if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a PNG"):
            dnb.Layout.from_png(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('hello')", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object"),
        (json.dumps(about(format="other")), "format is 'other'"),
        (json.dumps(about(code="import os")), 'unknown key "code"'),
        (json.dumps({"format": png.FORMAT}), 'has no "layout"'),
        (json.dumps(about(layout={"caption": "a cat", "regions": 3})), "must be a list"),
        (json.dumps(about(layout={"caption": "a cat", "regions": [3]})), "must be an object"),
        (json.dumps(about(seed="1")), "seed is '1'"),
        (json.dumps(about(steps=True)), "steps is True"),
        (json.dumps(about(layout=region(box=[10**400, 0, 1, 1]))), "must be finite"),
        (json.dumps(about(layout=region(mask_png=CUT))), "whole PNG"),
    ],
)
def test_other_text_is_refused(path, text, message):
    with pytest.raises(ValueError, match=message):
        dnb.Layout.from_png(written(path, text))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"window": 2}, "window"),
        ({"decay": 10**400}, "decay is"),
        ({"windows": 1}, 'did you mean "window"'),
    ],
)
def test_other_settings_are_refused(path, setting, message):
    made = read_png(written(path, json.dumps(about(config=setting))))
    with pytest.raises(ValueError, match=message):
        dnb.DenseConfig.from_dict(made["config"])


def test_no_other_file_is_opened(path, tmp_path):
    PICTURE.save(tmp_path / "mask.png")
    for name in ("mask.png", str(tmp_path / "mask.png")):
        region = {"phrase": "a cat", "mask": name}
        layout = {"caption": "a cat", "regions": [region]}
        with pytest.raises(ValueError, match="names another file"):
            read_png(written(path, json.dumps(about(layout=layout))))


# ------------------------------------------------------------------------------------------- limits
def test_a_large_file_is_refused_unread(path, monkeypatch):
    LAYOUT.to_png(PICTURE, path)
    monkeypatch.setattr(png, "LARGEST_FILE", path.stat().st_size - 1)
    with pytest.raises(ValueError, match="MB, but at most"):
        read_png(path)


def test_a_text_that_unpacks_to_too_much_is_refused(path):
    packed = zlib.compress(b" " * (png.LARGEST_TEXT + 1))
    body = KEY.encode() + b"\0\1\0\0\0" + packed
    PICTURE.save(path)
    data = path.read_bytes()
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body
    chunk += struct.pack(">I", zlib.crc32(b"iTXt" + body))
    path.write_bytes(data[:33] + chunk + data[33:])  # after the signature and IHDR
    with pytest.raises(ValueError, match="refused"):
        read_png(path)


def test_a_long_text_is_refused_packed_or_not(path, monkeypatch):
    LAYOUT.to_png(PICTURE, path)
    monkeypatch.setattr(png, "LARGEST_TEXT", 500)
    with pytest.raises(ValueError, match="more than"):
        read_png(path)
    with pytest.raises(ValueError, match="fewer pixels"):
        LAYOUT.to_png(PICTURE, path)


def test_a_large_picture_is_refused_without_its_pixels(path, monkeypatch):
    LAYOUT.to_png(PICTURE, path)
    expected = LAYOUT.to_dict()
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were read"))
    monkeypatch.setattr(png, "check_masks", lambda layout: None)
    assert read_png(path)["layout"] == expected
    monkeypatch.setattr(png, "LARGEST_PICTURE", 40 * 24 - 1)
    with pytest.raises(ValueError, match="40 x 24 pixels are more"):
        read_png(path)


def test_masks_that_unpack_to_too_much_are_refused_before_they_do(path, monkeypatch):
    side = 5000
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, format="PNG")
    assert len(file.getvalue()) < 10_000 and side**2 > png.LARGEST_MASKS
    region = {"phrase": "a cat", "mask_png": base64.b64encode(file.getvalue()).decode()}
    layout = {"caption": "a cat", "regions": [region]}
    written(path, json.dumps(about(layout=layout)))
    monkeypatch.setattr(dnb.Layout, "from_dict", lambda data: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match="25000000 pixels together"):
        read_png(path)


def test_what_cannot_be_read_is_not_written(path, monkeypatch):
    with pytest.raises(TypeError, match="PIL image"):
        write_png(PAINTED, {"layout": LAYOUT.to_dict()}, path)
    with pytest.raises(ValueError, match="only a DenseConfig"):
        LAYOUT.to_png(PICTURE, path, config=HardMask())
    for made in ({"seed": -1}, {"steps": 2.5}):
        with pytest.raises(ValueError, match="could not be read again: .*(seed|steps)"):
            LAYOUT.to_png(PICTURE, path, **made)
    monkeypatch.setattr(png, "LARGEST_MASKS", 32 * 48 - 1)
    with pytest.raises(ValueError, match="painted masks"):
        LAYOUT.to_png(PICTURE, path)
    assert not path.exists()
