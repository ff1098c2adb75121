"""The tables of docs/bench.md, made from the commands, the records of kinds, the setups and the tasks.

    python -m capkv_edge.bench.reference docs/bench.md     # writes them between their marks

A table NAME stands between <!-- NAME: begin --> and <!-- NAME: end -->.
"""

import re
import sys
from pathlib import Path

import typer.main

from . import options
from .cli import app
from .kinds import KINDS
from .report.output import markdown
from .report.results import replace_part
from .report.tables import Table
from .run.setups import NAMES
from .tasks.longbench import TASKS as DATASETS
from .tasks.registry import TASKS


def _table(heads: str, lines) -> str:
    """Heads have commas between them; one with a > at its end is of numbers."""
    columns = [(head.strip(" >"), head.endswith(">")) for head in heads.split(",")]
    return markdown(Table("", columns, [list(map(str, line)) for line in lines]))


def _commands() -> dict:
    return typer.main.get_command(app).commands


def _option(param) -> list:
    if param.param_type_name == "argument":
        return [f"`{param.metavar}`", param.help, "needed"]
    default = param.show_default if isinstance(param.show_default, str) else param.default
    value = "needed" if param.required else "none" if default in (None, "") else "off" if default is False else default
    return [f"`{', '.join(param.opts)} {param.metavar}".strip() + "`", param.help, value]


def _is_shared(param) -> bool:
    """Whether an option is as SHARED declares it, with the same default."""
    return param.param_type_name == "option" and param.name in options.SHARED and param.default == options.SHARED[param.name][1]


def _options(command: str, shared: bool) -> str:
    params = [one for one in _commands()[command].params if one.name != "help" and _is_shared(one) == shared]
    return _table("option, what, default", map(_option, params))


def _kinds() -> str:
    lines = []
    for kind in KINDS.values():
        unit = f"{kind.units}, by {', '.join(f'`{name}`' for name in kind.group)}" if kind.unit else "rounds of a test"
        shown = kind.figures or [column for column in kind.columns if column.form != "text"]
        lines.append([f"`{kind.name}`", unit, "; ".join(one.label for one in shown)])
    return _table("kind, means over, columns", lines)


def _figures(kind: str) -> str:
    return _table("field, column, what", [[f"`{one.name}`", one.label, one.what] for one in KINDS[kind].figures])


def _tasks() -> str:
    lines = []
    for task in TASKS.values():
        around = f"the file of `{task.haystack}`" if task.form else task.haystack + ("" if task.own else " (or `--haystack`)")
        asked = f"{task.share}" + (f", at most {task.max_share}" if task.max_share > task.share else "")
        lines.append([f"`{task.name}`", task.what, around, asked])
    return _table("task, what is asked, text around it, questions about one text >", lines)


def tables() -> dict:
    """{name: Markdown of a table}."""
    out = {"commands": _table("command, what", [[f"`{name}`", one.help] for name, one in _commands().items()])}
    out["setups"] = _table("name, what", [[f"`{name}`", what] for name, what in NAMES.items()])
    out["kinds"] = _kinds()
    out |= {f"figures of {kind.name}": _figures(kind.name) for kind in KINDS.values() if kind.figures}
    out["tasks"] = _tasks()
    out["data sets"] = _table(
        "data set, metric, tokens of an answer >", [[f"`{name}`", f"`{one.metric}`", one.n_max] for name, one in DATASETS.items()]
    )
    out["shared options"] = _options("fidelity", shared=True)
    out |= {f"options of {name}": _options(name, shared=False) for name in _commands()}
    return out


def written(text: str) -> str:
    """The document with all its tables anew.

    Raises:
        ValueError: there is no table of a name that its marks have.
    """
    made = tables()
    for name in re.findall(r"<!-- ([\w ]+): begin -->", text):
        if name not in made:
            raise ValueError(f"table = {name}: allowed are {', '.join(made)}")
        text = replace_part(text, made[name], f"<!-- {name}: begin -->", f"<!-- {name}: end -->")
    return text


def main() -> None:
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
