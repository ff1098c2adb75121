"""How much a setup's mean moves with the seed of its policy's sample.

Rows of several seeds are averaged for each unit before the interval over units is taken, so this spread stands beside it.
"""

from statistics import fmean, stdev

from ..kinds import Kind, text_of


def spread(rows: list[dict], kind: Kind) -> tuple[int, float | None]:
    """(number of seeds, standard deviation over the seeds of the mean of the kind's first figure over the units that all seeds have).

    rows: of one setup in one group. The deviation is None where there is one seed, or no unit in common with a figure."""
    figure, found = kind.judged[0].name, {}
    for row in rows:
        if isinstance(row.get(figure), (int, float)):
            unit = tuple(text_of(row.get(name)) for name in (kind.unit, *kind.pair))
            found.setdefault(row.get("kv_seed"), {})[unit] = row[figure]
    common = set.intersection(*map(set, found.values())) if found else set()
    if len(found) < 2 or not common:
        return max(len(found), 1), None
    return len(found), stdev(fmean(values[unit] for unit in common) for values in found.values())
