"""The generated part of docs/results.md: tables and sentences between two marks, all of it from rows."""

import os
from math import isfinite, nan
from pathlib import Path

from .caveats import notes
from .output import markdown
from .speed_pivots import speed_pivots, speed_sentences
from .summary import DEFAULT, KINDS, Cell, all_comparisons, cells
from .tables import NOTHING, TITLES, Table, interval, percent, rounds_merged, text_of
from .verdicts import sentences

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def results(rows: list[dict], default: str = DEFAULT, images: dict | None = None) -> str:
    """The Markdown of all that the rows show; images are links by the names of their plots."""
    parts, images = [_about(rows)], images or {}
    for kind in KINDS:
        found = cells(rows, kind)
        if not found:
            continue
        parts += [f"### {TITLES[kind]}\n", _INTRO[kind] + "\n"]
        said = [sentence for paired in all_comparisons(found, default) for sentence in sentences(paired)]
        parts += ["".join(f"- {sentence}\n" for sentence in said)]
        parts += _pictures(images, {"fidelity": "quality"}.get(kind, kind))
        parts += _fidelity(found) if kind == "fidelity" else _scores(found, kind)
        parts += _pictures(images, "heat") if kind == "retrieval" else []
    speed = [row for row in rounds_merged(rows) if row.get("avg_ts")]
    if speed:
        parts += [f"### {TITLES['speed']}\n", _INTRO["speed"] + "\n"]
        parts += ["".join(f"- {sentence}\n" for sentence in speed_sentences(speed, default))]
        parts += _pictures(images, "speed") + [
            text for table in speed_pivots(speed) for text in (table.title + ":\n", markdown(table))
        ]
    found = notes(rows)
    parts += ["Notes:\n", "".join(f"- {note}\n" for note in found)] if found else []
    return "\n".join(part for part in parts if part)


def _pictures(images: dict, name: str) -> list[str]:
    return [f"![{one}]({link})\n" for one, link in images.items() if one == name or one.startswith(name + "-")]


_INTRO = {
    "fidelity": "Mean KL divergence of the next token's distribution from that of the full f16 cache, in nats, with its 95 % "
    "bootstrap interval over documents. The best policy of each column is bold.\n"
    "A verdict is on paired differences: a win or a loss is an interval without zero; where two policies are truly equal, "
    "about one in twenty shows as a win or a loss by chance.",
    "retrieval": "Score in % with its 95 % bootstrap interval over texts. The best policy at each budget is bold.\n"
    "blind: what was evicted was evicted before the question was known; aware: after the question was read.",
    "longbench": "Score in % with its 95 % bootstrap interval over items. The best policy at each budget is bold.",
    "speed": "Tokens per second after so many tokens, mean ± standard deviation.",
}


def _about(rows: list[dict]) -> str:
    def seen(name):
        return ", ".join(sorted({text_of(row.get(name)) for row in rows if row.get(name) is not None}))

    models = ", ".join(sorted({f"{row.get('model')} ({row.get('model_type')})" for row in rows}))
    return f"Model: {models}. Machine: {seen('device')}. Commit {seen('commit')}, llama.cpp of {seen('pin')}.\n"


def _bold_best(texts: list[str], cells: list, figure: str, better: int) -> list[str]:
    """Texts of a column with the best policy's mean in bold, and every other that reads the same."""
    known = [
        i for i, cell in enumerate(cells) if cell and cell.policy and cell.figures[figure].mean == cell.figures[figure].mean
    ]
    if len(known) < 2:
        return texts
    best = texts[max(known, key=lambda i: better * cells[i].figures[figure].mean)].partition(" ")[0]
    out = list(texts)
    for i in known:
        mean, space, rest = texts[i].partition(" ")
        if mean == best:
            out[i] = f"**{mean}**{space}{rest}"
    return out


