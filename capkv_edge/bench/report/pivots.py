"""The tables of docs/results.md: small ones with setups downwards, and budgets, tasks or depths to the right."""

from ..kinds import Figure, text_of
from .output import markdown
from .summary import DEFAULT, FLOORS, Summary, floors, is_near_floor, n_text, series_of
from .tables import MARK, NOTHING, Table, interval, percent, seeds_text


def pivots(found: list[Summary]) -> list[str]:
    """The Markdown of all tables of one kind, each below a line that says which group it is of."""
    return _by_field(found) if found[0].kind.across else _by_budget(found)


def _grouped(found: list[Summary], key) -> list[tuple]:
    """[(line that names the group, its members)]; the model is in the line where there are several."""
    groups, kind = {}, found[0].kind
    for one in found:
        groups.setdefault((one.model, one.model_hash, key(one)), []).append(one)
    many = len({group[:2] for group in groups}) > 1
    lines = []
    for members in groups.values():
        model = f"{members[0].model}, " if many else ""
        lines.append(f"{model}{kind.heading_of(members[0].group)}, {n_text(members)} {kind.units}:\n")
    return list(zip(lines, groups.values()))


def _text(one: Summary | None, figure: Figure) -> str:
    return interval(one.figures[figure.name], scale=figure.scale, decimals=figure.decimals_brief) if one else NOTHING


def _bold_best(texts: list[str], column: list, figure: Figure) -> list[str]:
    """The texts of a column with the best policy's mean in bold, and every other policy's that reads the same; of policies alone, so
    none with recall or pins."""
    known = [i for i, one in enumerate(column) if one and one.policy and one.is_rival and one.has(figure.name)]
    if len(known) < 2:
        return texts
    best = texts[max(known, key=lambda i: figure.better * column[i].figures[figure.name].mean)].partition(" ")[0]
    out = list(texts)
    for i in known:
        mean, space, rest = texts[i].partition(" ")
        if mean == best:
            out[i] = f"**{mean}**{space}{rest}"
    return out


def _shares(members: list[Summary]) -> str:
    """The bytes held as a share of the full f16 cache, from the least to the most."""
    shares = sorted(one.share for one in members)
    low, high = percent(shares[0]), percent(shares[-1])
    return low if low == high else f"{low[:-2]} to {high}"


def _heading(figure: Figure) -> str:
    """What stands above the table of a figure that is not the first of its kind."""
    return f"{figure.heading or figure.called} ({'more' if figure.better > 0 else 'less'} is better):\n"


# ---------------------------------------------------------------------------------------------------------------------
# budgets to the right


def _by_budget(found: list[Summary]) -> list[str]:
    """A table of policies downwards for each group and figure, with the bytes that each held; the quantized full caches, and the
    floor of rounding."""
    out, judged, floor = [], found[0].kind.judged, floors(found)
    for line, members in _grouped(found, lambda one: one.place):
        out.append(line)
        at: dict = {}
        for one in members:
            if one.policy is not None and one.budget:
                at.setdefault(one.series, {}).setdefault(one.budget, one)  # the first where "=TYPE" came to the same budget
        budgets = sorted({budget for row in at.values() for budget in row})
        place = members[0].place
        for i, figure in enumerate(judged if budgets else ()):
            out += [_heading(figure)] if i else []
            out.append(_budget_table(at, budgets, figure, floor.get(place)))
        out += ["In parentheses: bytes held, of the full f16 cache.\n"] if budgets else []
        out += _seeds(members)
        whole = [one for one in members if one.policy is None and one.type_k != "f16"]
        if whole:
            texts = [f"`{one.setup}` {_text(one, judged[0])} ({percent(one.share)})" for one in whole]
            out.append(f"Quantized full caches: {', '.join(texts)}.\n")
        if found[0].kind.noise:
            out.append(_floor_line(floor.get(place), judged[0]) + "\n")
    return out


def _floor_line(floor: Summary | None, figure: Figure) -> str:
    """What rounding alone loses in a group, and what the mark means."""
    if floor is None:
        return "The floor of rounding was not measured here."
    return f"Floor of rounding: {_text(floor, figure)}, the loss of `{floor.setup}`. {MARK}: less than {FLOORS} times as much."


def _budget_table(at: dict, budgets: list, figure: Figure, floor: Summary | None) -> str:
    def text(one: Summary | None) -> str:
        held = f" ({percent(one.share)})" if one else ""
        return _text(one, figure) + held + (f" {MARK}" if one and is_near_floor(one, floor, figure) else "")

    columns = [[f"`{series}`" for series in at]]
    for budget in budgets:
        column = [row.get(budget) for row in at.values()]
        columns.append(_bold_best([text(one) for one in column], column, figure))
    head = [("policy", False), *((f"budget {budget}", True) for budget in budgets)]
    return markdown(Table("", head, list(zip(*columns))))


def _seeds(members: list[Summary]) -> list[str]:
    """A line that says how much means move with the seed of the sample; nothing where there is one seed."""
    found = [f"`{one.setup}` {seeds_text(one)}" for one in members if one.seeds[1] is not None]
    what = f"Standard deviation of the mean {members[0].kind.judged[0].label} over the seeds of the sample (number of seeds)"
    return [f"{what}: {', '.join(found)}.\n"] if found else []


# ---------------------------------------------------------------------------------------------------------------------
# the values of a field to the right


