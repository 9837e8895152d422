"""The command line: `densenb demo | generate | preview | evaluate | doctor | gallery`.

An error that the user can fix is one line on stderr and exit code 2, before any long work.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from densenb import __version__
from densenb.cli import demo, doctor, evaluate, gallery, generate, preview
from densenb.cli.options import Parser

COMMANDS = (demo, generate, preview, evaluate, doctor, gallery)
ADVICE = {
    "dtype=torch.float32": "--dtype float32",
    "or torch.bfloat16": "or --dtype bfloat16",
    "t5=False": "--no-t5",
    'load("tiny")': "--model tiny",
}
"""What an error tells a programmer to write -> the option that does the same here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 2 (an error to fix) or 130 (interrupted)."""
    options = parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            _quiet_libraries()
            options.run(options)
        except (ValueError, OSError, RuntimeError) as error:
            message = _message(error)
            if message is None:
                raise
            print(f"densenb: error: {message}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("densenb: interrupted", file=sys.stderr)
            return 130
    return 0


def parser() -> Parser:
    """All commands with their options."""
    top = Parser(prog="densenb", description="Layout control for Stable Diffusion 3.5.")
    top.add_argument("--version", action="version", version=f"densenb {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return top


def _quiet_libraries() -> None:
    """Keep the libraries' advice for developers out of our output."""
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        library.utils.logging.set_verbosity_error()


def _message(error: Exception) -> str | None:
    """What the user can fix, in one line, naming our options; None if the error is a bug."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError):
        import torch

        from densenb.models.overflow import Overflow

        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
            return (
                "there is not enough memory: choose a smaller --model, leave T5 out (--no-t5), or "
                "evaluate fewer pictures at a time (--batch-size)."
            )
        if not isinstance(error, Overflow):
            return None
    for code, option in ADVICE.items():
        text = text.replace(code, option)
    return text


def _show_warning(message: Any, category: Any, *rest: Any) -> None:
    print(f"densenb: warning: {message}", file=sys.stderr)
