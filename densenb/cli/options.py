"""What commands share: options, their values, and checks to make before the work."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import densenb as dnb

if TYPE_CHECKING:
    from densenb.models.pipeline import Pipeline


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"densenb: error: {message} (see {self.prog} --help)\n")


# ---------------------------------------------------------------------------------------- options
def add_model(command: argparse.ArgumentParser) -> None:
    """`--model` and `--no-t5`."""
    command.add_argument(
        "--model", default="tiny", help="tiny, medium, large or a folder (default: %(default)s)"
    )
    command.add_argument(
        "--no-t5", action="store_true", help="leave T5 out: less memory, weaker on long prompts"
    )


def add_sampling(command: argparse.ArgumentParser) -> None:
    """The model's options, and how it samples."""
    add_model(command)
    command.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="float32 gives the same pictures everywhere, bfloat16 is faster on a GPU (default: "
        "float32; for medium and large, what the memory plan says)",
    )
    command.add_argument("--steps", type=count, help="sampling steps (default: the model's own)")
    command.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def seeds(text: str) -> list[int]:
    """Seeds such as 0,1,2, each once."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers like 0,1,2")
    return list(dict.fromkeys(map(int, text.split(","))))


def names(text: str) -> list[str]:
    """Names between commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


# ----------------------------------------------------------------------------- before the work
def folder(path: Path) -> None:
    """Create a folder, and check that it can be written to."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise ValueError(f"{path} cannot be written to: choose another folder.")


def file(path: Path) -> None:
    """Check that a file can be written, and create its folder."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it.")
    folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} cannot be written to: choose another file.")


def read_layout(path: Path) -> dnb.Layout:
    """The layout in a file; ValueError for any mistake in it."""
    try:
        return dnb.Layout.from_json(path)
    except TypeError as error:  # a value of the wrong type: the user's mistake, not a bug
        raise ValueError(f"{path}: {error}") from error


def load(options: argparse.Namespace, device: str) -> Pipeline:
    """The pipeline that the options of `add_sampling` describe."""
    import torch

    dtype = options.dtype and getattr(torch, options.dtype)
    return dnb.load(options.model, device, dtype, t5=not options.no_t5)


def warn_unknown_words(pipe: Pipeline, layout: Any) -> None:
    """Warn about words that the miniature never saw in training."""
    if dnb.tier(pipe).name != "tiny":
        return
    from densenb.miniature.vocabulary import unknown_words

    for word, near in unknown_words(layout.text).items():
        hint = f"; near words it knows: {', '.join(near)}" if near else ""
        warnings.warn(f"the miniature never saw the word {word!r}{hint}.", stacklevel=2)
