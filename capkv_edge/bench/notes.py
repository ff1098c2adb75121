"""What a reader has to know before believing a table: what the rows do not have in common, and what is missing in them."""

import json
from collections import Counter
from math import isfinite

from .summary import KINDS, build_of, number

#: what all rows of a table should have in common
COMMON = ("commit", "build", "pin", "version", "device", "backends", "n_batch", "stride", "prompts")


def notes(rows: list[dict]) -> list[str]:
    """What should be equal over all rows of a kind and is not, rows that replace others, figures that are no numbers or
    could not be had."""
    out = []
    for kind in sorted({str(row.get("kind")) for row in rows}):
        members = [row for row in rows if row.get("kind") == kind]
        models = sorted({(str(row.get("model", "")), str(row.get("model_hash", ""))) for row in members})
        if len(models) > 1:
            out.append(f"{kind}: {len(models)} models, kept apart: " + ", ".join(f"{m} ({h[:8]})" for m, h in models))
        for name in COMMON:
            seen = Counter(text_of(row.get(name)) for row in members)
            if len(seen) > 1:
                listed = ", ".join(f"{value} ({n} rows)" for value, n in sorted(seen.items()))
                out.append(f"{kind}: {name} is not the same in all rows: {listed}{_where(members, kind, name)}")
        if kind in KINDS:
            out += _doubtful(members, kind)
        failed = {(row["setup"], row.get("test"), row["error"]): None for row in members if row.get("error")}
        out += [f"{kind}: {setup}, {test}: {error}" for setup, test, error in failed]
    return out


def text_of(value) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _where(members: list, kind: str, name: str) -> str:
    """Which averages it went into, where it did."""
    if kind not in KINDS:
        return ""
    groups: dict = {}
    for row in members:
        key = (*(row.get(g) for g in ("model_hash", *KINDS[kind].group)), row["setup"])
        groups.setdefault(key, set()).add(text_of(row.get(name)))
    mixed = sorted({key[-1] for key, seen in groups.items() if len(seen) > 1})
    return f"; averaged together in {', '.join(mixed)}" if mixed else ""


def _doubtful(members: list, kind: str) -> list[str]:
    spec, out = KINDS[kind], []
    fields = ("model_hash", *spec.group, "setup", spec.unit, *spec.pair)
    again = Counter((*(text_of(row.get(name)) for name in fields), build_of(row)) for row in members)
    n_replaced = sum(again.values()) - len(again)
    if n_replaced:
        out.append(f"{kind}: {n_replaced} rows were measured again; the later ones count")
    for name in spec.figures:
        bad = sorted({row["setup"] for row in members if not isfinite(number(row.get(name)))})
        if bad:
            out.append(f"{kind}: {name} is not a number in rows of {', '.join(bad)}: no mean is given there")
    return out
