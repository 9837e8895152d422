"""The command line, `densenb`: one file for each command; `main.py` has the options."""

from densenb.cli.main import main

__all__ = ["main"]
