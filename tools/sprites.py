#!/usr/bin/env python
"""Make the sheet of sprites again from Fluent Emoji 3D by Microsoft (MIT, see NOTICE).

    python tools/sprites.py

Fetches the artwork with `npm` and writes densenb/miniature/assets/sprites.webp. Nouns and their
order are those of `densenb.miniature.sprites`; this file knows the artwork of each.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

from densenb.miniature.sprites import COLUMNS, NAMES, SHEET, TILE

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
# noun -> file name (Unicode code point)
ARTWORK = {
    "cat": "1f408",
    "dog": "1f415",
    "rabbit": "1f407",
    "fox": "1f98a",
    "bear": "1f43b",
    "panda": "1f43c",
    "lion": "1f981",
    "horse": "1f40e",
    "cow": "1f404",
    "pig": "1f416",
    "sheep": "1f411",
    "elephant": "1f418",
    "giraffe": "1f992",
    "camel": "1f42a",
    "kangaroo": "1f998",
    "monkey": "1f412",
    "gorilla": "1f98d",
    "mouse": "1f401",
    "hedgehog": "1f994",
    "squirrel": "1f43f-fe0f",
    "bat": "1f987",
    "penguin": "1f427",
    "owl": "1f989",
    "duck": "1f986",
    "rooster": "1f413",
    "parrot": "1f99c",
    "peacock": "1f99a",
    "flamingo": "1f9a9",
    "swan": "1f9a2",
    "turtle": "1f422",
    "frog": "1f438",
    "snake": "1f40d",
    "crocodile": "1f40a",
    "dinosaur": "1f996",
    "whale": "1f433",
    "dolphin": "1f42c",
    "fish": "1f420",
    "octopus": "1f419",
    "squid": "1f991",
    "crab": "1f980",
    "lobster": "1f99e",
    "butterfly": "1f98b",
    "bee": "1f41d",
    "ladybug": "1f41e",
    "snail": "1f40c",
    "dragon": "1f409",
    "unicorn": "1f984",
    "umbrella": "2602-fe0f",
    "balloon": "1f388",
    "car": "1f697",
    "bus": "1f68c",
    "bicycle": "1f6b2",
    "airplane": "2708-fe0f",
    "helicopter": "1f681",
    "rocket": "1f680",
    "sailboat": "26f5",
    "train": "1f682",
    "tractor": "1f69c",
    "castle": "1f3f0",
    "house": "1f3e0",
    "tent": "26fa",
    "guitar": "1f3b8",
    "violin": "1f3bb",
    "trumpet": "1f3ba",
    "drum": "1f941",
    "camera": "1f4f7",
    "telephone": "260e-fe0f",
    "clock": "23f0",
    "key": "1f511",
    "lantern": "1f3ee",
    "candle": "1f56f-fe0f",
    "book": "1f4d5",
    "chair": "1fa91",
    "bell": "1f514",
    "trophy": "1f3c6",
    "crown": "1f451",
    "hat": "1f3a9",
    "dress": "1f457",
    "shoe": "1f45f",
    "backpack": "1f392",
    "gift": "1f381",
    "teapot": "1fad6",
    "robot": "1f916",
    "kite": "1fa81",
    "ball": "26bd",
    "heart": "2764-fe0f",
    "star": "2b50",
    "apple": "1f34e",
    "banana": "1f34c",
    "pear": "1f350",
    "pineapple": "1f34d",
    "strawberry": "1f353",
    "watermelon": "1f349",
    "pumpkin": "1f383",
    "carrot": "1f955",
    "mushroom": "1f344",
    "cake": "1f382",
    "pizza": "1f355",
    "burger": "1f354",
    "cactus": "1f335",
    "rose": "1f339",
    "tulip": "1f337",
    "pine": "1f332",
}


def _fitted(path: Path) -> Image.Image:
    """The artwork cropped to what is visible, centered, its longer side filling the tile."""
    art = Image.open(path).convert("RGBA")
    art = art.crop(art.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = (TILE - 4) / max(art.size)  # a 2 px rim keeps bilinear sampling from cutting edges
    art = art.resize([max(1, round(side * scale)) for side in art.size], Image.Resampling.LANCZOS)
    fitted = Image.new("RGBA", (TILE, TILE))
    fitted.paste(art, ((TILE - art.width) // 2, (TILE - art.height) // 2))
    return fitted


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", PACKAGE]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(Path(folder) / packed.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(folder, filter="data")
        rows = -(-len(NAMES) // COLUMNS)
        sheet = Image.new("RGBA", (COLUMNS * TILE, rows * TILE))
        for i, name in enumerate(NAMES):
            art = _fitted(Path(folder) / "package" / "assets" / f"{ARTWORK[name]}.webp")
            sheet.paste(art, (i % COLUMNS * TILE, i // COLUMNS * TILE))
    sheet.save(SHEET, quality=88, method=6)
    print(f"{len(NAMES)} sprites, {SHEET.stat().st_size / 1e6:.1f} MB: {SHEET}")


if __name__ == "__main__":
    main()
