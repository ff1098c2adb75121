"""What a reader has to know before believing a table: what the rows do not have in common, and what is missing in them."""

from collections import Counter
from math import isfinite

from ..kinds import KINDS, Kind, text_of
from .rounds import controls, tests
from .summary import build_of, group_of, number

#: what all rows of a kind should have in common
COMMON = ("commit", "lib", "build", "pin", "version", "device", "backends", "n_gpu_layers")
#: what all rows of one summary should have in common
WITHIN = ("n_batch", "n_threads", "score_from", "options")
MOST = 4  #: values or setups that one caveat names


def find_caveats(rows: list[dict]) -> list[str]:
    """Fields that should be equal and are not, rows that replace others, figures that are no numbers, tests that failed."""
    out = []
    for name in sorted({str(row.get("kind")) for row in rows}):
        members = [row for row in rows if row.get("kind") == name]
        out += _mixed(members, name)
        kind = KINDS.get(name)
        out += _averaged(members, kind) if kind and kind.unit else _failed(members, name) + _unequal_controls(members, name)
    return out


def _few(names: list) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _mixed(members: list, kind: str) -> list[str]:
    out = []
    models = sorted({(str(row.get("model", "")), str(row.get("model_hash", ""))) for row in members})
    if len(models) > 1:
        out.append(f"{kind}: {len(models)} models, kept apart: " + ", ".join(f"{m} ({h[:8]})" for m, h in models))
    for name in COMMON:
        seen = Counter(text_of(row.get(name)) for row in members)
        if len(seen) > 1:
            listed = _few([f"{value} ({n} rows)" for value, n in sorted(seen.items())])
            out.append(f"{kind}: {name} is not the same in all rows: {listed}")
    return out


def _averaged(members: list, kind: Kind) -> list[str]:
    """The caveats of a kind whose rows are averaged."""
    out, groups = [], {}
    for row in members:
        groups.setdefault((group_of(row), row["setup"]), []).append(row)
    for name in COMMON + WITHIN:
        mixed = sorted({key[1] for key, found in groups.items() if len({text_of(row.get(name)) for row in found}) > 1})
        if mixed:
            out.append(f"{kind.name}: rows that differ in {name} are averaged together in {_few(mixed)}")
    again = Counter()
    for key, found in groups.items():
        again.update((key, *(text_of(row.get(name)) for name in (kind.unit, *kind.pair)), build_of(row)) for row in found)
    n_replaced = sum(again.values()) - len(again)
    if n_replaced:
        out.append(f"{kind.name}: {n_replaced} rows were measured again; the later ones count")
    for figure in kind.figures:
        expected = members
        if figure.optional:  # expected only in a group that has it in some rows
            expected = [
                row for found in groups.values() if any(row.get(figure.name) is not None for row in found) for row in found
            ]
        bad = sorted({row["setup"] for row in expected if not isfinite(number(row.get(figure.name)))})
        if bad:
            out.append(f"{kind.name}: {figure.name} is not a number in rows of {_few(bad)}: no mean is given there")
    sizes = {key: len({text_of(row.get(kind.unit)) for row in found}) for key, found in groups.items()}
    most = {group: max(n for (other, _), n in sizes.items() if other == group) for group, _ in sizes}
    short = sorted({setup for (group, setup), n in sizes.items() if n < most[group]})
    if short:
        out.append(f"{kind.name}: some groups have more {kind.unit}s for other setups than for {_few(short)}")
    for name, caveat in kind.uneven:
        values: dict = {}
        for (group, _), found in groups.items():
            values.setdefault(group, set()).update(text_of(row.get(name)) for row in found)
        if any(len(found) > 1 for found in values.values()):
            out.append(f"{kind.name}: {caveat}")
    return out


def _failed(members: list, kind: str) -> list[str]:
    """Why tests have no figure: each reason once, with the tests that it is of."""
    why: dict = {}
    for row in members:
        if row.get("error"):
            why.setdefault(str(row["error"]), []).append(f"{row['setup']} {row.get('test')}")
    return [f"{kind}: {_few(found)}: {error}" for error, found in why.items()]


def _unequal_controls(members: list, kind: str) -> list[str]:
    """Setups that are faster or slower than the full cache although they have evicted nothing."""
    out = []
    for row in controls(tests(members, kind)) if kind in KINDS else ():
        ratio = row["ratio"]
        if ratio.known and not ratio.lo <= 1 <= ratio.hi:
            out.append(
                f"{kind}: {row['setup']} {row.get('test')} is {ratio.mean:.2f} [{ratio.lo:.2f}, {ratio.hi:.2f}] times as fast as full, "
                "although nothing was evicted: its ratios at other depths have this difference too"
            )
    return out
