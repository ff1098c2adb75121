"""Retrieval by depth: where in the text what was asked for stood, against how long the text is."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from .summary import KINDS, Cell, cells, number, text_of


@dataclass(frozen=True)
class HeatMap:
    """Mean score of the questions asked at a depth, texts of a length: scores and counts are [n_bins, n_lengths]."""

    cell: Cell  #: of the first length; its group's `length` does not count
    edges: np.ndarray  #: of the bins of depth, 0 the beginning of the text
    lengths: list
    scores: np.ndarray  #: nan where nothing was asked
    counts: np.ndarray


def heat_maps(rows: list[dict], n_bins: int = 5) -> list[HeatMap]:
    """One HeatMap per (model, setup, group without length), in the order of cells()."""
    places: dict = {}
    for cell in cells(rows, "retrieval"):
        places.setdefault(_key(cell.model_hash, cell.group, cell.setup), []).append(cell)
    sums = {key: np.zeros((2, n_bins, len(found))) for key, found in places.items()}
    for row in rows:
        if row.get("kind") != "retrieval":
            continue
        key = _key(str(row.get("model_hash", "")), row, row["setup"])
        column = [cell.group["length"] for cell in places[key]].index(row.get("length"))
        for item in row.get("items") or ():
            depth, score = number(item.get("depth")), number(item.get("score"))
            if isfinite(depth) and isfinite(score):
                sums[key][:, min(max(int(depth * n_bins), 0), n_bins - 1), column] += (score, 1)
    out = []
    for key, (total, count) in sums.items():
        with np.errstate(invalid="ignore"):
            scores = total / count
        lengths = [cell.group["length"] for cell in places[key]]
        out.append(HeatMap(places[key][0], np.linspace(0, 1, n_bins + 1), lengths, scores, count.astype(int)))
    return out


def _key(model_hash: str, group: dict, setup: str) -> tuple:
    return (
        model_hash,
        setup,
        *(text_of(group.get(name)) for name in KINDS["retrieval"].fields if name not in ("length", "n_turns")),
    )