def _fidelity(found: list[Cell]) -> list[str]:
    """Per group a table of policies downwards, budgets to the right, and a line on the quantized full caches."""
    out, places = [], {}
    for cell in found:
        places.setdefault(cell.place, []).append(cell)
    many = len({place[:2] for place in places}) > 1
    for members in places.values():
        first = members[0]
        budgets = sorted({cell.budget for cell in members if cell.policy is not None and cell.budget})
        at: dict = {}
        for cell in members:
            if cell.policy is not None and cell.budget:
                at.setdefault(cell.series, {}).setdefault(cell.budget, cell)  # the first where "=TYPE" came to the same budget
        columns = [[f"`{series}`" for series in at]]
        for budget in budgets:
            column = [row.get(budget) for row in at.values()]
            texts = [interval(cell.figures["kl_mean"]) if cell else NOTHING for cell in column]
            columns.append(_bold_best(texts, column, "kl_mean", -1))
        model = f"{first.model}, " if many else ""
        out.append(f"{model}{first.where}, {max(cell.n for cell in members)} documents:\n")
        if budgets:
            head = [("policy", False), *((f"budget {budget}", True) for budget in budgets)]
            out.append(markdown(Table("fidelity", "", head, list(zip(*columns)))))
            shares = [f"{_shares([row[b] for row in at.values() if b in row])} at {b}" for b in budgets]
            out.append(f"Bytes held, of the full f16 cache: {', '.join(shares)}.\n")
        whole = [cell for cell in members if cell.policy is None and cell.type_k != "f16"]
        if whole:
            texts = [f"`{cell.setup}` {interval(cell.figures['kl_mean'])} in {percent(cell.share)}" for cell in whole]
            out.append(f"Quantized full caches: {', '.join(texts)} of the bytes.\n")
    return out


def _shares(members: list[Cell]) -> str:
    shares = sorted(cell.share for cell in members)
    low, high = percent(shares[0]), percent(shares[-1])
    return low if low == high else f"{low[:-2]} to {high}"


def _scores(found: list[Cell], kind: str) -> list[str]:
    """Per length, haystack and mode a table of setups downwards, tasks or data sets to the right."""
    task = KINDS[kind].group[0]
    groups: dict = {}
    for cell in found:
        rest = tuple((name, text_of(value)) for name, value in cell.group.items() if name not in (task, "metric"))
        groups.setdefault((cell.model, cell.model_hash, rest), []).append(cell)
    out, many = [], len({key[:2] for key in groups}) > 1
    for (model, _, _), members in groups.items():
        where = members[0].where.partition(" in ")[2] if kind == "retrieval" else members[0].group["mode"]
        units = "texts" if kind == "retrieval" else "items"
        out.append(f"{f'{model}, ' if many else ''}{where}, {max(cell.n for cell in members)} {units}:\n")
        out.append(_score_table(members, kind, "score", 100, 0))
        known = [cell for cell in members if isfinite(getattr(cell.figures.get("nll"), "mean", nan))]
        if known:
            out += ["The expected answer, nats per token (less is better):\n", _score_table(known, kind, "nll", 1, None)]
    return out


def _score_table(members: list[Cell], kind: str, figure: str, scale: float, decimals) -> str:
    """Setups downwards by budget, tasks or data sets to the right."""
    task, better = KINDS[kind].group[0], KINDS[kind].figures[figure]
    tasks = list(dict.fromkeys(cell.group[task] for cell in members))
    at = {(cell.setup, cell.group[task]): cell for cell in members}
    setups = {cell.setup: cell for cell in members}
    setups = sorted(setups, key=lambda one: setups[one].budget or 0)
    columns = [[f"`{setup}`" for setup in setups]]
    for name in tasks:
        column = [at.get((setup, name)) for setup in setups]
        texts = [interval(cell.figures[figure], scale=scale, decimals=decimals) if cell else NOTHING for cell in column]
        for budget in sorted({cell.budget for cell in column if cell and cell.budget}):
            same = [cell if cell and cell.budget == budget else None for cell in column]
            texts = _bold_best(texts, same, figure, better)
        columns.append(texts)
    metrics = {cell.group[task]: f" ({cell.group['metric']})" for cell in members if kind == "longbench"}
    names = [text_of(name) + metrics.get(name, "") for name in tasks]
    return markdown(Table(kind, "", [("setup", False), *((name, True) for name in names)], list(zip(*columns))))


def replace_part(text: str, part: str) -> str:
    """The document with the part between its marks replaced.

    Raises:
        ValueError: the marks are missing, are there more than once, or in the wrong order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the document has to have one line {BEGIN} and after it one line {END}")
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{part.strip()}\n\n{END}{rest.partition(END)[2]}"


def write(document, rows: list[dict], folder=None, default: str = DEFAULT) -> Path:
    """Replace the generated part of a document by what the rows show; returns its path. Plots in the folder are linked.

    Raises:
        ValueError: the document does not have the two marks.
    """
    path = Path(document)
    found = sorted(Path(folder).glob("*.png")) if folder is not None else []
    images = {one.stem: Path(os.path.relpath(one, path.parent)).as_posix() for one in found}
    text = replace_part(path.read_text(encoding="utf-8"), results(rows, default, images))
    path.write_text(text, encoding="utf-8")
    return path
