"""The log of an evaluation: one line for each finished picture, so an interrupted run can resume.

A log is a JSONL file that is only ever added to. It holds two kinds of lines:

    {"run": ID, "settings": {...}, "made_with": {...}}
    {"run": ID, "seed": 0, "scene": 12, "scores": [[...], ...], "features": "..."}

A *run* is one method on one suite by one model, with every setting that could change a picture or
its scores. Its ID is a hash of those settings, which name no device, path or batch size: another
machine can resume the run, and pictures of different settings never mix. Logs of several machines
are joined with `cat`; a picture that is in a log twice counts once. The ID does not cover the code:
after changing how a rule works, start another log.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor

from densenb.evaluation.metrics import ObjectScores

DIGITS = 5  # of a score in [0, 1]


class Key(NamedTuple):
    """Names the picture of one scene from one noise seed in one run, which is drawn only once."""

    run: str
    seed: int
    scene: int


def key_of(line: dict[str, Any]) -> Key:
    """The key of a picture's line."""
    return Key(line["run"], line["seed"], line["scene"])


def run_id(settings: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that identify settings, which must be JSON values."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def results(
    keys: Sequence[Key], scores: ObjectScores | None, features: Tensor | None
) -> list[dict[str, Any]]:
    """A line for each of B pictures: scores [B, N] of its objects, and features [B, d] in float16.

    `scores` of a line has a list for each field of `ObjectScores`, None for undefined values.
    """
    lines: list[dict[str, Any]] = [{**k._asdict(), "scores": None, "features": None} for k in keys]
    if scores is not None:
        for line, fields in zip(lines, torch.stack(scores, 1).tolist(), strict=True):
            line["scores"] = [[None if isnan(v) else round(v, DIGITS) for v in f] for f in fields]
    if features is not None:
        for line, row in zip(lines, features.half().numpy().astype("<f2"), strict=True):
            line["features"] = base64.b64encode(row.tobytes()).decode()
    return lines


def scores_of(lines: Sequence[dict[str, Any]]) -> ObjectScores:
    """The scores [len(lines), N] of pictures, from their lines."""
    values = np.array([line["scores"] for line in lines], dtype=np.float32)  # None becomes NaN
    return ObjectScores(*torch.from_numpy(values).unbind(1))


def features_of(lines: Sequence[dict[str, Any]]) -> Tensor | None:
    """The features [len(lines), d] of pictures, from their lines; None where there are none."""
    if any(line["features"] is None for line in lines):
        return None
    raw = [base64.b64decode(line["features"]) for line in lines]
    return torch.from_numpy(np.stack([np.frombuffer(row, "<f2") for row in raw])).float()


class Log:
    """Finished pictures by `Key`, in memory and, with a path, in a file.

    Several processes may add to one file at the same time: each batch is a single write.

    Args:
        path: the file; if it exists, it is read.
        leads: whether this process writes the settings of runs; one process per machine should.

    Raises:
        ValueError: when the file exists and is not such a log.
    """

    def __init__(self, path: Path | None = None, leads: bool = True):
        self.path, self.leads = path, leads
        self.settings: dict[str, dict[str, Any]] = {}
        self.lines: dict[Key, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._read()

    def _read(self) -> None:
        raw = self.path.read_bytes()
        torn = 0
        for text in filter(None, raw.splitlines()):
            try:
                line = json.loads(text)
                if "settings" in line:
                    self.settings[line["run"]] = line["settings"]
                else:
                    self.lines[key_of(line)] = line
            except (ValueError, KeyError, TypeError):
                torn += 1
        if raw and not self.settings:
            raise ValueError(
                f"{self.path} is not a log of `densenb evaluate`: name another file, or one that "
                "does not exist yet."
            )
        if torn:
            warnings.warn(
                f"{self.path} has {torn} broken line(s), as happens when a run is killed while "
                "writing: their pictures are drawn again.",
                stacklevel=3,
            )
        if raw and not raw.endswith(b"\n"):
            self._write(b"\n")  # so that the next line does not continue the torn one

    def _write(self, data: bytes) -> None:
        with open(
            self.path, "ab", buffering=0
        ) as file:  # append: processes do not overwrite each other
            file.write(data)
            os.fsync(file.fileno())

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        if self.path is not None and lines:
            texts = (json.dumps(line, separators=(",", ":"), allow_nan=False) for line in lines)
            self._write("".join(f"{text}\n" for text in texts).encode())

    def start(self, settings: dict[str, Any]) -> str:
        """The ID of a run; its settings are written when they are new.

        Warns when the file has the same method and suite with other settings, and names them.
        """
        settings = json.loads(json.dumps(settings))  # as it is read back: a tuple becomes a list
        run = run_id(settings)
        if run not in self.settings:
            changes = [_changed(settings, other) for other in self.settings.values()]
            if self.leads and any(changes):
                fewest = min(filter(None, changes), key=len)
                warnings.warn(
                    f"{self.path or 'the log'} also has pictures of other {fewest}: they are kept, "
                    "but do not count here.",
                    stacklevel=3,
                )
            self.settings[run] = settings
            if self.leads:
                self._append([{"run": run, "settings": settings, "made_with": versions()}])
        return run

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Keep lines of `results`, in the file too."""
        self.lines |= {key_of(line): line for line in lines}
        self._append(lines)

    def merge(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take over lines of other processes, and write those that are not in this file.

        Processes of one machine share the file; other machines may have their own.
        """
        others = [line for line in lines if key_of(line) not in self.lines]
        shared = {} if self.path is None else Log(self.path).lines
        self.lines |= {key_of(line): line for line in others}
        self._append([line for line in others if key_of(line) not in shared])

    def of_run(self, run: str, seeds: Sequence[int], scenes: int) -> list[dict[str, Any]]:
        """The lines of a finished run: all scenes of the first seed, then of the next."""
        return [self.lines[Key(run, seed, scene)] for seed in seeds for scene in range(scenes)]


def _changed(settings: dict[str, Any], other: dict[str, Any]) -> str:
    """The settings in which two runs of one method and suite differ; empty for other runs."""
    if any(settings[name] != other[name] for name in ("method", "suite")):
        return ""
    names = {**settings, **other}
    return ", ".join(name for name in names if settings.get(name) != other.get(name))


def versions() -> dict[str, str]:
    """The software that made a line, for the record: it is not part of a run's ID."""
    libraries = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    return {"python": platform.python_version()} | libraries
