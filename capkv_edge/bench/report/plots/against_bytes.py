"""A figure against the bytes that a cache holds: a line per policy over its budgets, a panel per group."""

from textwrap import fill

import numpy as np

from ...kinds import Drawing, Figure, Kind
from ..summary import FLOORS, Summary, figure_of, floor_of, floors, n_text, summaries
from .style import DOTTED, FULL, INK, Plot, add_legend, label_axes, log_axis, new_figure, series_class, share_axis, styles

MAX_BANDS = 6  #: with more lines than that only the default policy has its band, since bands would hide each other


def draw(rows: list[dict], kind: Kind, drawing: Drawing, default: str, floor: float) -> list[Plot]:
    """One plot of the drawing's figure, or none.

    Where the full cache has a score of its own, panels in which it is below the floor are left out: what the full cache cannot
    do, no policy can lose. `floor` is of the first figure of the kind.
    """
    figure = figure_of(kind, drawing.figure) if drawing.figure else kind.figures[0]
    found = [one for one in summaries(rows, kind.name) if one.share > 0 and one.has(figure.name)]
    if drawing.is_log:
        found = [one for one in found if one.figures[figure.name].mean > 0]
    full = {} if kind.base_is_full else {one.place: one for one in found if one.is_full}
    is_shown = kind.base_is_full or figure is not kind.figures[0]
    shown = [one for one in found if is_shown or _mean(full.get(one.place), figure) >= floor]
    if not shown:
        return []
    noise = floors(shown)
    looks = styles([one.series for one in shown if one.policy is not None], default)
    canvas, axes, panels = _panels(shown, kind, 3.4 if drawing.is_log else 2.9)
    for ax, members in panels:
        if drawing.is_log:
            log_axis(ax)
        if members[0].place in full:
            _draw_level(ax, _mean(full[members[0].place], figure), figure, "full cache", FULL.dash)
        if members[0].place in noise:
            _draw_level(ax, _mean(noise[members[0].place], figure), figure, "floor of rounding", DOTTED)
        if (level := floor_of(members[0], figure)) is not None:
            _draw_level(ax, level, figure, "floor", DOTTED)
        _draw_lines(ax, members, figure, looks, default)
        _draw_whole(ax, members, figure)
        share_axis(ax, [one.share for one in shown])
        if figure.better > 0 and not drawing.is_log:
            ax.set_ylim(-3, 106)
        where = members[0].where.replace(" in ", ", ")
        ax.set_title(fill(f"{where}, n = {n_text(members)}", 102 // axes.shape[1]))
    label_axes(canvas, axes, "bytes held, % of the full f16 cache", drawing.axis)
    add_legend(canvas, [ax for ax, _ in panels], [default, *looks])
    n_left = len({one.place for one in found}) - len(panels)
    return [Plot(drawing.name, drawing.title, _caption(kind, figure, looks, default, n_left, len(panels), floor), canvas)]


def _mean(one: Summary | None, figure: Figure) -> float:
    return one.figures[figure.name].mean if one else float("nan")


def _caption(kind: Kind, figure: Figure, looks: dict, default: str, n_left: int, n_shown: int, floor: float) -> str:
    better = "Higher" if figure.better > 0 else "Lower"
    bands = "Bands" if len(looks) <= MAX_BANDS or default not in looks else f"Bands (of {default} alone)"
    caption = f"{better} and further left is better. {bands} are 95 % intervals over n {kind.units}, diamonds are full caches with "
    caption += "quantized K and V or with recall."
    if kind.noise:
        caption += f" Dotted is what rounding alone loses, where that was measured: less than {FLOORS} times as much tells little."
    if figure.floor is not None:
        caption += " Dotted is the floor, beyond which a figure tells nothing of what was kept."
    if n_left:
        caption += f" Left out: {n_left} of {n_left + n_shown}, where the full cache is below {floor:.0%} or missing."
    return caption


def _panels(found: list[Summary], kind: Kind, height: float) -> tuple:
    """The matplotlib figure, its axes, and (axes, summaries) of each group: lengths to the right where there are two or three."""
    places: dict = {}
    for one in found:
        places.setdefault(one.place, []).append(one)
    length = kind.lengths[0] if kind.lengths else None
    lengths = sorted({one.group[length] for one in found}) if length else []
    others = sorted({_without_length(members[0]) for members in places.values()})
    if 1 < len(lengths) <= 3:
        columns, n_rows = len(lengths), len(others)
        spot = {
            place: (others.index(_without_length(members[0])), lengths.index(members[0].group[length]))
            for place, members in places.items()
        }
    else:
        columns = min(2, len(places))
        n_rows = -(-len(places) // columns)
        spot = {place: divmod(i, columns) for i, place in enumerate(sorted(places))}
    figure, axes = new_figure(n_rows, columns, height, sharey=True)
    for ax in axes.flat:
        ax.set_axis_off()
    panels = []
    for place in sorted(places, key=spot.get):
        axes[spot[place]].set_axis_on()
        axes[spot[place]].tick_params(labelleft=True)
        panels.append((axes[spot[place]], places[place]))
    return figure, axes, panels


def _without_length(one: Summary) -> tuple:
    return tuple(str(value) for name, value in one.group.items() if name not in one.kind.lengths)


def _draw_level(ax, y: float, figure: Figure, label: str, dash) -> None:
    line = ax.axhline(figure.scale * y, label=label, zorder=2)
    line.set(color=FULL.color, linestyle=dash, linewidth=FULL.width, gid=series_class(label))


def _draw_lines(ax, found: list[Summary], figure: Figure, looks: dict, default: str) -> None:
    lines: dict = {}
    for one in sorted(found, key=lambda one: one.share):
        if one.policy is not None:
            lines.setdefault(one.series, []).append(one)
    for series, points in lines.items():
        style, gid = looks[series], series_class(series)
        x = np.array([one.share for one in points])
        shown = [one.figures[figure.name] for one in points]
        y, low, high = figure.scale * np.array([(one.mean, one.lo, one.hi) for one in shown]).T
        ax.plot(x, y, label=series, gid=gid, **style.line)
        if len(looks) > MAX_BANDS and default in looks and series != default:
            continue
        if len(points) > 1:
            look = dict(alpha=0.22 if style.is_default else 0.07, linewidth=0, zorder=1.5 + style.is_default / 10)
            band = ax.fill_between(x, low, high, color=style.color, **look)
        else:
            band = ax.vlines(x, low, high, color=style.color, linewidth=1, zorder=style.order - 1)
        band.set_gid(gid)


def _draw_whole(ax, found: list[Summary], figure: Figure) -> None:
    """Full caches other than the plain one: with quantized cells, or with recall."""
    whole = sorted((one for one in found if one.policy is None and not one.is_full and not one.is_base), key=lambda one: one.share)
    for one in whole:
        shown, gid = one.figures[figure.name], series_class(one.series)
        x, y = one.share, figure.scale * shown.mean
        ax.vlines(x, figure.scale * shown.lo, figure.scale * shown.hi, color=INK, linewidth=1, zorder=4).set_gid(gid)
        ax.plot(x, y, "D", color=INK, markersize=5, zorder=5, gid=gid)
        side = dict(xytext=(5, 4)) if one is whole[-1] and one.share < 0.9 else dict(xytext=(-5, -11), ha="right")
        ax.annotate(one.setup, (x, y), textcoords="offset points", fontsize=8, zorder=6, **side).set_gid(gid)
