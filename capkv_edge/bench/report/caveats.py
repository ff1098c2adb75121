"""What a reader has to know before believing a table: what the rows do not have in common, and what is missing in them."""

from collections import Counter
from math import isfinite

from .summary import KINDS, build_of, group_of, number, text_of

#: what all rows of a kind should have in common
COMMON = ("commit", "lib", "build", "pin", "version", "device", "backends", "n_gpu_layers")
#: what all rows of one cell should
WITHIN = ("n_batch", "n_threads", "score_from", "options")
MOST = 4  #: values or setups that a note names


def notes(rows: list[dict]) -> list[str]:
    """What should be equal and is not, rows that replace others, figures that are no numbers, tests that failed."""
    out = []
    for kind in sorted({str(row.get("kind")) for row in rows}):
        members = [row for row in rows if row.get("kind") == kind]
        models = sorted({(str(row.get("model", "")), str(row.get("model_hash", ""))) for row in members})
        if len(models) > 1:
            out.append(f"{kind}: {len(models)} models, kept apart: " + ", ".join(f"{m} ({h[:8]})" for m, h in models))
        for name in COMMON:
            seen = Counter(text_of(row.get(name)) for row in members)
            if len(seen) > 1:
                listed = _few([f"{value} ({n} rows)" for value, n in sorted(seen.items())])
                out.append(f"{kind}: {name} is not the same in all rows: {listed}")
        out += _means(members, kind) if kind in KINDS else _failed(members, kind)
    return out


def _few(names: list) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _means(members: list, kind: str) -> list[str]:
    spec, out, groups = KINDS[kind], [], {}
    for row in members:
        groups.setdefault((group_of(row), row["setup"]), []).append(row)
    for name in COMMON + WITHIN:
        mixed = sorted({key[1] for key, found in groups.items() if len({text_of(row.get(name)) for row in found}) > 1})
        if mixed:
            out.append(f"{kind}: rows that differ in {name} are averaged together in {_few(mixed)}")
    again = Counter()
    for key, found in groups.items():
        again.update((key, *(text_of(row.get(name)) for name in (spec.unit, *spec.pair)), build_of(row)) for row in found)
    n_replaced = sum(again.values()) - len(again)
    if n_replaced:
        out.append(f"{kind}: {n_replaced} rows were measured again; the later ones count")
    for name in spec.figures:
        expected = members
        if name in spec.more:  # what not every group has
            expected = [row for found in groups.values() if any(row.get(name) is not None for row in found) for row in found]
        bad = sorted({row["setup"] for row in expected if not isfinite(number(row.get(name)))})
        if bad:
            out.append(f"{kind}: {name} is not a number in rows of {_few(bad)}: no mean is given there")
    sizes = {key: len({text_of(row.get(spec.unit)) for row in found}) for key, found in groups.items()}
    most = {group: max(n for (other, _), n in sizes.items() if other == group) for group, _ in sizes}
    short = sorted({setup for (group, setup), n in sizes.items() if n < most[group]})
    if short:
        out.append(f"{kind}: some groups have more {spec.unit}s for other setups than for {_few(short)}")
    if kind == "fidelity":
        starts: dict = {}
        for (group, _), found in groups.items():
            starts.setdefault(group, set()).update(text_of(row.get("score_from")) for row in found)
        if any(len(found) > 1 for found in starts.values()):
            out.append(
                "fidelity: scored is what follows the first eviction, so setups of different size are scored on other tokens"
            )
    return out


def _failed(members: list, kind: str) -> list[str]:
    """Why a test has no figure, once for each reason."""
    why: dict = {}
    for row in members:
        if row.get("error"):
            why.setdefault(str(row["error"]), []).append(f"{row['setup']} {row.get('test')}")
    return [f"{kind}: {_few(found)}: {error}" for error, found in why.items()]
