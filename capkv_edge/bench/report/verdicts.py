"""Where the default policy wins, ties and loses, in sentences that are computed from the comparisons."""

from collections import Counter
from math import isfinite

from ..intervals import MIN_TESTED
from ..kinds import Kind
from .pooled import Pooled, pool
from .summary import Comparison, figure_of, series_of
from .tables import effect_text, plain

HOW = {"budget": "At equal budget", "bytes": "At equal bytes (within 5 %)", "": "Against the full cache"}
JUDGED = ("wins", "ties", "loses")
MOST = 12  #: places that a sentence names
_AGAINST = {"wins": "wins against", "ties": "ties with", "loses": "loses to"}


def sentences(found: list[Comparison], code: str = "`") -> list[str]:
    """For each way of being comparable: against whom it wins, ties and loses over all cells, in how many cells, and where it loses.

    found: all comparisons of one figure. code: what stands around names.
    """
    out, pooled = [], pool(found)
    n_tests = sum(isfinite(one.p) for one in found)
    for equal, how in HOW.items():
        members = [one for one in found if equal in one.ways]
        if members:
            for is_held_out in (True, False):
                out += _pooled([one for one in pooled if (one.equal, one.is_held_out) == (equal, is_held_out)], how, code)
            out += _sentences(members, n_tests, how, code)
    return out


def _pooled(members: list[Pooled], how: str, code: str) -> list[str]:
    """For each series of the default policy, the others by their verdicts, the clearest first."""
    out = []
    for own in dict.fromkeys(one.own for one in members):
        by: dict = {}
        for one in sorted((one for one in members if one.own == own), key=lambda one: -abs(one.distance)):
            by.setdefault(one.verdict, []).append(f"{code}{one.other}{code} ({_brief(one)})")
        said = [f"{_AGAINST[verdict]} {_list(by[verdict])}" for verdict in JUDGED if verdict in by]
        figure, units = members[0].figure, members[0].cells[0].own.kind.units
        what = f"{figure.called} as a share of the other's" if figure.relative else f"{figure.label}, difference"
        if said:
            n = sorted({one.effect.n for one in members if one.own == own and one.verdict in JUDGED})
            counted = f"{n[0]} to {n[-1]}" if len(n) > 1 else f"{n[0]}"
            cells = "all cells of held-out texts" if members[0].is_held_out else "all cells"
            out.append(f"{how}, {what}, {cells} pooled over {counted} {units}: {code}{own}{code} {'; '.join(said)}.")
    return out


def _brief(one: Pooled) -> str:
    return plain(one.effect.mean, 2) if one.figure.relative else effect_text(one).partition(" ")[0]


def _sentences(members: list[Comparison], n_tests: int, how: str, code: str) -> list[str]:
    count, kind = Counter(one.verdict for one in members), members[0].own.kind
    what = figure_of(kind, members[0].figure).called
    name = f"{code}{series_of(members[0].own.setup).partition(':')[0]}{code}"
    n_judged = sum(count[verdict] for verdict in JUDGED)
    out = []
    if n_judged:
        stand = Counter(one.verdict for one in members if one.stands)
        text = f"{how}, {what} over the same {kind.units}: of {n_judged} {'comparison' if n_judged == 1 else 'comparisons'} "
        text += f"{name} wins {count['wins']}, ties {count['ties']} and loses {count['loses']}."
        if n_tests > 1:
            left = [f"{stand[verdict]} of the {plural}" for verdict, plural in (("wins", "wins"), ("loses", "losses")) if count[verdict]]
            text += f" After Holm's correction for {n_tests} tests {_list(left)} stand." if left else ""
        out.append(text)
    out += _unjudged(count, f"{how}, {what}", kind)
    for other in sorted({one.other.series for one in members}):
        lost: dict = {}
        for one in members:
            if one.other.series == other and one.verdict == "loses":
                mark = "" if one.stands or n_tests < 2 else ", not after Holm's correction"
                lost.setdefault(one.own.where, []).append(f"{code}{one.own.setup}{code}{mark}")
        if lost:
            places = [f"{where} ({', '.join(setups)})" for where, setups in lost.items()]
            more = f"; and in {len(places) - MOST} more places" if len(places) > MOST else ""
            out.append(f"It loses to {code}{other}{code} on {'; '.join(places[:MOST])}{more}.")
    return out


def _unjudged(count: Counter, which: str, kind: Kind) -> list[str]:
    """Why comparisons have no verdict."""
    reasons = {
        "floor": "on the floor",
        "too few": f"with fewer than {MIN_TESTED} {kind.units}, with which no test of signs reaches 5 %",
        "no figure": "without a figure",
    }
    said = [f"{count[verdict]} {reason}" for verdict, reason in reasons.items() if count[verdict]]
    return [f"{which}, without a verdict: {_list(said)}."] if said else []


def _list(names: list) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