def _by_field(found: list[Summary]) -> list[str]:
    """A table of setups downwards for each group and figure, the tasks or data sets to the right."""
    kind, out = found[0].kind, []
    aside = kind.across + kind.beside

    def rest(one: Summary) -> tuple:
        return tuple((name, text_of(value)) for name, value in one.group.items() if name not in aside)

    for line, members in _grouped(found, rest):
        out.append(line)
        for i, figure in enumerate(kind.judged):
            known = [one for one in members if not figure.optional or one.has(figure.name)]
            if known:
                out += [_heading(figure)] if i else []
                out.append(_field_table(known, figure))
        out += _seeds(members)
    return out


def _column(one: Summary) -> tuple:
    """What tells the column of a summary from others: texts of the fields in `across`, and of those in `beside`."""
    return tuple(tuple(text_of(one.group[field]) for field in fields) for fields in (one.kind.across, one.kind.beside))


def _column_names(members: list[Summary]) -> dict:
    """{column: its head}, in the order of the members: the fields in `across`, and of those in `beside` what tells columns apart."""
    columns, out = list(dict.fromkeys(_column(one) for one in members)), {}
    for across, beside in columns:
        alike = [other for name, other in columns if name == across]
        differs = [
            f" ({field} {value})"
            for i, (field, value) in enumerate(zip(members[0].kind.beside, beside))
            if any(other[i] != value for other in alike)
        ]
        out[across, beside] = across[0] + "".join(f" ({value})" for value in across[1:]) + "".join(differs)
    return out


def _field_table(members: list[Summary], figure: Figure) -> str:
    names = _column_names(members)
    at = {(one.setup, _column(one)): one for one in members}
    budgets = {one.setup: one.budget or 0 for one in members}
    setups = sorted(budgets, key=budgets.get)
    columns = [[f"`{setup}`" for setup in setups]]
    for key in names:
        column = [at.get((setup, key)) for setup in setups]
        texts = [_text(one, figure) for one in column]
        for budget in sorted({one.budget for one in column if one and one.budget}):
            texts = _bold_best(texts, [one if one and one.budget == budget else None for one in column], figure)
        columns.append(texts)
    columns.append([_shares([one for one in members if one.setup == setup]) for setup in setups])
    head = [("setup", False), *((name, True) for name in names.values()), ("bytes, of full f16", True)]
    return markdown(Table("", head, list(zip(*columns))))


# ---------------------------------------------------------------------------------------------------------------------
# depths to the right: rates of tests

_TESTS = (("reading", "reads", "n_prompt", "n_gen"), ("decoding", "decodes", "n_gen", "n_prompt"))


def _by_test(rows: list[dict]):
    """(what, verb, (tokens, threads, device, model, its hash) of a test, its rows by setup and depth)."""
    for what, verb, own, other in _TESTS:
        places: dict = {}
        for row in rows:
            if row.get(own) and not row.get(other):
                machine = (row.get("n_threads") or 0, *(str(row.get(name)) for name in ("device", "model", "model_hash")))
                places.setdefault((row[own], *machine), {})[row["setup"], row.get("n_depth") or 0] = row
        for place, found in sorted(places.items()):
            yield what, verb, place, found


def rate_pivots(rows: list[dict]) -> list[str]:
    """The Markdown of a table for each test, out of rows that have a rate."""
    out, tests = [], list(_by_test(rows))
    many = len({place[1:] for _, _, place, _ in tests}) > 1
    for what, _, (n, n_threads, device, model, _), found in tests:
        setups, depths = list(dict.fromkeys(setup for setup, _ in found)), sorted({depth for _, depth in found})
        lines, cells = [], {setup: row["n_cells"] for (setup, _), row in found.items() if row.get("policy") and row.get("n_cells")}
        for setup in setups:
            at = [found.get((setup, depth)) for depth in depths]
            texts = [f"{row['avg_ts']:.1f} ± {row.get('stddev_ts') or 0:.1f}" if row else NOTHING for row in at]
            lines.append([f"`{setup}`", *([f"{cells[setup]:,}" if setup in cells else NOTHING] if cells else []), *texts])
        where = f"; {model}, {n_threads} threads, {device}" if many else ""
        columns = [(f"depth {depth}", True) for depth in depths]
        head = [("setup", False), *([("cells", True)] if cells else []), *columns]
        out += [f"{what.capitalize()}, {n} tokens{where}:\n", markdown(Table("", head, lines))]
        ratios = [
            [f"`{setup}`", *(_ratio_text(found.get((setup, depth))) for depth in depths)]
            for setup in setups
            if any(found.get((setup, depth), {}).get("ratio") for depth in depths)
        ]
        if ratios:
            head = [head[0], *columns]
            out += [f"{what.capitalize()}, times as fast as the full cache{where}:\n", markdown(Table("", head, ratios))]
    return out


def _ratio_text(row: dict | None) -> str:
    return interval(row["ratio"], decimals=2) if row and row.get("ratio") else NOTHING


def rate_sentences(rows: list[dict], default: str = DEFAULT) -> list[str]:
    """How many times as fast as the full cache the default policy is, at the largest depth that both have."""
    parts: dict = {}
    for _, verb, _, found in _by_test(rows):
        for setup in dict.fromkeys(setup for setup, _ in found if series_of(setup) == default):
            depths = [depth for name, depth in found if name == setup and ("full", depth) in found]
            if depths:
                depth = max(depths)
                own, full = found[setup, depth], found["full", depth]
                ratio = _ratio_text(own) if own.get("ratio") else f"{own['avg_ts'] / full['avg_ts']:.2f}"
                parts.setdefault((setup, depth, own.get("n_cells")), []).append(f"{verb} {ratio}")
    return [
        f"After {depth} tokens `{setup}`{f' in {cells:,} cells' if cells else ''} {' and '.join(said)} times as fast as the full cache."
        for (setup, depth, cells), said in parts.items()
    ]
