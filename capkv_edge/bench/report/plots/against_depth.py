"""Rates against depth, which is the number of tokens read before: a panel each for reading and decoding, a line per setup."""

from dataclasses import replace

from ...kinds import Drawing, Kind
from ..rounds import tests
from ..summary import series_of
from .style import FULL, Plot, add_legend, label_axes, new_figure, series_class, styles

_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 1.5, 1.2, 1.5)))  # budgets of one policy, ascending


def draw(rows: list[dict], kind: Kind, drawing: Drawing, default: str, floor: float) -> list[Plot]:
    """One plot, or none where no test has a rate."""
    rows = [row for row in tests(rows, kind.name) if row.get("avg_ts") is not None]
    panels: dict = {}
    for row in rows:
        for is_reading, n_name, what in ((True, "n_prompt", "reading"), (False, "n_gen", "decoding")):
            if row.get(n_name) and bool(row.get("n_gen")) != is_reading:
                place = (not is_reading, str(row.get("device")), row.get("n_threads") or 0, row[n_name])
                panels.setdefault(place, (what, []))[1].append(row)
    if not panels:
        return []
    looks = _looks(rows, default)
    devices = {place[1:3] for place in panels}
    figure, axes = new_figure(-(-len(panels) // 2), min(2, len(panels)), 3.3)
    for ax in axes.flat:
        ax.set_axis_off()
    used = []
    for ax, (place, (what, members)) in zip(axes.flat, sorted(panels.items(), key=lambda item: (item[0][1:3], item[0]))):
        ax.set_axis_on()
        _draw_lines(ax, members, looks)
        title = f"{what}, {place[3]} tokens"
        ax.set_title(f"{title}; {place[1]}, {place[2]} threads" if len(devices) > 1 else title)
        used.append(ax)
    label_axes(figure, axes, "tokens read before", drawing.axis)
    add_legend(figure, used, sorted(looks, key=lambda name: series_of(name) != default), bold=False)
    caption = "Higher is better. Bands are one standard deviation of the repetitions."
    return [Plot(drawing.name, drawing.title, caption, figure)]


def _looks(rows: list[dict], default: str) -> dict:
    """A Style for each setup: its policy's, a dash for each budget."""
    setups = {row["setup"]: row for row in rows}
    looks = styles([series_of(name) for name, row in setups.items() if row.get("policy")], default)
    out = {}
    for series in looks:
        budgets = sorted((row.get("budget") or 0, name) for name, row in setups.items() if series_of(name) == series)
        for i, (_, name) in enumerate(budgets):
            out[name] = replace(looks[series], dash=_DASHES[i % len(_DASHES)])
    whole = sorted((name for name, row in setups.items() if not row.get("policy")), key=lambda name: (name != "full", name))
    for i, name in enumerate(whole):
        out[name] = replace(FULL, marker="Ds^v"[i % 4], dash=_DASHES[(i + 1) % len(_DASHES)], is_hollow=i > 0)
    return out


def _draw_lines(ax, members: list[dict], looks: dict) -> None:
    depths = sorted({row.get("n_depth") or 0 for row in members})
    for name in dict.fromkeys(row["setup"] for row in members):
        points = sorted(
            (row.get("n_depth") or 0, row["avg_ts"], row.get("stddev_ts") or 0) for row in members if row["setup"] == name
        )
        style, gid = looks[name], series_class(series_of(name))
        x, y, spread = zip(*points)
        ax.plot(x, y, label=name, gid=gid, **style.line)
        low, high = [a - b for a, b in zip(y, spread)], [a + b for a, b in zip(y, spread)]
        ax.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0, zorder=1.5).set_gid(gid)
    ax.set_xticks(depths if len(depths) <= 8 else depths[:: -(-len(depths) // 8)])
    ax.set_ylim(bottom=0)
