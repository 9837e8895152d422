"""What a hand does with the widgets of a page: find one by its label, press keys, write, drag."""

from __future__ import annotations

import re
from typing import Any


def row(cell: Any, label: str) -> Any:
    """The widget with this description; all of them, when several have it."""
    name = cell.page.locator(".widget-label", has_text=re.compile(f"^{re.escape(label)}$"))
    return cell.locator(".widget-inline-hbox", has=name)


def handle(cell: Any, label: str, number: int = 0) -> Any:
    """The handle of the slider with this description."""
    return row(cell, label).nth(number).get_by_role("slider")


def keys(handle: Any, *pressed: str) -> None:
    handle.focus()
    for key in pressed:
        handle.press(key)


def write(row: Any, text: str) -> None:
    """Replace what stands in a text box, and leave it."""
    box = row.locator("input, textarea")
    box.fill(text)
    box.press("Tab")


def paint(canvas: Any, *places: tuple[float, float]) -> None:
    """Drag over the painter's canvas; places are fractions of it."""
    canvas.scroll_into_view_if_needed()
    box, mouse = canvas.bounding_box(), canvas.page.mouse
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    mouse.move(*points[0])
    mouse.down()
    for point in points[1:]:
        mouse.move(*point, steps=8)
    mouse.up()
