"""What a reader has to know before believing a table: what the rows do not have in common, and what is missing in them."""

from collections import Counter
from math import isfinite

from ..kinds import KINDS, Kind, text_of
from .rounds import controls, tests
from .summary import DEFAULT, TUNED_ON, build_of, group_of, is_default, number, series_of

#: what all rows of a kind should have in common
COMMON = ("commit", "lib", "build", "pin", "version", "device", "backends", "n_gpu_layers")
#: what all rows of one summary should have in common
WITHIN = ("n_batch", "n_threads", "score_from", "options")
MOST = 4  #: values or setups that one caveat names


def find_caveats(rows: list[dict]) -> list[str]:
    """Fields that should be equal and are not, builds that are not the one that is installed, texts that also chose the defaults,
    rows that replace others, figures that are no numbers, tests that failed."""
    out = []
    for name in sorted({str(row.get("kind")) for row in rows}):
        members = [row for row in rows if row.get("kind") == name]
        out += _mixed(members, name) + _builds(members, name)
        kind = KINDS.get(name)
        out += _chosen(members, kind) + _over_budget(members, kind) if kind and kind.unit else []
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


def _builds(members: list, kind: str) -> list[str]:
    """Rows of builds that nobody else has."""
    out = []
    n_blas = sum("BLAS" in (row.get("backends") or ()) for row in members)
    if n_blas:
        out.append(
            f"{kind}: {n_blas} of {len(members)} rows were measured with a BLAS library, which does not quantize activations as the "
            "build that is installed does: they do not speak for that build, whose rounding is larger and may change close orders"
        )
    dirty = sorted({str(row.get("commit")) for row in members if str(row.get("commit")).endswith("-dirty")})
    if dirty:
        n = sum(str(row.get("commit")) in dirty for row in members)
        out.append(f"{kind}: {n} of {len(members)} rows were measured with changes that are in no commit ({_few(dirty)})")
    return out


def _chosen(members: list, kind: Kind) -> list[str]:
    """Texts that are no test of the default policy, since its options were chosen by them."""
    own = [row for row in members if is_default(series_of(str(row.get("setup"))), DEFAULT)]
    texts = {row.get(name) for row in own for name in kind.source}
    seen = [text for text in TUNED_ON if text in texts]
    if not seen:
        return []
    return [
        f"{kind.name}: ridge, variance weight, novelty and sample size of {DEFAULT} were chosen on {' and '.join(seen)}, so what "
        "it shows on them is partly selection on the test; only other texts are a test of it"
    ]


def _over_budget(members: list, kind: Kind) -> list[str]:
    """Setups that hold more tokens than their budget when a question is asked: they evicted fewer than others of that budget."""
    places: dict = {}
    for row in members:
        if row.get("budget") and row.get("n_evicted"):
            place = (group_of(row), *(text_of(row.get(name)) for name in (kind.unit, *kind.pair)), row["budget"])
            places.setdefault(place, {})[row["setup"]] = row["n_evicted"]
    held: dict = {}
    for (*_, budget), found in places.items():
        for setup, n in found.items():
            held[setup, budget] = max(held.get((setup, budget), 0), budget + max(found.values()) - n)
    over = [f"{setup} up to {n}" for (setup, budget), n in held.items() if n > budget]
    return [f"{kind.name}: some setups hold more tokens than their budget when they are asked: {_few(over)}"] if over else []


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
