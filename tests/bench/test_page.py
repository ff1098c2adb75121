"""The page of capkv-bench: it needs no other file, its HTML is sound, and text from rows is never markup."""

import re
from collections import Counter
from html.parser import HTMLParser

import bench_rows
import pytest

from capkv_edge.bench.report import page
from capkv_edge.bench.report.plots.style import series_class

VOID = {"meta", "input", "br", "link", "img"}
HOSTILE = "\"><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>&amp;\u2028.gguf"


class Reader(HTMLParser):
    """Tags in order, text, ids; fails where an element is closed that is not the innermost open one."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.words, self.classes = [], [], [], [], Counter()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.classes.update((dict(attrs).get("class") or "").split())
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def some_rows():
    names = ("full", "q4_0", "capkv@256", "capkv@512", "h2o@512")
    rows = bench_rows.fidelity(6, names=names, corpora=("novel",), lengths=(4096,))
    rows += bench_rows.retrieval(6, names=names, tasks=("needle",), lengths=(2048,))
    return rows + bench_rows.speed(names=("full", "capkv@512"), depths=(0, 2048))


@pytest.fixture(scope="module")
def text():
    return page.render(some_rows(), "capkv-bench fidelity demo --rows rows.jsonl")


def test_the_page_is_sound_and_ids_are_unique(text):
    found = Reader(text)
    assert found.tags[0][0] == "html" and found.tags.count(("figure", {})) == 4
    assert len(found.ids) == len(set(found.ids)) > 10


def test_every_reference_inside_the_page_has_its_target(text):
    found = Reader(text)
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert wanted and wanted <= set(found.ids)


def test_nothing_is_loaded_from_elsewhere(text):
    assert not re.search(r"https?://|@import|\bsrc\s*=", text)
    for tag, attrs in Reader(text).tags:
        assert tag not in ("link", "iframe", "object", "embed", "img")
        assert all((attrs.get(name) or "#").startswith(("#", "data:image/png;base64,")) for name in ("href", "xlink:href"))


def test_it_says_what_was_run_and_what_eviction_means(text):
    words = " ".join(Reader(text).words)
    for part in ("capkv-bench fidelity demo --rows rows.jsonl", "What was evicted is gone.", "a1b2c3d", "a CPU with 2 cores"):
        assert part in words
    assert "made-up-256M-Q4_1.gguf" in words and bench_rows.COMMON["model_hash"] in words


def test_it_is_readable_in_the_dark(text):
    assert "prefers-color-scheme: dark" in text and "currentColor" in text
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 4 and not any("#ffffff" in svg.split("</defs>")[0].lower() for svg in svgs[:2])


def test_a_box_hides_a_policy_in_tables_and_in_plots(text):
    found = Reader(text)
    boxes = [attrs["value"] for tag, attrs in found.tags if tag == "input"]
    assert boxes == [series_class(name) for name in ("capkv", "h2o", "q4_0")]
    for name in boxes:
        rows = [attrs for tag, attrs in found.tags if tag == "tr" and name in attrs.get("class", "").split()]
        parts = [attrs for tag, attrs in found.tags if tag == "g" and attrs.get("class") == name]
        assert rows and parts


def test_text_from_rows_is_never_markup():
    names = ("full", "capkv@512", "h2o@512")
    rows = bench_rows.fidelity(5, names=names, corpora=("novel",), lengths=(4096,))
    hostile = dict(
        model=HOSTILE, model_type=HOSTILE, corpus=HOSTILE, device=HOSTILE, commit=HOSTILE, build=HOSTILE, date=HOSTILE
    )
    rows = [row | hostile | dict(setup=row["setup"].replace("h2o", HOSTILE)) for row in rows]
    text = page.render(rows, HOSTILE)
    found, tame = Reader(text), Reader(page.render(bench_rows.fidelity(5, names=names, corpora=("novel",), lengths=(4096,))))
    assert [tag for tag, _ in found.tags if tag in ("script", "img")] == ["script"]
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in tame.tags}
    assert "".join(found.words).count(HOSTILE) >= 8


def test_the_page_of_no_rows_is_a_page(tmp_path):
    path = page.write([], tmp_path / "new" / "folder")
    assert path.name == "index.html" and "nothing was measured" in path.read_text(encoding="utf-8")
    Reader(path.read_text(encoding="utf-8"))


def test_the_same_rows_give_the_same_page(text):
    assert page.render(some_rows(), "capkv-bench fidelity demo --rows rows.jsonl") == text
