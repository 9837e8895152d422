"""The command line, `densenb`: one file per command.

Start with `main.py`. Each command's file has its options (`add`) and its work (`run`), and imports
what takes seconds (torch, diffusers, transformers, matplotlib) only inside the work, so that help
and wrong options are answered at once. `options.py` has what commands share, `cases.py` the prompts
of the demo and the gallery.
"""

from densenb.cli.main import main

__all__ = ["main"]
