"""Figures of attention and the lines that read them, on tensors whose answers are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import densenb as dnb
from densenb import plots
from densenb.plots import charts, layouts, pictures

PICTURE = Image.new("RGB", (128, 128), "green")
TITLES = ["early", "middle", "late"]


def strip(share: list[float]) -> torch.Tensor:
    """Maps [S, 8, 8] with that share of them in the cat's quarter."""
    maps = torch.zeros(len(share), 8, 8)
    for values, inside in zip(maps, share, strict=True):
        values[4:, 4:] = inside / 16
        values[:4, :4] = (1 - inside) / 16
    return maps


def drawn(figure) -> np.ndarray:
    """Its pixels; drawing is where matplotlib finds most mistakes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    return np.asarray(Image.open(file))


# -------------------------------------------------------------------------------------------- maps
def test_strip_has_a_row_a_name_and_a_column_a_title():
    maps = {"a blue cat": strip([0.2, 0.5, 0.9]), "everything else": strip([0.5] * 3)}
    figure = plots.attention_strip(maps, TITLES, PICTURE)
    drawn(figure)
    panels, bars = figure.axes[:8], figure.axes[8:]
    assert len(bars) == 2 and figure.get_size_inches()[0] <= 8.01
    assert [axis.get_title() for axis in panels[:4]] == ["", *TITLES]
    assert [axis.get_ylabel() for axis in panels[::4]] == ["a blue cat", "everything\nelse"]
    first, *_, last = (axis.images[0] for axis in panels[1:4])
    assert first.get_clim() == last.get_clim() == (0, pytest.approx(0.9 / 16))


def test_strip_is_read_by_its_best_tenth():
    maps = torch.ones(2, 10, 10)
    maps[1] = 0
    maps[1, 3, 3] = 5
    line = plots.read_strip(maps, ["flat", "peaked"])
    assert line == "10% at flat, 100% at peaked on the best tenth of the tokens."


def test_a_map_glows_from_its_minimum_on():
    def saturated(values: torch.Tensor) -> int:
        low, *_, high = sorted(pictures.glow(PICTURE, values, "#E69F00").getpixel((0, 0)))
        return high - low

    rising = torch.tensor([[0.5, 0.6], [0.7, 0.8]])
    assert saturated(rising) == 0 and saturated(-rising) == 0xE6
    assert saturated(torch.full((2, 2), 0.3)) == 0


# ------------------------------------------------------------------------------------------ charts
def test_heat_map_parts_at_its_centre_and_hatches_gaps():
    values = torch.tensor([[0.1, 0.4], [torch.nan, -0.2], [0.0, 0.3]])
    names = [0, 1, 5], ["s0", "s1"], "advantage (share of the range)"
    figure = charts.block_step_heatmap(values, *names, centre=0.0)
    drawn(figure)
    axis = figure.axes[0]
    assert axis.images[0].get_clim() == (pytest.approx(-0.4), pytest.approx(0.4))
    assert axis.patch.get_hatch() and axis.get_xlabel() == "step"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "1", "5"]
    assert charts.read_heatmap(values, *names, centre=0.0) == (
        "advantage (share of the range): highest 0.4 (block 0, step s1), "
        "lowest -0.2 (block 1, step s1), mean 0.12, 3 of 5 above 0."
    )
    one_sided = charts.block_step_heatmap(values, *names).axes[0].images[0].get_clim()
    assert one_sided == (pytest.approx(-0.2), pytest.approx(0.4))


def test_names_along_a_long_axis_are_thinned():
    figure = charts.block_step_heatmap(torch.rand(2, 28), range(2), range(28), "mass")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [str(i) for i in range(0, 28, 2)]


MASS = torch.tensor(
    [[0.5, 0.3, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.2, 0.2, 0.3, 0.3], [0.1, 0.1, 0.4, 0.4]]
)
GROUPS = ["pixels: a", "pixels: b", "text: a", "text: b"]


def test_quadrants_show_before_after_and_difference():
    after = MASS.clone()
    after[0] = torch.tensor([0.4, 0.1, 0.4, 0.1])
    figure = charts.quadrants(MASS, after, GROUPS, split=2, titles=("stock", "dense"))
    drawn(figure)
    panels = figure.axes[:3]
    assert [axis.get_title() for axis in panels] == ["stock", "dense", "dense - stock"]
    assert panels[0].images[0].get_clim() == panels[1].images[0].get_clim()
    assert panels[2].images[0].get_clim() == (pytest.approx(-0.3), pytest.approx(0.3))
    assert panels[2].texts[2].get_text() == "30" and len(panels[2].texts) == 16
    assert charts.read_quadrants(MASS, after, GROUPS, 2) == (
        "image -> image 80%, then 65%; image -> text 20%, then 35%; text -> image 30%, then 30%; "
        "text -> text 70%, then 70%; the largest change: pixels: a -> text: a 10%, then 40%."
    )


def test_quadrants_weigh_groups_by_their_size_and_leave_out_the_empty():
    mass = MASS.clone()
    mass[:2] = torch.tensor([[0.5, 0.5, 0, 0], [0.1, 0.1, 0.4, 0.4]])
    mass[3], mass[:, 3] = torch.nan, torch.nan
    line = charts.read_quadrants(mass, mass, GROUPS, 2, sizes=[3, 1, 5, 0])
    assert "image -> image 80%" in line and "text -> text 30%" in line
    assert "text -> text 30%" in charts.read_quadrants(mass, mass, GROUPS, 2)
    drawn(charts.quadrants(mass, mass, GROUPS, 2))


def test_many_groups_have_no_numbers():
    mass = torch.rand(9, 9).softmax(dim=1)
    figure = charts.quadrants(mass, mass, [f"group {i}" for i in range(9)], split=5)
    drawn(figure)
    assert not figure.axes[0].texts


def test_curves_differ_and_run_with_the_sampling():
    values = {"stock": [0.2, 0.3, 0.1], "a blue cat": torch.tensor([0.0, 0.1, 0.2])}
    figure = charts.curves(values, [1000, 500, 10], "timestep", "text mass")
    drawn(figure)
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    stock, cat = axis.lines
    assert low > high and stock.get_linestyle() != cat.get_linestyle()
    assert stock.get_color() != cat.get_color()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(values)
    assert charts.read_curves(values, [1000, 500, 10], "timestep", "text mass") == (
        "text mass, timestep 1000 to 10: stock 0.2 to 0.1, highest 0.3 at 500; "
        "a blue cat 0 to 0.2, highest 0.2 at 10."
    )


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.attention_strip(strip([0.5]), TITLES), r"there are 3 titles: give \[3, "),
        (lambda: plots.attention_strip(strip([0.5] * 30), range(30)), r"maps\[::3\]"),
        (lambda: charts.block_step_heatmap(MASS, range(4), range(3), "x"), "4 rows and 3 columns"),
        (lambda: charts.read_heatmap(MASS * torch.nan, range(4), range(4), "x"), "not all NaN"),
        (lambda: charts.quadrants(MASS, MASS[:3], GROUPS, 2), r"give two of \[4, 4\]"),
        (lambda: charts.quadrants(MASS, MASS, GROUPS, 4), "give 1 to 3"),
        (lambda: charts.curves({"a": [1.0]}, [1, 2], "x", "y"), "'a' has shape"),
    ],
)
def test_other_shapes_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


# ---------------------------------------------------------------------------------------- pictures
def test_heat_maps_zero_to_the_middle_of_a_difference():
    image = pictures.heat(torch.tensor([[-2.0, 0.0, 2.0]]), -1, 1, pictures.DIFFERENCES)
    purple, white, orange = (image.getpixel((x, 0)) for x in range(3))
    assert min(white) > 240 and purple[2] > purple[1] and orange[0] > orange[2]


def test_side_by_side_keeps_tokens_square_and_titles_apart():
    tokens = Image.new("RGB", (2, 2), "black")
    tokens.putpixel((1, 1), (255, 0, 0))
    row = pictures.side_by_side({"one": tokens, "two\nlines": tokens}, side=40)
    assert row.size == (2 * 46 + 6, 40 + 34 + 6)
    colours = row.crop((6, 34, 46, 74)).getcolors()
    assert sorted(colours) == [(400, (255, 0, 0)), (1200, (0, 0, 0))]


def test_mask_grids_show_pixels_then_latents_then_tokens():
    half_a_latent = dnb.box(0.5, 0, 0.5 + 4 / 64, 1)  # 4 of 8 pixels, 4 of 16
    layout = dnb.Layout("a blue cat", [dnb.Region("a blue cat", half_a_latent)])
    with pytest.warns(UserWarning, match="covers best"):
        figure = layouts.mask_grids(layout, 32, 64)
    drawn(figure)
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert [part.shape[:2] for part in shown] == [(32, 64), (4, 8), (2, 4)]
    depth = [0.94 - part[..., 2].min() for part in shown]  # of the colour, whose blue is the least
    assert depth[0] == pytest.approx(depth[2], abs=1e-4)
    assert depth[1] == pytest.approx(depth[0] / 2, abs=1e-4)
    assert [axis.get_xlim() for axis in figure.axes] == [(0, 64)] * 3  # one scale for all
    assert [axis.get_title() for axis in figure.axes][1] == "4 x 8 latents"


def test_labels_stand_in_the_middle_of_their_regions():
    masks = torch.zeros(1, 100, 200)
    masks[0, 20:40, 100:180] = 1
    assert pictures.centre(masks[0]) == (139.5, 29.5)
    image = Image.new("RGB", (200, 100), "blue")
    pictures.label_regions(image, masks, ["cat"])
    written = np.argwhere((np.asarray(image) != (0, 0, 255)).any(axis=2))
    assert np.abs(written.mean(axis=0) - [29.5, 139.5]).max() < 3
