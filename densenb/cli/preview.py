"""`densenb preview`: what the model will see of a layout file."""

from __future__ import annotations

import argparse
from pathlib import Path

import densenb as dnb
from densenb.cli.options import add_model, file, read_layout, warn_unknown_words


def add(commands: argparse._SubParsersAction) -> None:
    """The command's options."""
    command = commands.add_parser("preview", help="show what the model will see of a layout file")
    command.add_argument("--layout", type=Path, required=True, help="layout file, JSON")
    command.add_argument("--out", type=Path, help="also draw the regions into this PNG")
    add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the preview; draw the regions on the token grid where `--out` says."""
    layout = read_layout(options.layout)
    if options.out:
        file(options.out)
    from densenb.layout.layout import TOKEN_PIXELS
    from densenb.plots.layouts import token_grid

    pipe = dnb.load(options.model, t5=not options.no_t5)
    warn_unknown_words(pipe, layout)
    seen = dnb.preview(layout, pipe)
    print(seen)
    if options.out:
        grid = seen.height // TOKEN_PIXELS, seen.width // TOKEN_PIXELS
        token_grid(layout, *grid).savefig(options.out, dpi=120)
        print(f"wrote {options.out}")
