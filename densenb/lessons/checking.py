"""What every check of an exercise is made of: it prints "ok: ..." or raises `CheckFailed`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

EXERCISES: dict[str, tuple[str, ...]] = {}
"""Every check by name, and the notebooks that have an exercise for it."""

PASSED: dict[str, list[str]] = {}
"""The checks passed in this session by name, and what each said about the right answers."""


class CheckFailed(AssertionError):
    """An answer that is not right yet; notebooks show the message alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks an exception for
        return [f"not yet: {self}"]


def exercise(*notebooks: str) -> Callable[[Callable[..., str]], Callable[..., None]]:
    """Register a check as an exercise of these notebooks, e.g. `@exercise("02", "03")`.

    The check raises `CheckFailed` for a wrong answer. For a right one it returns a message, which
    is printed as "ok: ..." and kept for the hand-in file.
    """

    def register(check: Callable[..., str]) -> Callable[..., None]:
        name = check.__name__
        EXERCISES[name] = notebooks

        @functools.wraps(check)
        def checked(*args: Any, **kwargs: Any) -> None:
            message = check(*args, **kwargs)
            said = PASSED.setdefault(name, [])
            if message not in said:
                said.append(message)
            print(f"ok: {message}")

        return checked

    return register


def diagnose(
    found: Any, mistakes: dict[str, Any], right: Any, otherwise: str, **tolerance: float
) -> None:
    """Raise `CheckFailed` with the best advice, unless an answer is the right one.

    Args:
        found: The answer: a number, several numbers or a tensor.
        mistakes: Each known mistake by its advice, in the order in which they are tried: the wrong
            answer it leads to, a list of such answers, or a bool: whether it was made.
        right: The right answer.
        otherwise: The advice for an answer that is wrong in some other way.
        **tolerance: `atol` and `rtol` as for `near`.
    """
    for advice, wrong in mistakes.items():
        if getattr(wrong, "dtype", type(wrong)) not in (bool, torch.bool):
            answers = wrong if isinstance(wrong, list) else [wrong]
            wrong = any(near(found, answer, **tolerance) for answer in answers)
        expect(not wrong, advice)
    expect(near(found, right, **tolerance), otherwise)


def near(found: Any, wanted: Any, *, atol: float = 1e-5, rtol: float = 1e-5) -> bool:
    """Whether two answers (numbers, several numbers or tensors) are nearly equal."""
    one, two = (torch.as_tensor(answer, dtype=torch.float64) for answer in (found, wanted))
    return torch.allclose(one, two, atol=atol, rtol=rtol)


def expect(right: Any, message: str) -> None:
    """Raise `CheckFailed` with the message unless `right` holds."""
    if not right:
        raise CheckFailed(message)


def expect_form(found: Any, form: torch.Size | bool, wanted: str) -> None:
    """Raise `CheckFailed` unless an answer has the right form, which `wanted` describes.

    form: the shape of a tensor; for other answers, whether their form is right.
    """
    right = form if isinstance(form, bool) else torch.is_tensor(found) and found.shape == form
    expect(right, f"this gives {described(found)}, not {wanted}")


def expect_numbers(*guesses: Any) -> None:
    """Raise `CheckFailed` unless every prediction is a number."""
    for guess in guesses:
        number = isinstance(guess, (int, float)) and not isinstance(guess, bool)
        expect(number, f"this is {described(guess)}, not a number: write your prediction.")


def described(value: Any) -> str:
    """A few words about the type of an answer."""
    if torch.is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"
