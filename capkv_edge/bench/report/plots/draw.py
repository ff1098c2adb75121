"""All plots that rows give, as the records in kinds.py name them."""

from dataclasses import replace
from pathlib import Path

from ...kinds import KINDS
from ..summary import DEFAULT
from . import against_bytes, against_depth, heat
from .style import Plot, drawing

FLOOR = 0.5  #: scores against bytes are shown where the full cache scores at least this

#: how a kinds.Drawing is drawn: (rows of the kind, kind, drawing, default policy, floor) -> list of Plot
DRAW = {"bytes": against_bytes.draw, "heat": heat.draw, "rates": against_depth.draw}


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
            for kind in KINDS.values():
                own = [row for row in members if row.get("kind") == kind.name]
                for one in kind.plots:
                    for plot in DRAW[one.how](own, kind, one, default, floor):
                        if len(models) > 1:
                            plot = replace(plot, name=f"{plot.name}-{digest[:8]}", title=f"{plot.title}: {name}")
                        out.append(plot)
    return out


def save(rows: list[dict], folder, default: str = DEFAULT, floor: float = FLOOR) -> list[Path]:
    """Write all plots as PNG files into a folder, which is made where there are plots; returns their paths."""
    folder, paths = Path(folder), []
    for plot in plots(rows, default, floor):
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{plot.name}.png")
        paths[-1].write_bytes(plot.png())
    return paths
