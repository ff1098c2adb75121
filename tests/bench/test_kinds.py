"""A kind of measurement is one record: a made-up kind is added as one, and everything that shows rows shows it."""

import ast
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import bench_rows
import pytest

from capkv_edge.bench import kinds, report
from capkv_edge.bench.kinds import KINDS, Column, Drawing, Figure, Kind
from capkv_edge.bench.report import caveats, output, page, results, summary, verdicts
from capkv_edge.bench.report.plots import draw
from capkv_edge.bench.run.rows import Store

WEATHER = Kind(
    name="weather",
    title="Sun and rain",
    about="How much it rains.",
    introduction="Rain in millimetres; less is better.",
    key=("model_hash", "city", "month", "setup"),
    unit="month",
    units="months",
    group=("city",),
    group_more=("height",),
    figures=(
        Figure("rain", "rain, mm", -1, "rain of a month", called="rain", decimals=2),
        Figure("sun", "sun, %", 1, "share of hours with sun", called="sunshine", scale=100, optional=True),
    ),
    where=lambda group: f"the city of {group['city']}",
    uneven=(("gauge", "rain was measured with different gauges"),),
    plots=(Drawing("clouds", "bytes", "Rain against bytes", "rain, mm"),),
)
SPIN = Kind(
    name="spin",
    title="Turns",
    about="How fast it turns.",
    introduction="Turns per second.",
    key=("model_hash", "setup", "test", "round"),
    columns=(Column("machine", "device", right=False), Column("turns/s", "avg_ts", "rate")),
    plots=(Drawing("turns", "rates", "Turns against depth", "turns per second"),),
)
NAMES = ("full", "q4_0", "capkv@512", "snapkv@512", "capkv@1024", "snapkv@1024")


@pytest.fixture(autouse=True)
def _added(monkeypatch):
    for kind in (WEATHER, SPIN):
        monkeypatch.setitem(kinds.KINDS, kind.name, kind)


def weather(**changes) -> list:
    out = []
    for setup in NAMES:
        for month in range(8):
            fields = bench_rows.setup_fields(setup, 4096)
            rain = {None: 1.0, "capkv": 2.0, "snapkv": 3.0}[fields["policy"]] + 0.01 * month
            row = dict(bench_rows.COMMON, kind="weather", city="Bergen", height=12, month=month, gauge=1, rain=rain)
            out.append(row | fields | changes)
    return out


def spin() -> list:
    return [dict(row, kind="spin", round=1) for row in bench_rows.speed(names=("full", "capkv@1024"), depths=(0, 4096))]


