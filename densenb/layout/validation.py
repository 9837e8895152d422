"""Checks shared by the whole library: each error names the value, the rule and the fix."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any


def check_size(name: str, value: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r}: round it first.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def numbers(name: str, values: Sequence[Any]) -> list[float]:
    """Finite floats, or an error that names the culprit."""
    floats = []
    for value in values:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name} needs numbers, got {value!r}: write e.g. 0.25.")
        try:
            floats.append(float(value))
        except OverflowError:  # a whole number beyond all floats
            floats.append(math.inf)
        if not math.isfinite(floats[-1]):
            raise ValueError(f"{name} got {value!s:.40}: numbers must be finite. Write e.g. 0.25.")
    return floats


def check_keys(what: str, data: Any, required: list[str], optional: list[str]) -> None:
    known = [*required, *optional]
    if not isinstance(data, Mapping):
        raise TypeError(f"{what} must be an object with keys {', '.join(known)}, got {data!r}.")
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            mend = f'did you mean "{near[0]}"?' if near else f"known keys are {', '.join(known)}."
            raise ValueError(f'unknown key "{key}" in the {what}: {mend}')
    for key in required:
        if key not in data:
            raise ValueError(f'the {what} has no "{key}": add it, e.g. "{key}": ...')


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of whichever library; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_one_of(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}, but has to be {allowed}.")


def check_indices(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = tuple(value) if isinstance(value, Iterable) else ()
    if not numbers or not all(is_whole(number) and number >= 0 for number in numbers):
        raise ValueError(
            f"{name} is {value!r}, but has to list {name[:-1]} numbers, counted from 0, or be None "
            f"for all {name}."
        )
    return tuple(map(int, numbers))
