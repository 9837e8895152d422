"""Checks shared by the whole library: each error names the value, the rule and the fix."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether `value` is a whole number, of any library; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_number(name: str, value: Any, high: float = sys.float_info.max) -> int | float:
    """`value` as a Python int or float; ValueError unless it is from 0 to `high`."""
    own: int | float = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        own = int(value) if isinstance(value, Integral) else float(value)
    if not 0 <= own <= high:
        bound = "of at least 0" if high > 1 else f"from 0 to {high:g}"
        raise ValueError(f"{name} is {value!r:.40}, but has to be a finite number {bound}.")
    return own


def check_numbers(name: str, values: Sequence[Any]) -> list[float]:
    """`values` as finite floats; TypeError or ValueError for anything else."""
    floats = []
    for value in values:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
            raise TypeError(f"{name} needs numbers, got {value!r}: write e.g. 0.25.")
        try:
            floats.append(float(value))
        except OverflowError:  # a whole number larger than any float
            floats.append(math.inf)
        if not math.isfinite(floats[-1]):
            raise ValueError(f"{name} got {value!s:.40}: numbers must be finite. Write e.g. 0.25.")
    return floats


def check_count(name: str, value: Any) -> None:
    """TypeError unless `value` is a whole number, ValueError unless it is at least 1."""
    if not is_whole(value):
        raise TypeError(f"{name} must be an int, got {value!r}: round it first.")
    if value < 1:
        raise ValueError(f"{name} is {value}, but has to be at least 1.")


def check_indices(
    name: str, values: Any, last: int | None = None, instead: str = "None"
) -> tuple[int, ...]:
    """The numbers, sorted, each once; ValueError unless all are from 0 (to `last`)."""
    given = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else ()
    if not given or not all(is_whole(n) and 0 <= n <= (n if last is None else last) for n in given):
        limit = "counted from 0" if last is None else f"from 0 to {last}"
        raise ValueError(
            f"{name} is {values!r}, but has to list {name[:-1]} numbers, {limit}, or be {instead}."
        )
    return tuple(sorted(set(map(int, given))))


def check_one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """ValueError unless the value is one of the choices."""
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}, but has to be {allowed}.")


def check_keys(what: str, data: Any, required: list[str], optional: list[str]) -> None:
    """TypeError unless `data` is a mapping, ValueError for unknown or missing keys."""
    known = [*required, *optional]
    if not isinstance(data, Mapping):
        raise TypeError(f"{what} must be an object with keys {', '.join(known)}, got {data!r}.")
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            fix = f'did you mean "{near[0]}"?' if near else f"known keys are {', '.join(known)}."
            raise ValueError(f'unknown key "{key}" in the {what}: {fix}')
    for key in required:
        if key not in data:
            raise ValueError(f'the {what} has no "{key}": add it, e.g. "{key}": ...')
