"""The page's Markdown, its accessibility, and the hashes of its Content-Security-Policy."""

import random
from pathlib import Path

import page_driving
import pytest
from playwright.sync_api import expect
from scripts_under_test import load_script

MARKDOWN = {
    "a *b* **c** ***d*** ~~e~~ `f*`": "<p>a <em>b</em> <strong>c</strong> <strong><em>d</em></strong> <del>e</del> <code>f*</code></p>",
    "2 * 3 * 4 and a_b_c and \\*x\\*": "<p>2 * 3 * 4 and a_b_c and *x*</p>",
    "# One\n### Three": "<h3>One</h3><h5>Three</h5>",
    "- a\n  - b\n- c\n\nd": "<ul><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ul><p>d</p>",
    "3. a\n4. b": '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>',
    "> a\n> > b": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>",
    "```py\nx < 1\n": '<pre tabindex="0"><code>x &lt; 1\n\n</code></pre>',
    "```\n# a\n```\nb": '<pre tabindex="0"><code># a\n</code></pre><p>b</p>',
    "|a|b|\n|-|-|\n|1|*2*|": '<div class="table" tabindex="0"><table><tr><th>a</th><th>b</th></tr>'
    "<tr><td>1</td><td><em>2</em></td></tr></table></div>",
    "a\n---\nb": "<p>a\n---\nb</p>",
    "---": "<hr>",
    "[a](javascript:x) [b](ftp://x)": "<p>[a](javascript:x) [b](ftp://x)</p>",
}


@pytest.mark.parametrize("source", MARKDOWN)
def test_markdown(still_page, source):
    found = still_page.evaluate("(text) => el('div', {}, ...blocks(linesOf(text), null).map((block) => block.node)).innerHTML", source)
    assert found == MARKDOWN[source]


def test_each_piece_of_text_knows_where_it_stands(still_page):
    pieces = ["*", "**", "_", "`", "```", "\n", "\n\n", " ", "  ", "- ", "1. ", "> ", "# ", "|", "|-|-|\n", "a", "bc", "é", "\\", "~~"]
    pieces += ["[x](https://a.b)", "https://c.d "]
    source = random.Random(1)
    texts = ["".join(source.choices(pieces, k=source.randint(1, 40))) for _ in range(400)]
    texts += ["*" * 5000, "[" * 5000, "> " * 3000, "- " * 3000, "`" * 5000, "|a" * 3000, "_a " * 3000]
    wrong = still_page.evaluate(
        """(texts) => texts.filter((text) => {
            const marks = { level: new Uint8Array(text.length), pin: new Uint8Array(text.length) };
            const box = el("div", {}, ...blocks(linesOf(text), marks).map((block) => block.node));
            const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) {
                const { data } = walker.currentNode, at = sourceOf.get(walker.currentNode), place = text.slice(at, at + data.length);
                if (place !== data && place + "\\n" !== data) return true;
            }
            return false;
        })""",
        texts,
    )
    assert wrong == []


CONTRASTS = (Path(__file__).resolve().parents[1] / "helpers" / "contrasts.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(open_page, server, scheme):
    page = open_page(server.url, color_scheme=scheme)
    server.replies = ["Yes, `code` and [a link](https://example.org).\n\n> quoted", "Fine.", (400, "no")]
    page_driving.send(page, page_driving.LONG)
    page_driving.send(page, " ".join(f"more{i}" for i in range(60)))
    page.get_by_role("button", name="Pin: Model", exact=True).last.click()
    page_driving.expect_idle(page)
    page.get_by_label("Find words").fill("more5")
    page_driving.start_sending(page, "refused")
    expect(page.locator("#banner")).to_be_visible()
    assert page.locator("article .body .h3, article .body .h4").count() > 5 and page.locator("article .body .pin").count() > 0
    assert page.evaluate(CONTRASTS) == []
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate(CONTRASTS) == []


def test_everything_can_be_reached_and_is_named(page, server):
    server.replies = ["Yes."]
    page_driving.send(page, "Hello")
    is_unnamed = "!(node.getAttribute('aria-label') || node.innerText || node.labels?.length)"
    fields = page.locator("button:visible, input:visible, textarea:visible")
    assert fields.evaluate_all(f"nodes => nodes.filter(node => {is_unnamed}).map(node => node.outerHTML)") == []
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("[document.activeElement].map(node => node.getAttribute('aria-label') || node.innerText || node.id)[0]"))
    names = ["Go to the message field", "New", "Settings", "Memory", "Pin: You", "Copy: Model", "Again: Model", "Message", "Send"]
    for name in (*names, "shade", "find"):
        assert name in seen, f"{name} is not reached with Tab: {seen}"
    expect(page.get_by_role("status")).to_have_text("Yes.")


def test_a_narrow_window_has_all_of_it(open_page, server):
    page = open_page(server.url, viewport={"width": 320, "height": 600})
    server.replies = ["```\n" + "x" * 300 + "\n```\n\n" + "y" * 300]
    page_driving.send(page, "z" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.evaluate("document.getElementById('scroll').scrollWidth <= 320")
    expect(page.get_by_role("complementary")).to_be_hidden()
    page.get_by_role("button", name="Memory").click()
    expect(page.get_by_role("complementary")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_be_hidden()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_in_viewport(ratio=1)


def test_the_hashes_in_the_page_are_those_of_its_style_and_script():
    hashes = load_script("dev/page_hashes.py")
    text = hashes.PAGE.read_text(encoding="utf-8")
    assert hashes.with_hashes(text) == text
    changed = hashes.with_hashes(text.replace('"use strict"', '"use strict";'))
    assert changed.partition("<style>")[0] != text.partition("<style>")[0]
