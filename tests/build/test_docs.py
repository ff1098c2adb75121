"""The tables of README.md and docs/ say what the program declares."""

import re

import pytest
from scripts_under_test import load_script

from capkv_edge import policies
from capkv_edge.chat.cli import CHAT_BUDGET

docs_tables = load_script("dev/docs_tables.py")
DOCUMENTS = docs_tables.documents()
README = DOCUMENTS[docs_tables.ROOT / "README.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_generated_table_is_what_is_generated(path):
    assert docs_tables.filled(DOCUMENTS[path]) == DOCUMENTS[path], "scripts/dev/docs_tables.py writes it"


def test_the_readme_has_all_tables():
    assert [found[2] for found in docs_tables.MARKED.finditer(README)] == ["figures", "options", "policies"]


def test_a_table_that_differs_is_written_anew():
    altered = README.replace("| `sink` | 4 |", "| `sink` | 5 |")
    assert altered != README and docs_tables.filled(altered) == README


def test_the_budget_of_capkv_chat():
    assert f"`capkv-chat` starts with a budget of {CHAT_BUDGET}." in README


def test_the_table_of_policies_names_them_all_with_the_papers_of_their_files():
    text = (docs_tables.ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\|([^|]*)\|$", text, re.MULTILINE))
    assert list(rows) == list(policies())
    for policy, source in rows.items():
        papers = re.findall(r"arXiv \d+\.\d+", source)
        head = (docs_tables.ROOT / "native" / "policies" / f"{policy}.cpp").read_text(encoding="utf-8").split("#include")[0]
        assert all(paper in head for paper in papers) and bool(papers) == ("arXiv" in head), policy
