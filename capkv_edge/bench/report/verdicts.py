"""Where the default policy wins, ties and loses, in sentences that are computed from the comparisons."""

from collections import Counter

from .summary import Comparison, figure_of, series_of

HOW = {"budget": "At equal budget", "bytes": "At equal bytes (within 5 %)", "": "Against the full cache"}
JUDGED = ("wins", "ties", "loses")
MOST = 12  #: places that a sentence names


def sentences(found: list[Comparison], code: str = "`") -> list[str]:
    """For each way of being comparable: how often it wins, ties and loses, against whom, and each place where it loses.

    code: what stands around names.
    """
    out = []
    for equal, how in HOW.items():
        members = [one for one in found if one.equal == equal]
        if members:
            out += _sentences(members, how, code)
    return out


def _sentences(members: list[Comparison], how: str, code: str) -> list[str]:
    count, kind = Counter(one.verdict for one in members), members[0].own.kind
    what = figure_of(kind, members[0].figure).called
    name = f"{code}{series_of(members[0].own.setup).partition(':')[0]}{code}"
    n_judged = sum(count[verdict] for verdict in JUDGED)
    out = []
    if n_judged:
        text = f"{how}, {what} over the same {kind.units}: of {n_judged} {'comparison' if n_judged == 1 else 'comparisons'} "
        out.append(f"{text}{name} wins {count['wins']}, ties {count['ties']} and loses {count['loses']}.")
    if len(members) > n_judged:
        more = "more " if n_judged else ""
        out.append(f"{how}: {len(members) - n_judged} {more}without a verdict, for want of {kind.units} or of figures.")
    others: dict = {}
    for one in members:
        if one.verdict in JUDGED:
            others.setdefault(one.other.series, []).append(one)
    if len(others) > 1:
        records: dict = {}
        for other, against in others.items():
            records.setdefault(_record(against), []).append(f"{code}{other}{code}")
        out += [f"It {record} {_list(names)}." for record, names in sorted(records.items(), key=lambda item: _rank(item[0]))]
    for other, against in sorted(others.items()):
        lost: dict = {}
        for one in against:
            if one.verdict == "loses":
                lost.setdefault(one.own.where, []).append(f"{code}{one.own.setup}{code}")
        if lost:
            places = [f"{where} ({', '.join(setups)})" for where, setups in lost.items()]
            more = f"; and in {len(places) - MOST} more places" if len(places) > MOST else ""
            out.append(f"It loses to {code}{other}{code} on {'; '.join(places[:MOST])}{more}.")
    return out


def _record(against: list[Comparison]) -> str:
    count, n = Counter(one.verdict for one in against), len(against)
    if count["wins"] == n:
        return "always wins against"
    if count["ties"] == n:
        return "always ties with"
    if count["loses"] == n:
        return "always loses to"
    if not count["loses"]:
        return f"wins {count['wins']} and ties {count['ties']} of {n} against"
    return f"wins {count['wins']}, ties {count['ties']} and loses {count['loses']} of {n} against"


def _rank(record: str) -> tuple:
    order = ("always wins", "wins", "always ties", "always loses")
    return (next(i for i, start in enumerate(order) if record.startswith(start)), "loses" in record, record)


def _list(names: list) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
