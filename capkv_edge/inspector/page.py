"""The page: one HTML file that holds its data, its style and its script, and loads nothing."""

import base64
import codecs
import html
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .record import Eviction, Record
from .scores import ScoreSummary

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("data", "colours", "svg", "figures", "charts", "text", "export", "main")  # in this order: each uses those before it


@dataclass
class Run:
    """A record and what it is called."""

    name: str  #: the policy
    help: str  #: one line about it
    record: Record
    cache: str  #: what the cache is: cells, type, bytes, device
    pieces: list  #: the text of each token
    special: list  #: indices of tokens that are no text, as the one that begins a sequence


def pieces(tokens, vocab) -> tuple:
    """(texts, special): what each token adds to the text, and the indices of those that add none but have a name of their own.

    A character whose bytes are spread over tokens belongs to the last of them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts, special = [], []
    for i, token in enumerate(tokens):
        piece = vocab.piece(int(token))
        if piece:
            texts.append(decoder.decode(piece))
        else:
            texts.append(vocab.text(int(token)))
            special.append(i)
    return texts, special


def render(runs: list, title: str, source: str, model: str, command: str, version: str) -> str:
    """The page for one or several runs over the same text. Whatever comes from outside is escaped."""
    first = runs[0]
    data = {
        "title": title,
        "source": source,
        "model": model,
        "command": command,
        "version": version,
        "heads": first.record.heads,
        "text": first.pieces,
        "special": first.special,
        "runs": [_run(run) for run in runs],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = "\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    parts = {"title": html.escape(title), "style": (FOLDER / "page.css").read_text(encoding="utf-8"), "data": text, "script": script}
    before, *rest = page.split("{{")  # filled in one pass: a text that has braces of its own stays as it is
    return before + "".join(parts[name] + tail for name, _, tail in (part.partition("}}") for part in rest))


def _run(run: Run) -> dict:
    record, config = run.record, run.record.stats.config
    stats = record.stats
    moments = [eviction.scores for eviction in record.evictions] + [record.scores]
    return {
        "name": run.name,
        "help": run.help,
        "cache": run.cache,
        "budget": config.budget,
        "sink": config.sink,
        "recent": config.recent,
        "cells": stats.n_cells,
        "used": stats.n_used,
        "evicted": stats.n_evicted,
        "nEvictions": stats.n_evictions,
        "tailAtEnd": stats.pos_tail,
        "capacity": _number(stats.capacity),
        "capacityLayers": [_number(share) for share in stats.capacity_layers],
        "pins": record.pins,
        "gone": _packed(record.gone),
        "goneBytes": record.gone.dtype.itemsize,
        "evictions": [_eviction(one) for one in record.evictions],
        "scores": [_scores(one) for one in moments],
    }


def _eviction(one: Eviction) -> dict:
    return {
        "read": one.n_read,
        "used": one.n_used,
        "dropped": one.n_dropped,
        "tail": one.pos_tail,
        "capacity": _number(one.capacity),
        "layers": [_number(share) for share in one.capacity_layers],
        "ms": [round(ms, 2) for ms in (one.ms_score, one.ms_select, one.ms_compact)],
    }


def _scores(one: ScoreSummary | None) -> dict | None:
    if one is None:
        return None
    return {
        "log": one.is_log,
        "low": _packed(one.low.astype("<f4")),
        "high": _packed(one.high.astype("<f4")),
        "edge": _packed(one.edge.astype("<f4")),
        "kept": _packed(one.kept.astype("<u2")),
        "dropped": _packed(one.dropped.astype("<u2")),
    }


def _number(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _packed(array: np.ndarray) -> str:
    """The bytes of an array, compressed (zlib), in base64."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode("ascii")
