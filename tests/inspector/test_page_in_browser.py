"""The page in a browser: what it shows is what the cache holds, and nothing is fetched."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from browser import open_browser

from capkv_edge.inspector import cli

TEXT = "The <b>page</b> says </script><script>window.hacked = 1</script> & keeps it as text: größer, 日本.\n" * 9
OPTIONS = dict(kv_budget=64, n_batch=32, kv_sink=4, kv_recent=16)
FAST = ["--threads", "1", "--budget", "64", "--batch", "32", "--recent", "16"]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def opened(browser, tiny_llama, tmp_path):
    """Makes a page with options of capkv-inspect and opens it: a page of playwright. No error and no request may come of it."""
    (tmp_path / "text.txt").write_text(TEXT)
    faults, contexts = [], []

    def open_page(*args, **options):
        assert cli.main([str(tiny_llama), *map(str, args), "-o", "page.html", "--threads", "1"]) == 0
        contexts.append(browser.new_context(accept_downloads=True, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: faults.append(request.url) if request.url.startswith(("http", "ws")) else None)
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def two(opened):
    return opened("-f", "text.txt", "--policy", "capkv,keydiff", *FAST[2:])


@pytest.fixture
def read(make_llama, tiny_llama):
    """A Llama that has read TEXT as the command did."""

    def make(policy="capkv"):
        llm = make_llama(tiny_llama, kv_policy=policy, **OPTIONS)
        tokens = llm.tokenize(TEXT.encode(), add_bos=True, special=False)
        llm.eval(tokens)
        return llm

    return make


def shading(page, box=0):
    """The class of the shading of each token."""
    names = page.evaluate("box => [...document.querySelectorAll('.text')[box].querySelectorAll('span')].map(one => one.className)", box)
    return [next(one for one in name.split() if re.fullmatch(r"[se]\d+|u", one)) for name in names]


def steps(share):
    return [f"s{int(np.floor(value * 10 + 0.5)) or int(value > 0)}" for value in share.astype(float)]


def settle(page):
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_the_text_is_shaded_by_the_share_of_heads(two, read):
    for box, policy in enumerate(("capkv", "keydiff")):
        share = read(policy).kv_kept()
        assert 0 < share.min() + share.max() and len(set(share.tolist())) > 3
        assert shading(two, box) == steps(share)


def test_the_text_stays_text(two):
    words = two.locator(".text").first.text_content().replace("▁", " ")  # the tiny model has no token for a blank
    assert words.endswith(TEXT) and two.evaluate("window.hacked") is None and two.locator(".text b").count() == 0


def test_a_click_on_a_row_shows_the_tokens_of_its_head(two, read):
    two.locator("#map svg").scroll_into_view_if_needed()
    place = two.locator("#map svg image").first.bounding_box()
    two.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] * 2.5 / 4)  # 2 layers of 2 heads
    settle(two)
    assert (two.input_value("#layer"), two.input_value("#head")) == ("1", "0")
    two.select_option("#shade", "head")
    settle(two)
    held = read().kv_positions(1, 0).tolist()
    assert [i for i, name in enumerate(shading(two)) if name == "s6"] == held
    two.select_option("#layer", "0")
    settle(two)
    assert [i for i, name in enumerate(shading(two)) if name == "s6"] == read().kv_positions(0, 0).tolist()


def test_the_slider_goes_through_the_evictions(two, read):
    assert int(two.get_attribute("#moment", "max")) == read().kv_stats().n_evictions + 1 >= 4
    two.evaluate("() => { const slider = document.getElementById('moment'); slider.value = 1; slider.oninput(); }")
    settle(two)
    n_read = two.evaluate("page.runs[0].evictions[0].read")
    names = shading(two)
    assert set(names[n_read:]) == {"u"} and "u" not in names[:n_read]
    assert f"1 of {read().kv_stats().n_evictions}: {n_read:,} tokens read" in two.text_content("#says")
    assert two.evaluate("page.runs[0].positions(2, 1).length") == 64
    assert "right before eviction 1" in two.text_content("#scores figcaption")


def test_a_token_says_which_heads_hold_it(two, read):
    llm = read()
    token = int(np.flatnonzero((llm.kv_kept() > 0) & (llm.kv_kept() < 1))[0])
    two.evaluate("i => reveal(i)", token)
    two.locator(f".text span[data-i='{token}']").first.hover()
    n_held = round(float(llm.kv_kept()[token]) * 4)
    assert f"position {token} " in two.text_content("#tip") and f"held by {n_held} of 4 heads" in two.text_content("#tip")
    two.locator(f".text span[data-i='{token}']").first.click()
    settle(two)
    assert two.input_value("#measure") == "token"
    first = two.evaluate("page.heads.map((_, h) => MEASURES.token.of(page.runs[0], h, state.moment, state.token))")
    assert sum(first) == n_held


def test_two_policies_are_compared(two, read):
    two.select_option("#shade", "difference")
    settle(two)
    one, other = (read(name).kv_kept() for name in ("capkv", "keydiff"))
    assert shading(two, 0) == steps(np.maximum(one - other, 0))
    assert shading(two, 1) == [name.replace("s", "e") for name in steps(np.maximum(other - one, 0))]


def test_figures_are_saved(two, tmp_path):
    for figure in ("text", "map", "time", "heads", "capacity", "scores"):
        two.wait_for_timeout(300)  # chromium drops a page's downloads beyond ten in a second
        for name, start in (("SVG", b"<?xml"), ("PNG", b"\x89PNG")):
            with two.expect_download() as waiting:
                two.locator(f"#{figure} button", has_text=name).click()
            assert waiting.value.suggested_filename == f"capkv-{figure}.{name.lower()}"
            waiting.value.save_as(tmp_path / "saved")
            data = (tmp_path / "saved").read_bytes()
            assert data.startswith(start)
            if name == "SVG":
                root = ET.fromstring(data)
                size = [int(root.get(key)) for key in ("width", "height")]
                assert len(list(root.iter())) > 10
            else:
                assert [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)] == [3 * one for one in size]


def test_a_session_has_no_times(opened, read, tmp_path):
    llm = read()
    llm.save_session(tmp_path / "talk.session")
    page = opened("--session", "talk.session")
    assert shading(page) == steps(llm.kv_kept())
    assert not page.is_visible("#moments") and not page.is_visible("#time")
    assert "a saved session says what is held" in page.text_content("#facts")
    assert page.is_visible("figure#scores")


def test_a_text_that_fits(opened, tmp_path):
    (tmp_path / "short.txt").write_text("short")
    page = opened("-f", "short.txt", *FAST[2:])
    assert "All 6 tokens are held" in page.text_content("#lead") and set(shading(page)) == {"s10"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_window(opened, scheme, width):
    page = opened("-f", "text.txt", "--policy", "capkv,keydiff", *FAST[2:], color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("palette.name") == scheme


def test_the_page_is_printed(two, tmp_path):
    two.pdf(path=str(tmp_path / "page.pdf"))
    assert Path(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and two.evaluate("palette.name") == "light"
