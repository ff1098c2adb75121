"""The plots: quality against bytes, retrieval against bytes, speed against depth, retrieval by depth and length."""

from dataclasses import replace
from pathlib import Path

from .plot_bytes import quality, retrieval
from .plot_heat import heat
from .plot_speed import speed
from .plot_style import Plot, drawing
from .summary import DEFAULT

FLOOR = 0.5  #: retrieval against bytes is shown where the full cache scores at least this


def plots(rows: list[dict], default: str = DEFAULT, floor: float = FLOOR) -> list[Plot]:
    """All plots that the rows give, one model after the other.

    Raises:
        ImportError: matplotlib is missing; the message says how to install it.
    """
    models: dict = {}
    for row in rows:
        models.setdefault((str(row.get("model", "")), str(row.get("model_hash", ""))), []).append(row)
    out = []
    with drawing():
        for (name, digest), members in sorted(models.items()):
            found = [
                quality(members, default),
                retrieval(members, default, floor),
                *heat(members, default),
                speed(members, default),
            ]
            for plot in filter(None, found):
                if len(models) > 1:
                    plot = replace(plot, name=f"{plot.name}-{digest[:8]}", title=f"{plot.title}: {name}")
                out.append(plot)
    return out


def save(rows: list[dict], folder, default: str = DEFAULT, floor: float = FLOOR) -> list[Path]:
    """Write all plots as PNG files into a folder, which is made; returns their paths."""
    folder, paths = Path(folder), []
    for plot in plots(rows, default, floor):
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{plot.name}.png")
        paths[-1].write_bytes(plot.png())
    return paths