def test_its_key_says_which_row_is_measured_already(tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    for row in weather():
        assert not store.done(row)
        store.add(row)
    again = Store(store.path)
    assert all(again.done(row) for row in weather()) and not again.done({**weather()[0], "month": 99})


def test_its_rows_are_averaged_over_its_units_in_its_groups():
    found = summary.summaries(weather(), "weather")
    assert [one.setup for one in found] == list(NAMES[:3]) + ["capkv@1024", "snapkv@512", "snapkv@1024"]
    assert {one.n for one in found} == {8} and found[0].figures["rain"].mean == pytest.approx(1.035)
    assert {one.where for one in found} == {"the city of Bergen"}


def test_its_table_and_its_verdicts_are_printed():
    text = output.render(weather(sun=0.5), "md")
    assert "### Sun and rain\n\nHow much it rains." in text
    heads = [[name.strip() for name in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|") and "setup" in line]
    assert heads[0] == ["city", "setup", "KV MiB", "of f16", "months", "rain, mm", "sun, %"]
    assert heads[1] == ["city", "setup", "against", "at", "units", "difference", "p", "p, Holm", "verdict"]
    assert "### Sun and rain: capkv against" in text and "### Sun and rain, sun, %: capkv against" in text
    assert "3.03 [3.02, 3.05]" in text and "| wins" in text and "| ties" in text


def test_its_rows_are_in_the_formats_for_programs():
    rows = weather()
    assert json.loads(output.render(rows, "json")) == rows
    assert [json.loads(line) for line in output.render(rows, "jsonl").splitlines()] == rows
    assert [float(row["rain"]) for row in csv.DictReader(io.StringIO(output.render(rows, "csv")))] == [row["rain"] for row in rows]


def test_sentences_name_its_figure_and_its_units():
    found = summary.comparisons(summary.summaries(weather(), "weather"))
    text = " ".join(verdicts.sentences(found))
    assert "At equal budget, rain over the same months: of 2 comparisons `capkv` wins 2" in text
    assert "It loses to `full` on the city of Bergen (`capkv@512`, `capkv@1024`)." in text


def test_its_caveats_are_told():
    rows = weather()
    mixed = [row | dict(gauge=2 if row["policy"] == "snapkv" else 1) for row in rows]
    assert caveats.find_caveats(rows) == []
    assert caveats.find_caveats(mixed) == ["weather: rain was measured with different gauges"]
    assert "weather: some groups have more months for other setups than for full" in caveats.find_caveats(rows[1:])
    dry = [row | dict(rain=None) if row["setup"] == "full" else row for row in rows]
    assert "weather: rain is not a number in rows of full: no mean is given there" in caveats.find_caveats(dry)


def test_it_has_a_part_of_the_document_with_its_picture(monkeypatch):
    text = results.results(weather(sun=0.5), images={"clouds": "clouds.png"})
    assert "### Sun and rain\n\nRain in millimetres; less is better.\n" in text
    assert text.index("![clouds](clouds.png)") < text.index("the city of Bergen, 8 months:")
    assert "| policy   |" in text and "sunshine (more is better):" in text
    assert "budget 512" in text and "| Bergen" not in text
    monkeypatch.setitem(kinds.KINDS, "weather", replace(WEATHER, across=("city",), where=None))
    assert re.search(r"\| setup +\| +Bergen \|", results.results(weather()))


def test_columns_of_one_name_say_what_tells_them_apart(monkeypatch):
    monkeypatch.setitem(kinds.KINDS, "weather", replace(WEATHER, across=("city",), beside=("height",), where=None))
    rows = [*weather(), *weather(city="Oslo", height=23)[:-1]]  # other heights, but no other columns of the same city
    assert re.search(r", 7 to 8 months:\n\n\| setup +\| +Bergen \| +Oslo \|", results.results(rows))
    rows += weather(height=320)
    assert re.search(r"\| setup +\| +Bergen \(height 12\) \| +Bergen \(height 320\) \| +Oslo \|", results.results(rows))


def test_its_plot_is_drawn_and_shown_on_the_page():
    rows = weather()
    (plot,) = draw.plots(rows, floor=0.5)
    assert (plot.name, plot.title) == ("clouds", "Rain against bytes")
    assert "Lower and further left is better" in plot.caption and "over n months" in plot.caption
    assert [text.get_text() for ax in plot.figure.axes for text in [ax._left_title]] == ["the city of Bergen, n = 8"]
    shown = page.render(rows, "command")
    for part in ("<h2>Rain against bytes</h2>", "<h3>Sun and rain</h3>", "How much it rains.", "rain over the same months"):
        assert part in shown


def test_a_kind_of_tests_has_its_columns_sentences_and_plot():
    rows = spin()
    head = [name.strip() for name in output.render(rows, "md").splitlines()[0].strip("|").split("|")]
    assert head == ["machine", "turns/s"]
    text = results.results(rows)
    assert "### Turns\n\nTurns per second.\n" in text and "- After 4096 tokens `capkv@1024` reads" in text
    assert "Reading, 512 tokens:" in text and "depth 4096" in text
    assert [(plot.name, plot.title) for plot in draw.plots(rows)] == [("turns", "Turns against depth")]
    assert "<h3>Turns</h3>" in page.render(rows)


def test_nothing_that_shows_rows_names_a_kind():
    """A module that treats one kind apart would not treat a new one as it treats the others."""
    named = []
    for path in Path(report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in KINDS:
                named.append(f"{path.name}: {node.value}")
    assert named == []


def test_records_are_complete():
    for kind in KINDS.values():
        assert kind.title and kind.about and kind.introduction and "setup" in kind.key
        assert bool(kind.unit) == bool(kind.units) == bool(kind.judged) != bool(kind.columns)
        assert kind.unit in kind.key or not kind.unit
        assert all(drawing.how in draw.DRAW for drawing in kind.plots)
        assert set(kind.across) <= set(kind.group) and set(kind.beside) <= set(kind.fields) and set(kind.lengths) <= set(kind.fields)
        assert len({figure.name for figure in kind.figures}) == len(kind.figures)
