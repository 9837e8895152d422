"""Attention as numbers: by block and step, by quadrant, and along the sampling.

Each figure has a companion that reads the same data in one line of text. Both take tensors and
names, never a model; NaN stands for what was not measured. Import them from `plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from densenb.plots.pictures import AMOUNTS, BARE, DIFFERENCES, wrapped


# ------------------------------------------------------------------------ numbers by block and step
def block_step_heatmap(
    values: Tensor,
    rows: Sequence[object],
    columns: Sequence[object],
    label: str,
    centre: float | None = None,
    axes: tuple[str, str] = ("block", "step"),
) -> Figure:
    """A number for each block and step; missing ones (NaN) are hatched.

    Args:
        values: [L, S].
        rows, columns: the L and the S names along the axes.
        label: what is measured, with its unit.
        centre: a neutral value, where two ranges of colors meet.
        axes: what the rows and the columns are.

    Taught in notebook 02.
    """
    values = _table(values, rows, columns)
    known = values[~values.isnan()]
    if centre is None:
        colours, low, high = AMOUNTS, known.min(), known.max()
    else:
        reach = (known - centre).abs().max()
        colours, low, high = DIFFERENCES, centre - reach, centre + reach
    size = (min(8, 2.4 + 0.3 * len(columns)), 1.1 + 0.26 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.patch.set(hatch="////", facecolor="white", edgecolor=BARE)
    drawn = axis.imshow(
        values.numpy(), colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    for names, ticks in ((rows, axis.set_yticks), (columns, axis.set_xticks)):
        places = range(0, len(names), -(-len(names) // 16))  # at most 16 names can be read
        ticks(places, [str(names[i]) for i in places], fontsize=7)
    axis.set_ylabel(axes[0], fontsize=9)
    axis.set_xlabel(axes[1], fontsize=9)
    bar = figure.colorbar(drawn, ax=axis, pad=0.02)
    bar.set_label(wrapped(label, 26), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def read_heatmap(
    values: Tensor,
    rows: Sequence[object],
    columns: Sequence[object],
    label: str,
    centre: float | None = None,
    axes: tuple[str, str] = ("block", "step"),
) -> str:
    """The heat map in a line: the highest, lowest and mean value, and how many exceed `centre`.

    Takes the arguments of `block_step_heatmap`.
    """
    values = _table(values, rows, columns)
    known = values[~values.isnan()]
    parts = []
    for name, value in (("highest", known.max()), ("lowest", known.min())):
        row, column = (values == value).nonzero()[0].tolist()
        parts.append(f"{name} {value:.3g} ({axes[0]} {rows[row]}, {axes[1]} {columns[column]})")
    parts.append(f"mean {known.mean():.3g}")
    if centre is not None:
        parts.append(f"{int((known > centre).sum())} of {known.numel()} above {centre:g}")
    return f"{label}: {', '.join(parts)}."


# ---------------------------------------------------------------------------------- four quadrants
def quadrants(
    before: Tensor,
    after: Tensor,
    names: Sequence[str],
    split: int,
    titles: tuple[str, str] = ("before", "after"),
    label: str = "share of the query's attention",
) -> Figure:
    """Joint attention between groups of tokens in four quadrants: before, after, the difference.

    Args:
        before, after: [G, G], queries down, keys across: attention summed over the keys of a group
            and averaged over its queries.
        names: of the G groups.
        split: how many of the G groups are image; the others are text.
        titles, label: what the two matrices are, and what the numbers are.

    Taught in notebook 04.
    """
    before, after = _matrices(before, after, names, split)
    count = len(names)
    figure = Figure(figsize=(8, 4.0), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    high = torch.stack([before, after]).nan_to_num(0).max()
    reach = (after - before).nan_to_num(0).abs().max().clamp(min=1e-12)
    panels = (
        (titles[0], before, AMOUNTS, 0, high),
        (titles[1], after, AMOUNTS, 0, high),
        (f"{titles[1]} - {titles[0]}", after - before, DIFFERENCES, -reach, reach),
    )
    for axis, (title, matrix, colours, low, top) in zip(axes, panels, strict=True):
        drawn = axis.imshow(matrix.numpy(), colours, vmin=low, vmax=top, interpolation="nearest")
        axis.patch.set(hatch="////", facecolor="white", edgecolor=BARE)
        axis.set_title(title, fontsize=9)
        axis.spines[:].set_visible(False)
        for line in (axis.axhline, axis.axvline):
            line(split - 0.5, color="white", linewidth=3)
            line(split - 0.5, color="black", linewidth=1)
        axis.set_xticks(range(count), [wrapped(name) for name in names], rotation=90)
        for row, column in (~matrix.isnan()).nonzero().tolist() if count <= 8 else ():
            value = matrix[row, column].item()
            dark = sum(drawn.to_rgba(value)[:3]) < 1.4
            axis.text(
                column, row, f"{round(100 * value)}", ha="center", va="center", fontsize=6,
                color="white" if dark else "black",
            )  # fmt: skip
        axis.tick_params(labelsize=7, length=0)
        bar = figure.colorbar(drawn, ax=axis, location="bottom", pad=0.03, aspect=25)
        bar.ax.tick_params(labelsize=6)
    axes[0].set_yticks(range(count), [wrapped(name) for name in names])
    axes[0].set_ylabel("queries down, keys across", fontsize=7)
    figure.supxlabel(label, fontsize=7)
    return figure


def read_quadrants(
    before: Tensor,
    after: Tensor,
    names: Sequence[str],
    split: int,
    sizes: Sequence[float] | Tensor | None = None,
) -> str:
    """The matrices in a line: each quadrant's share of its queries' attention, before and after.

    Args:
        before, after, names, split: as for `quadrants`.
        sizes: how many tokens each of the G groups has; a share is then the mean over the queries.
            Without sizes, all groups count the same.
    """
    before, after = _matrices(before, after, names, split)
    weight = torch.ones(len(before)) if sizes is None else torch.as_tensor(sizes).float().cpu()
    weight = weight * ~before.isnan().all(dim=1)  # (G,)
    spans = {"image": slice(0, split), "text": slice(split, None)}
    parts = []
    for query, rows in spans.items():
        for key, columns in spans.items():
            shares = [
                (matrix[rows, columns].nansum(1) * weight[rows]).sum() / weight[rows].sum()
                for matrix in (before, after)
            ]
            parts.append(f"{query} -> {key} {shares[0]:.0%}, then {shares[1]:.0%}")
    change = (after - before).nan_to_num(0).abs()
    row, column = divmod(int(change.argmax()), len(names))
    parts.append(
        f"the largest change: {names[row]} -> {names[column]} "
        f"{before[row, column]:.0%}, then {after[row, column]:.0%}"
    )
    return "; ".join(parts) + "."


# ------------------------------------------------------------------------------------------ curves
def curves(
    values: Mapping[str, Sequence[float] | Tensor],
    x: Sequence[float],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Numbers along the sampling, such as text mass by step: a line for each name.

    `values` has a number for each `x` under each name. The lines differ in gray and in style. The
    axis is reversed when `x` falls, as timesteps do. Taught in notebook 02.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    for i, (name, line) in enumerate(_lines(values, x).items()):
        gray = ("#000000", "#777777", "#B0B0B0")[i % 3]
        style, marker = ("-", "--", "-.", ":")[i % 4], "osD^v"[i % 5]
        axis.plot(x, line, style, marker=marker, markersize=3, color=gray, label=name, lw=1.6)
    if x[0] > x[-1]:
        axis.invert_xaxis()
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    return figure


def read_curves(
    values: Mapping[str, Sequence[float] | Tensor], x: Sequence[float], xlabel: str, ylabel: str
) -> str:
    """The curves in a line: where each one starts and ends, and where it is highest."""
    parts = []
    for name, line in _lines(values, x).items():
        top = int(line.argmax())
        parts.append(
            f"{name} {line[0]:.3g} to {line[-1]:.3g}, highest {line[top]:.3g} at {x[top]:g}"
        )
    return f"{ylabel}, {xlabel} {x[0]:g} to {x[-1]:g}: {'; '.join(parts)}."


# ------------------------------------------------------------------------------------------ checks
def _plain(values: Sequence[float] | Tensor) -> Tensor:
    return torch.as_tensor(values).detach().float().cpu()


def _table(values: Tensor, rows: Sequence[object], columns: Sequence[object]) -> Tensor:
    values = _plain(values)
    if values.shape != (len(rows), len(columns)) or values.isnan().all():
        raise ValueError(
            f"values have shape {list(values.shape)}: give a number for each of the {len(rows)} "
            f"rows and {len(columns)} columns, not all NaN."
        )
    return values


def _matrices(
    before: Tensor, after: Tensor, names: Sequence[str], split: int
) -> tuple[Tensor, Tensor]:
    before, after = _plain(before), _plain(after)
    count = len(names)
    if before.shape != (count, count) or after.shape != before.shape:
        raise ValueError(
            f"matrices have shapes {list(before.shape)} and {list(after.shape)}: give two of "
            f"[{count}, {count}], queries down and keys across."
        )
    if not 0 < split < count:
        raise ValueError(
            f"split is {split}, but of the {count} groups at least one has to be image and one "
            f"text: give 1 to {count - 1}."
        )
    return before, after


def _lines(values: Mapping[str, Sequence[float] | Tensor], x: Sequence[float]) -> dict[str, Tensor]:
    lines = {name: _plain(line) for name, line in values.items()}
    for name, line in lines.items():
        if line.shape != (len(x),):
            raise ValueError(
                f"{name!r} has shape {list(line.shape)}: give a number for each of the {len(x)} x."
            )
    return lines
