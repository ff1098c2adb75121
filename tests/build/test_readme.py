"""What README shows was measured, printed or drawn by this code."""

import json
import re
from pathlib import Path

from scripts_under_test import load_script

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = [json.loads(line) for line in (ROOT / "docs" / "results" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_table_of_figures_is_that_of_the_rows():
    script = load_script("dev/docs_tables.py")
    rows = script.read_rows()
    assert script.figure_table() in README
    assert script.figure_table().count("| **budget 512** | 13 MiB |") == 1
    changed = [dict(row, same_top=0.5) if row["kind"] == "fidelity" and row["setup"] == "capkv@512:q8_0" else row for row in rows]
    assert "| **budget 512** | 13 MiB | 50.0 % |" in script.figure_table(changed)


def pooled(which: str, document: str = "results.md") -> tuple:
    """({policy: ratio} that `capkv` wins against, {policy: ratio} that it ties with) in a document, of all or of held-out texts."""
    results = (ROOT / "docs" / document).read_text(encoding="utf-8")
    start = f"- At equal budget, mean KL divergence as a share of the other's, all cells {which}"
    line = next(line for line in results.splitlines() if line.startswith(start))
    assert "loses to" not in line
    wins, _, ties = line.partition("ties with")
    return tuple({name: ratio.lstrip("0") for name, ratio in re.findall(r"`([\w-]+)` \(([\d.]+)\)", part)} for part in (wins, ties))


def test_the_verdicts_are_those_of_the_results():
    wins, ties = pooled("pooled")
    assert f"`capkv` loses {min(wins.values())} to {max(wins.values())} of what most others lose" in README
    assert set(ties) == {"expected"} and f"ties with `expected` ({ties['expected']})" in README
    wins, ties = pooled("of held-out texts")
    assert len(wins) == 8 and f"it wins against eight policies ({min(wins.values())} to {max(wins.values())})" in README
    assert set(ties) == {"expected", "snapkv", "capkv-ref"}
    assert "and ties with `expected`, `snapkv` and `capkv-ref`" in README
    wins, ties = pooled("pooled", "second-model.md")
    assert len(wins) == len(ties) == 4
    assert f"it wins against four of eight ({min(wins.values())} to {max(wins.values())}) and ties with the others" in README


def test_the_speed_is_that_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = re.search(r"After 32768 tokens `capkv@1024` in [\d,]+ cells reads ([\d.]+) .*decodes ([\d.]+) ", results)
    reads, decodes = (f"{float(ratio):.1f}" for ratio in found.groups())
    assert f"After 32,768 tokens a budget of 1,024 reads {reads} and decodes {decodes} times as fast" in README


def test_the_picture_is_drawn_from_the_rows():
    script = load_script("dev/readme_picture.py")
    with script.style.drawing():
        figure = script.draw(ROWS, script.LIGHT)
        svg = script.to_svg(figure)
    cache, quality = figure.axes
    assert {text.get_text() for text in cache.texts} >= {"sinks", "chosen middle", "recent tail", "headroom"}
    shares = {line.get_label(): line.get_xdata() for line in quality.lines}
    assert len(shares["capkv"]) == 4 and max(shares["capkv"]) < 1
    assert "prefers-color-scheme: dark" in svg and script.LIGHT not in svg.partition("</style>")[2]
    assert "docs/picture.svg" in README and (ROOT / "docs" / "picture.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_sample_is_of_the_demos_command():
    script = load_script("demo.py")
    for words in (f"--budget {script.BUDGET} ", *script.QUESTIONS):
        assert words in README.partition("$ capkv-chat demo ")[2].partition("\n")[0]


def messages() -> list[str]:
    """The messages that docs/troubleshooting.md quotes: the first column of its tables."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and not line.startswith("| status")]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def said() -> str:
    """All that the project's code may print, with literals that are written in parts put together."""
    places = ("Makefile", "native/**/*.cpp", "capkv_edge/**/*.py", "cmake/*", "scripts/**/*.py")
    files = [path for place in places for path in ROOT.glob(place)]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))


def test_the_messages_of_the_troubleshooting_are_real():
    source, found = said(), messages()
    assert len(found) > 40
    fragments = {message: [part for part in message.split("...") if part.strip(" :,()'")] for message in found}
    assert {message for message, parts in fragments.items() if not all(part.strip() in source for part in parts)} == set()
