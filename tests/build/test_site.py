"""The documents build as a site: every link leads somewhere, every document is in its table of contents."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts_under_test import load_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, NO_MKDOCS_2_WARNING="1"))
    assert done.returncode == 0, done.stdout + done.stderr  # strict: a warning fails
    return folder


def test_the_site_has_a_page_for_each_document_in_its_contents(site):
    contents = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    pages = {path.with_suffix(".md").name for path in site.glob("*.html")} - {"404.md"}
    assert pages == contents and {path.name for path in (ROOT / "docs").glob("*.md")} < contents


def test_the_python_page_describes_the_class(site):
    page = (site / "api.html").read_text(encoding="utf-8")
    assert all(f'id="capkv_edge.llama.llama.Llama.{name}"' in page for name in ("kv_stats", "pin", "compress", "save_session"))


def test_nothing_is_loaded_from_a_network(site):
    for path in site.glob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link[^>]* href="([^"]+)"', path.read_text(encoding="utf-8"))
        assert [a or b for a, b in loaded if re.match(r"(https?:)?//", a or b)] == [], path.name


def test_links_follow_the_files():
    pytest.importorskip("mkdocs")
    rewritten = load_script("dev/docs_site.py").rewritten
    assert rewritten("server.md", "[a](../README.md#options) [b](pins.md)") == "[a](start.md#options) [b](pins.md)"
    assert rewritten("start.md", "[c](docs/gpu.md) ![d](docs/picture.svg)") == "[c](gpu.md) ![d](picture.svg)"
    assert rewritten("start.md", "[the list](native/capkv-archs.def)") == "the list (`native/capkv-archs.def`)"
