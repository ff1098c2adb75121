"""docs/bench.md and docs/results.md say what the code and the rows say."""

import re
from pathlib import Path

import pytest

from capkv_edge.bench import reference
from capkv_edge.bench.report import results
from capkv_edge.bench.run.rows import Store
from capkv_edge.bench.run.setups import NAMES, Setup
from capkv_edge.bench.tasks.registry import TASKS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_tables_of_bench_md_are_those_that_the_code_gives():
    text = (DOCS / "bench.md").read_text(encoding="utf-8")
    assert text == reference.written(text), "python -m capkv_edge.bench.reference docs/bench.md writes them"
    assert set(re.findall(r"<!-- ([\w ]+): begin -->", text)) >= {"commands", "kinds", "setups", "tasks", "shared options"}


def test_tables_have_all_tasks_setups_and_arguments():
    made = reference.tables()
    assert all(f"| `{name}`" in made["tasks"] for name in TASKS)
    assert all(f"| `{name}`" in made["setups"] and Setup.parse(name).name == name for name in NAMES)
    assert "capkv,expected,snapkv,streaming" in made["options of tune"] and "ROWS.jsonl" in made["options of report"]


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="table = songs: allowed are commands, setups"):
        reference.written("<!-- songs: begin -->\n<!-- songs: end -->\n")


@pytest.mark.parametrize("name, folder", [("results", ""), ("second-model", "second"), ("gpu-results", "gpu"), ("speed-1b", "1b")])
def test_documents_have_what_their_rows_give(name, folder):
    """If this fails after a change of the report: capkv-bench results or report.results.write() writes the part anew."""
    document, folder = DOCS / f"{name}.md", DOCS / "results" / folder
    text, rows = document.read_text(encoding="utf-8"), Store(folder / "rows.jsonl").rows()
    assert text == results.replace_part(text, results.results(rows, images=results.images_of(document, folder)))


def test_pictures_stand_in_the_order_of_their_numbers(tmp_path):
    for name in ("heat-10", "heat-2", "answer-loss"):
        (tmp_path / f"{name}.png").touch()
    assert list(results.images_of(tmp_path / "a.md", tmp_path).items())[1:] == [("heat-2", "heat-2.png"), ("heat-10", "heat-10.png")]
