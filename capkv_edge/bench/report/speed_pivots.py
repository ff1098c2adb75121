"""Speed as small tables, setups downwards and depths to the right; and how many times as fast as the full cache."""

from .summary import DEFAULT, series_of
from .tables import NOTHING, Table

_TESTS = (("reading", "n_prompt", "n_gen"), ("decoding", "n_gen", "n_prompt"))


def _tests(rows: list[dict]):
    """(what, tokens, threads, device) of each test, and its rows by setup and depth."""
    for what, own, other in _TESTS:
        places: dict = {}
        for row in rows:
            if row.get(own) and not row.get(other) and row.get("avg_ts"):
                place = (
                    row[own],
                    row.get("n_threads") or 0,
                    str(row.get("device")),
                    str(row.get("model")),
                    str(row.get("model_hash")),
                )
                places.setdefault(place, {})[row["setup"], row.get("n_depth") or 0] = row
        for place, found in sorted(places.items()):
            yield what, place, found


def speed_pivots(rows: list[dict]) -> list[Table]:
    """A table for each test; rows without a figure are left out."""
    out, tests = [], list(_tests(rows))
    many = len({place[1:] for _, place, _ in tests}) > 1
    for what, place, found in tests:
        setups, depths = list(dict.fromkeys(setup for setup, _ in found)), sorted({depth for _, depth in found})
        lines = []
        for setup in setups:
            cells = [found.get((setup, depth)) for depth in depths]
            texts = [f"{row['avg_ts']:.1f} ± {row.get('stddev_ts') or 0:.1f}" if row else NOTHING for row in cells]
            lines.append([f"`{setup}`", *texts])
        title = f"{what.capitalize()}, {place[0]} tokens"
        title += f"; {place[3]}, {place[1]} threads, {place[2]}" if many else ""
        head = [("setup", False), *((f"depth {depth}", True) for depth in depths)]
        out.append(Table("speed", title, head, lines, [series_of(setup) for setup in setups]))
    return out


def speed_sentences(rows: list[dict], default: str = DEFAULT) -> list[str]:
    """At the largest depth that both have: the default policy's rate over the full cache's."""
    parts, verbs = {}, dict(reading="reads", decoding="decodes")
    for what, _, found in _tests(rows):
        for setup in dict.fromkeys(setup for setup, _ in found if series_of(setup) == default):
            depths = [depth for name, depth in found if name == setup and ("full", depth) in found]
            if depths:
                depth = max(depths)
                ratio = found[setup, depth]["avg_ts"] / found["full", depth]["avg_ts"]
                parts.setdefault((setup, depth), []).append(f"{verbs[what]} {ratio:.2f}")
    return [
        f"After {depth} tokens `{setup}` {' and '.join(said)} times as fast as the full cache."
        for (setup, depth), said in parts.items()
    ]
