"""Scores by depth (where in the text the thing asked for stood) and by length of the text: a small map per setup, policies
downwards, budgets to the right."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from ...kinds import KINDS, Drawing, Kind, text_of
from ..summary import Summary, number, summaries
from .style import Plot, label_axes, new_figure, series_class

MAX_COLUMNS = 5
N_LEAST = 3  # questions in a cell, on average: maps of fewer are drawn only where no group has more


@dataclass(frozen=True)
class HeatMap:
    """Mean score of the questions asked at a depth, in texts of a length: scores and counts are [n_bins, n_lengths]."""

    summary: Summary  #: of the first length; the length in its group does not count
    edges: np.ndarray  #: of the bins of depth [n_bins + 1], 0 is the beginning of the text
    lengths: list
    scores: np.ndarray  #: nan where nothing was asked
    counts: np.ndarray


def heat_maps(rows: list[dict], kind: str, n_bins: int = 5) -> list[HeatMap]:
    """One HeatMap per model, setup and group without its length, in the order of summaries().

    The rows have `items`: questions with a `depth` (0 to 1) and a `score`.
    """
    spec, places = KINDS[kind], {}
    length = spec.lengths[0]
    for one in summaries(rows, kind):
        places.setdefault(_key(spec, one.model_hash, one.group, one.setup), []).append(one)
    sums = {key: np.zeros((2, n_bins, len(found))) for key, found in places.items()}
    for row in rows:
        if row.get("kind") != kind:
            continue
        key = _key(spec, str(row.get("model_hash", "")), row, row["setup"])
        column = [one.group[length] for one in places[key]].index(row.get(length))
        for item in row.get("items") or ():
            depth, score = number(item.get("depth")), number(item.get("score"))
            if isfinite(depth) and isfinite(score):
                sums[key][:, min(max(int(depth * n_bins), 0), n_bins - 1), column] += (score, 1)
    out = []
    for key, (total, count) in sums.items():
        with np.errstate(invalid="ignore"):
            scores = total / count
        lengths = [one.group[length] for one in places[key]]
        out.append(HeatMap(places[key][0], np.linspace(0, 1, n_bins + 1), lengths, scores, count.astype(int)))
    return out


def _key(kind: Kind, model_hash: str, group: dict, setup: str) -> tuple:
    return (model_hash, setup, *(text_of(group.get(name)) for name in kind.fields if name not in kind.lengths))


def draw(rows: list[dict], kind: Kind, drawing: Drawing, default: str, floor: float) -> list[Plot]:
    """One plot for each group without its length; a group without depths has none, nor has one of few questions beside larger ones."""
    groups: dict = {}
    for found in heat_maps(rows, kind.name):
        if found.counts.any():
            group = [text_of(found.summary.group[name]) for name in kind.group if name not in kind.lengths]
            groups.setdefault(", ".join(group), []).append(found)
    groups = {where: found for where, found in groups.items() if max(one.counts.mean() for one in found) >= N_LEAST} or groups
    out = []
    for i, (where, found) in enumerate(sorted(groups.items())):
        name = drawing.name if len(groups) == 1 else f"{drawing.name}-{i + 1}"
        caption = "Mean score of the questions asked at a depth. Darker is worse."
        out.append(Plot(name, f"{drawing.title}: {where}", caption, _draw_maps(found, default, drawing.axis)))
    return out


def _draw_maps(found: list[HeatMap], default: str, label: str):
    lines = _arrange(found, default)
    n_columns = max(map(len, lines))
    figure, axes = new_figure(len(lines), n_columns, 0.5 + 0.13 * len(found[0].scores))
    for ax in axes.flat:
        ax.set_axis_off()
    image = None
    for line, row in zip(axes, lines):
        for ax, one in zip(line, row):
            ax.set_axis_on()
            image = _draw_map(ax, one, first=ax is line[0], last=row is lines[-1])
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 3 / len(lines)), aspect=30, pad=0.02, label=label)
    bar.outline.set_visible(False)
    label_axes(figure, axes, "tokens of text", "depth in the text")
    return figure


def _arrange(found: list[HeatMap], default: str) -> list[list[HeatMap]]:
    """Full caches in the first line, then a line per series: the default first, budgets ascending."""
    series: dict = {}
    for one in found:
        series.setdefault("" if one.summary.policy is None else one.summary.series, []).append(one)
    lines = []
    for name in sorted(series, key=lambda name: (name != "", name != default, name)):
        members = sorted(series[name], key=lambda one: one.summary.budget or 0) if name else series[name]
        lines += [members[i : i + MAX_COLUMNS] for i in range(0, len(members), MAX_COLUMNS)]
    return lines


def _draw_map(ax, one: HeatMap, first: bool, last: bool):
    n_bins, n_lengths = one.scores.shape
    x, y = np.arange(n_lengths + 1) - 0.5, np.arange(n_bins + 1) - 0.5
    image = ax.pcolormesh(x, y, np.ma.masked_invalid(100 * one.scores), cmap="cividis", vmin=0, vmax=100)
    ax.invert_yaxis()
    ax.set_gid(series_class(one.summary.series))
    ax.grid(False)
    ax.set_title(one.summary.setup, pad=3, fontsize=8)
    ax.set_xticks(range(n_lengths), [str(length) for length in one.lengths] if last else [])
    ax.set_yticks(np.array([0, n_bins]) - 0.5, ["start", "end"] if first else ["", ""])
    ax.tick_params(length=0, labelsize=7.5)
    for (y, x), score in np.ndenumerate(one.scores):
        if np.isfinite(score):
            color = "white" if score < 0.55 else "black"
            ax.text(x, y, f"{100 * score:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    return image
