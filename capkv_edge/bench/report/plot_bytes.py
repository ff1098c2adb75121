"""Quality and retrieval against the bytes that a cache holds: a line per policy over its budgets, a panel per length."""

from textwrap import fill

import numpy as np

from .plot_style import FULL, INK, Plot, add_legend, divergence_axis, label_axes, new_figure, series_class, share_axis, styles
from .summary import Cell, cells

MAX_BANDS = 6  #: with more lines than that, only the default policy has its band: others would hide each other
DIAMONDS = "diamonds full caches of quantized K and V"


def quality(rows: list[dict], default: str) -> Plot | None:
    found = [cell for cell in cells(rows, "fidelity") if cell.figures["kl_mean"].mean > 0 and cell.share > 0]
    if not found:
        return None
    looks = styles([cell.series for cell in found if cell.policy is not None], default)
    figure, axes, panels = _panels(found, 3.4)
    for ax, members in panels:
        divergence_axis(ax)
        _draw_lines(ax, members, "kl_mean", looks, default)
        _draw_quantized(ax, members, "kl_mean")
        share_axis(ax, [cell.share for cell in found])
        ax.set_title(fill(f"{members[0].where}, n = {max(cell.n for cell in members)}", 102 // axes.shape[1]))
    label_axes(figure, axes, "bytes held, % of the full f16 cache", "mean KL divergence from the full cache, nats")
    add_legend(figure, [ax for ax, _ in panels], [default, *looks])
    caption = f"Lower and further left is better. {_bands(looks, default)} are 95 % intervals over n documents, {DIAMONDS}."
    return Plot("quality", "Quality against bytes", caption, figure)


def retrieval(rows: list[dict], default: str, floor: float) -> Plot | None:
    """Without the panels in which the full cache, too, scores below the floor: what it cannot do, no policy can lose."""
    found = [cell for cell in cells(rows, "retrieval") if cell.share > 0]
    full = {cell.place: cell for cell in found if cell.policy is None and cell.type_k == "f16"}
    shown = [cell for cell in found if cell.place in full and full[cell.place].figures["score"].mean >= floor]
    if not shown:
        return None
    looks = styles([cell.series for cell in shown if cell.policy is not None], default)
    figure, axes, panels = _panels(shown, 2.9)
    for ax, members in panels:
        line = ax.axhline(100 * full[members[0].place].figures["score"].mean, label="full cache", zorder=2)
        line.set(color=FULL.color, linestyle=FULL.dash, linewidth=FULL.width, gid=series_class("full"))
        _draw_lines(ax, members, "score", looks, default, 100)
        _draw_quantized(ax, members, "score", 100)
        share_axis(ax, [cell.share for cell in shown])
        ax.set_ylim(-3, 106)
        ax.set_title(fill(members[0].where.replace(" in ", ", "), 102 // axes.shape[1]))
    label_axes(figure, axes, "bytes held, % of the full f16 cache", "score, %")
    add_legend(figure, [ax for ax, _ in panels], [default, *looks])
    n_left = len({cell.place for cell in found}) - len(panels)
    caption = f"Higher and further left is better. {_bands(looks, default)} are 95 % intervals over texts, {DIAMONDS}."
    if n_left:
        caption += f" Left out: {n_left} of {n_left + len(panels)}, where the full cache is below {floor:.0%} or missing."
    return Plot("retrieval", "Retrieval against bytes", caption, figure)


def _bands(looks: dict, default: str) -> str:
    return "Bands" if len(looks) <= MAX_BANDS or default not in looks else f"Bands (of {default} alone)"


def _panels(found: list[Cell], height: float) -> tuple:
    """The figure, its axes, and (axes, cells) of each group: lengths to the right where there are two or three."""
    places: dict = {}
    for cell in found:
        places.setdefault(cell.place, []).append(cell)
    length = "n_ctx" if "n_ctx" in found[0].group else "length"
    lengths = sorted({cell.group[length] for cell in found})
    others = sorted({_without(members[0], length) for members in places.values()})
    if 1 < len(lengths) <= 3:
        columns, n_rows = len(lengths), len(others)
        spot = {place: (others.index(_without(m[0], length)), lengths.index(m[0].group[length])) for place, m in places.items()}
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


def _without(cell: Cell, length: str) -> tuple:
    return tuple(str(value) for name, value in cell.group.items() if name not in (length, "n_turns"))


def _draw_lines(ax, found: list[Cell], name: str, looks: dict, default: str, scale: float = 1) -> None:
    lines: dict = {}
    for cell in sorted(found, key=lambda cell: cell.share):
        if cell.policy is not None:
            lines.setdefault(cell.series, []).append(cell)
    for series, points in lines.items():
        style, gid = looks[series], series_class(series)
        x = np.array([cell.share for cell in points])
        y, low, high = scale * np.array([[getattr(cell.figures[name], k) for k in ("mean", "lo", "hi")] for cell in points]).T
        ax.plot(x, y, label=series, gid=gid, **style.line)
        if len(looks) > MAX_BANDS and default in looks and series != default:
            continue
        if len(points) > 1:
            alpha = 0.22 if style.is_default else 0.07
            band = ax.fill_between(
                x, low, high, color=style.color, alpha=alpha, linewidth=0, zorder=1.5 + style.is_default / 10
            )
        else:
            band = ax.vlines(x, low, high, color=style.color, linewidth=1, zorder=style.order - 1)
        band.set_gid(gid)


def _draw_quantized(ax, found: list[Cell], name: str, scale: float = 1) -> None:
    whole = sorted((cell for cell in found if cell.policy is None and cell.type_k != "f16"), key=lambda cell: cell.share)
    for cell in whole:
        shown, gid = cell.figures[name], series_class(cell.series)
        x, y = cell.share, scale * shown.mean
        ax.vlines(x, scale * shown.lo, scale * shown.hi, color=INK, linewidth=1, zorder=4).set_gid(gid)
        ax.plot(x, y, "D", color=INK, markersize=5, zorder=5, gid=gid)
        side = dict(xytext=(5, -11)) if cell is whole[-1] else dict(xytext=(-5, -11), ha="right")
        ax.annotate(cell.setup, (x, y), textcoords="offset points", fontsize=8, zorder=6, **side).set_gid(gid)
