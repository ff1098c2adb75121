"""Retrieval by depth and length: a small map per setup, policies downwards, budgets to the right."""

import numpy as np

from .heat import HeatMap, heat_maps
from .plot_style import Plot, label_axes, new_figure, series_class

MAX_COLUMNS = 5


def heat(rows: list[dict], default: str) -> list[Plot]:
    """One plot for each task, haystack and mode."""
    groups: dict = {}
    for found in heat_maps(rows):
        if found.counts.any():
            group = found.cell.group
            groups.setdefault((group["task"], group["haystack"], group["mode"]), []).append(found)
    return [_plot(place, found, default, i, len(groups)) for i, (place, found) in enumerate(sorted(groups.items()))]


def _plot(place: tuple, found: list[HeatMap], default: str, index: int, n_plots: int) -> Plot:
    lines = _arrange(found, default)
    n_columns = max(map(len, lines))
    n_bins, n_lengths = found[0].scores.shape
    figure, axes = new_figure(len(lines), n_columns, 0.5 + 0.13 * n_bins)
    for ax in axes.flat:
        ax.set_axis_off()
    image = None
    for line, row in zip(axes, lines):
        for ax, one in zip(line, row):
            ax.set_axis_on()
            image = _draw(ax, one, first=ax is line[0], last=row is lines[-1])
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 3 / len(lines)), aspect=30, pad=0.02, label="score, %")
    bar.outline.set_visible(False)
    label_axes(figure, axes, "tokens of text", "depth in the text")
    title = f"{place[0]} in {place[1]}, {place[2]}"
    name = "heat" if n_plots == 1 else f"heat-{index + 1}"
    return Plot(name, f"Retrieval by depth: {title}", "Mean score of the questions asked at a depth. Darker is worse.", figure)


def _arrange(found: list[HeatMap], default: str) -> list[list[HeatMap]]:
    """Full caches in the first line, then a line per series: the default first, budgets ascending."""
    series: dict = {}
    for one in found:
        series.setdefault("" if one.cell.policy is None else one.cell.series, []).append(one)
    lines = []
    for name in sorted(series, key=lambda name: (name != "", name != default, name)):
        members = sorted(series[name], key=lambda one: one.cell.budget or 0) if name else series[name]
        lines += [members[i : i + MAX_COLUMNS] for i in range(0, len(members), MAX_COLUMNS)]
    return lines


def _draw(ax, one: HeatMap, first: bool, last: bool):
    n_bins, n_lengths = one.scores.shape
    x, y = np.arange(n_lengths + 1) - 0.5, np.arange(n_bins + 1) - 0.5
    image = ax.pcolormesh(x, y, np.ma.masked_invalid(100 * one.scores), cmap="cividis", vmin=0, vmax=100)
    ax.invert_yaxis()
    ax.set_gid(series_class(one.cell.series))
    ax.grid(False)
    ax.set_title(one.cell.setup, pad=3, fontsize=8)
    ax.set_xticks(range(n_lengths), [str(length) for length in one.lengths] if last else [])
    ax.set_yticks(np.array([0, n_bins]) - 0.5, ["start", "end"] if first else ["", ""])
    ax.tick_params(length=0, labelsize=7.5)
    for (y, x), score in np.ndenumerate(one.scores):
        if np.isfinite(score):
            color = "white" if score < 0.55 else "black"
            ax.text(x, y, f"{100 * score:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    return image
