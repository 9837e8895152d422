"""Notebook 11 as a newcomer walks it: set up, paint two regions, generate; then cell by cell on."""

from __future__ import annotations

import time

from hands import handle, keys, paint

CAT = [(0.55, 0.60), (0.90, 0.60), (0.90, 0.85), (0.55, 0.85), (0.55, 0.72), (0.90, 0.72)]
UMBRELLA = [(0.12, 0.15), (0.45, 0.15), (0.45, 0.40), (0.12, 0.40), (0.12, 0.28), (0.45, 0.28)]
SHARES = "[measure([play.pictures[n]], play.layout)['in_mask'] for n in ('stock', 'dense')]"


def test_a_newcomer_paints_two_regions_and_the_picture_follows(open_notebook, picture, capsys):
    began = time.monotonic()
    notebook = open_notebook("11_playground.ipynb")
    notebook.run_cell("setup")
    ready = time.monotonic()

    cells = notebook.ids("code")
    first, rest = cells[1 : cells.index("play") + 1], cells[cells.index("play") + 1 :]
    for cell in first:
        notebook.run_cell(cell)
    given = "play.layout.pixel_masks(100, 100).tolist()"
    before = notebook.value(given)
    play = notebook.cell("play")
    play.get_by_label("brush size").fill("60")
    for number, places in ((1, CAT), (2, UMBRELLA)):
        play.get_by_role("button", name=f"Region {number}").click()
        play.get_by_role("button", name="Clear the chosen region").click()
        paint(play.locator("canvas"), *places)
    notebook.wait_until("all(type(r.mask).__name__ == 'Pixels' for r in play.layout.regions)")
    play.get_by_role("button", name="Generate").click()
    play.get_by_text("done", exact=True).wait_for(timeout=300_000)
    done = time.monotonic()

    after = notebook.value(given)
    assert all(new != old for new, old in zip(after, before, strict=True))
    assert all(mask[row][column] == 1 for mask, row, column in zip(after, (72, 28), (72, 28)))
    assert notebook.value("(play.made.layout == play.layout, play.message)") == [True, ""]
    notebook.run("from densenb.evaluation import measure")
    stock, dense = notebook.value(SHARES)  # per cent of the objects in their regions
    assert dense >= stock + 20, (stock, dense)
    drawn = play.locator("img").nth(1).bounding_box()
    upper = drawn["y"] + drawn["height"] - play.bounding_box()["y"] + 35  # and what drew them
    picture(notebook.screenshot("newcomer", play), "playground", upper)

    for cell in rest:
        notebook.run_cell(cell, seconds=300)
    keys(handle(notebook.cell("explore"), "step"), "End")  # both runs walk together
    notebook.wait_until("[walk.walks[n].step.value for n in ('stock', 'dense')] == [4, 4]")
    with capsys.disabled():
        print(
            f"\nnotebook 11 by hand: setup {ready - began:.0f} s; two painted regions and a steered"
        )
        print(f"picture in {done - ready:.0f} s, the rest in {time.monotonic() - done:.0f} s.")
