"""The page of the server in a real browser: the budget bar, the shading of what was evicted, pins, and where words stand."""

import re

import page_server
from page_driving import LONG, expect_idle, pin_requests, select, send, start_sending
from playwright.sync_api import expect

LEVELS = [0.999, 0.5, 0.2, 1e-9, -1]  # the least share of heads of each level of shading


def level(share: float) -> int:
    return next(i for i, least in enumerate(LEVELS) if share >= least)


def words_by_level(page, article: int) -> dict:
    """word -> level of shading ("pin" for a pinned one), as the browser shows them."""
    return page.locator("article .body").nth(article).evaluate(
        """(body) => {
            const found = {}, walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) {
                const span = walker.currentNode.parentElement, level = span.tagName === "SPAN" ? span.className : "h0";
                const words = walker.currentNode.data.split(/\\s+/).filter(Boolean);
                for (const word of words) found[word] = level === "pin" ? level : Number(level[1]);
            }
            return found;
        }"""
    )


def held_by_word(slot) -> dict:
    return {token.strip(): share for token, share in zip(slot.tokens, slot.share)}


def test_the_bar_says_what_is_held(page, server):
    bar, said = page.get_by_role("meter"), page.locator("#said")
    expect(said).to_have_text("The model holds nothing yet · budget 64")
    server.replies = ["Yes.", "Read."]
    send(page, "Hello there")
    n = len(server.slot.tokens)
    expect(said).to_have_text(f"The model holds all {n} tokens · budget 64")
    assert (bar.get_attribute("aria-valuenow"), bar.get_attribute("aria-valuemax")) == (str(n), "96")
    send(page, LONG + " " + LONG)
    kv = server.slot.kv()
    expect(said).to_have_text(f"The model holds {kv['held']} of {kv['held'] + kv['evicted']} tokens · budget 64 · {kv['evicted']} evicted")
    widths = bar.locator("i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert [round(width * 96 / 100) for width in widths] == [0, kv["held"] - kv["tail"], kv["tail"]]
    figures = page.locator("#figures").inner_text()
    assert re.search(rf"Evictions\s+{kv['evictions']}, 0\.\d s", figures) and "93 %" in figures


def test_the_bar_follows_while_a_reply_is_written(page, server):
    server.replies = ["one two three four"]
    server.gate.clear()
    start_sending(page, "Count")
    expect(page.locator("article.assistant .body")).to_have_text("one two")
    expect(page.locator("#said")).to_contain_text(f"holds all {len(server.slot.tokens)} tokens")  # before the last chunk, which has figures
    server.gate.set()
    expect_idle(page)


def test_text_is_shaded_by_the_share_of_heads_that_hold_it(page, server):
    server.replies = ["Yes, *all* of it.", "Fine."]
    send(page, LONG)
    send(page, " ".join(f"more{i}" for i in range(60)))
    shares = held_by_word(server.slot)
    expected = {word: level(share) for word, share in shares.items() if word.startswith("word")}
    assert set(expected.values()) >= {0, 3, 4}
    expect(page.locator("article .body .h4").first).to_be_visible()
    assert words_by_level(page, 0) == expected
    later = words_by_level(page, 2)
    assert later == {word: level(share) for word, share in shares.items() if word.startswith("more")}
    assert later["more59"] == 0
    page.get_by_label("Shade what was evicted").uncheck()
    assert set(words_by_level(page, 0).values()) == {0}


def test_a_selection_is_pinned_and_unpinned(page, server):
    server.replies = ["The number is *seven* and nothing else."]
    send(page, "Keep the word castle in mind")
    select(page, "castle in")
    pick = page.locator("#pick")
    expect(pick).to_contain_text("2 tokens: all heads hold them")
    pick.get_by_role("button", name="Pin").click()
    start = server.slot.tokens.index(" castle")
    expect(page.locator("#pins q")).to_have_text("castle in")
    assert pin_requests(server) == [("pin", start, start + 2)]
    assert {word for word, value in words_by_level(page, 0).items() if value == "pin"} == {"castle", "in"}
    expect(page.locator("#said")).to_contain_text("2 pinned")
    select(page, "castle")
    pick.get_by_role("button", name="Unpin").click()
    expect(page.locator("#pins li")).to_have_count(1)  # a part of a pin: the stand-in keeps it
    page.get_by_role("button", name="Unpin: castle in").click()
    expect(page.locator("#pins li")).to_have_count(0)
    assert server.slot.pins == []


def test_a_selection_in_markdown_is_the_tokens_of_its_words(page, server):
    server.replies = ["- one **two** three\n- [four five](https://example.org) six"]
    send(page, "List")
    for words, first, n in (("two three", " **two**", 2), ("four five", " [four", 2)):
        select(page, words, "article.assistant")
        page.locator("#pick").get_by_role("button", name="Pin").click()
        expect(page.locator("#pick")).to_be_hidden()
        start = server.slot.tokens.index(first)
        expect(page.get_by_role("status")).to_have_text("Pinned 2 tokens.")
        expect_idle(page)
        assert pin_requests(server)[-1] == ("pin", start, start + n)


def test_a_message_is_pinned_with_its_role(page, server):
    server.replies = ["Yes."]
    send(page, "Hello there")
    page.get_by_role("button", name="Pin: You", exact=True).click()
    expect(page.locator("#pins q")).to_have_text("Hello there")
    (_, start, stop) = pin_requests(server)[0]
    assert "".join(server.slot.tokens[start:stop]) == "<|im_start|>user\nHello there<|im_end|>"


def test_what_was_evicted_cannot_be_pinned(page, server):
    server.replies = ["Read."]
    send(page, LONG + " " + LONG)
    gone = next(token.strip() for token, share in zip(server.slot.tokens, server.slot.share) if share == 0 and len(token) == 7)
    select(page, gone)
    expect(page.locator("#pick")).to_contain_text("no head holds them")
    page.locator("#pick").get_by_role("button", name="Pin").click()
    expect(page.locator("#banner")).to_contain_text("This cannot be pinned: positions")


def test_nothing_is_pinned_in_a_slot_that_holds_another_text(page, server):
    server.replies = ["Yes."]
    send(page, "Hello there")
    server.slot.read(page_server.chatml([{"role": "user", "content": "Somebody else"}]))
    page.get_by_role("button", name="Pin: You", exact=True).click()
    expect(page.locator("#banner")).to_contain_text("This cannot be pinned: the slot holds another text now")
    assert pin_requests(server) == []


def test_words_are_found_with_the_heads_that_hold_them(page, server):
    server.replies = ["Read.", "And this."]
    send(page, LONG)
    send(page, "A castle at the end")
    page.get_by_label("Find words, and who holds them").fill("CASTLE")
    start = server.slot.tokens.index(" castle")
    expect(page.locator("#hits small")).to_have_text(f"You, position {start}: all heads hold them")
    page.get_by_role("button", name="Pin: castle").click()
    expect(page.locator("#pins q")).to_have_text("castle")
    assert pin_requests(server) == [("pin", start, start + 1)]
    page.get_by_label("Find words, and who holds them").fill("nowhere")
    expect(page.locator("#hits")).to_have_text("These words are not in the text.")


def test_the_system_prompt_is_pinned(page, server):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt", exact=True).fill("You are Ada.")
    page.get_by_role("button", name="Save").click()
    server.replies = ["Yes."]
    send(page, "Hello")
    expect(page.locator("#pins q")).to_have_text("You are Ada.")
    assert set(words_by_level(page, 0).values()) == {"pin"}


def test_tokens_that_cut_a_character_and_texts_that_come_back_changed_are_aligned(page):
    joined = page.evaluate("textsOf([[0xF0, 0x9F], [0x98, 0x80, 33], ' ok'])")
    places_of = "([texts, ...contents]) => align(texts, contents.map((content) => ({ content }))).map((place) => [...place])"
    assert joined == ["", "😀!", " ok"]
    # a template that trims, and a character that the server could not send
    places = page.evaluate(places_of, [["<s>", "ab", " cd", "\ufffd", " ef", "</s>"], "\n ab cdé ef "])
    assert places == [[-1, -1, 1, 1, 2, 2, 2, -1, 4, 4, 4, -1]]
    # what stands before a text is not taken for a part of it, and spaces may have a character of their own
    late = page.evaluate(places_of, [["Be", "|", "Because", "\u2581we ", "\ufffd", " go"], "Because we é go"])
    assert late == [[2] * 7 + [3] * 4 + [-1] + [5] * 3]
    twice = page.evaluate(places_of, [["a", " b", "|", "a", " b"], "a b", "a b"])
    assert twice == [[0, 1, 1], [3, 4, 4]]
