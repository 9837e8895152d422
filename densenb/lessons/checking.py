"""What every check of an exercise is made of: it prints "ok: ..." or raises `CheckFailed`."""

from __future__ import annotations

import inspect
from typing import Any

import torch

PASSED: dict[str, list[str]] = {}
"""What was answered right in this session, for `checks.report`: what each check said, by name."""


class CheckFailed(AssertionError):
    """An answer that is not right yet; notebooks show the message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks an exception for
        return [f"not yet: {self}"]


def passed(message: str) -> None:
    """Say that an answer is right, and keep it under the name of the check that calls this."""
    said = PASSED.setdefault(inspect.currentframe().f_back.f_code.co_name, [])
    if message not in said:
        said.append(message)
    print(f"ok: {message}")


def expect(right: Any, message: str) -> None:
    """Raise `CheckFailed` with the message unless `right` holds."""
    if not right:
        raise CheckFailed(message)


def described(value: Any) -> str:
    """A few words for what an answer gave."""
    if torch.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"
