"""The page against llama-server itself: what it shows is what the server's cache holds.

A token of the tiny model is a byte, and a space is three: the character that some vocabularies have for it.
"""

import json

import llama_server
import page_driving
import page_server
import pytest
from playwright.sync_api import expect

BUDGET = ("--kv-budget", 128, "--kv-recent", 16, "-c", 4096, "-b", 64, "-ub", 64, "-np", 1)
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 8
LEVELS = [0.999, 0.5, 0.2, 1e-9, -1]  # the least share of heads of each level of shading


@pytest.fixture
def serve(tiny_llama, tmp_path):
    """serve(options) -> a llama-server that has the page at /."""
    started = []

    def start(*options):
        started.append(llama_server.Server(tiny_llama, tmp_path, "--ui", "--path", page_server.PAGE.parent, *options))
        return started[-1]

    yield start
    assert [server.stop() for server in started] == [0] * len(started)


@pytest.fixture
def talk(open_page):
    """The page of a server, whose replies are 24 bytes of ASCII: random weights write anything else."""

    def start(server, **options):
        page = open_page(f"{server.url}/", **options)

        def add(route):
            body = json.loads(route.request.post_data)
            route.continue_(post_data=json.dumps({**body, "grammar": "root ::= [ -~]+", "ignore_eos": True, "max_tokens": 24}))

        page.route("**/v1/chat/completions", add)
        return page

    return start


def tokens_of(kept: dict, words: str) -> tuple[list, int, int]:
    """Where words stand in the text of a slot: the token of each of their characters, the first token and the one after the last."""
    of_chars = [i for i, text in enumerate(kept["text"]) for _ in text]
    at = "".join(kept["text"]).replace("\u2581", " ").index(words)
    found = of_chars[at : at + len(words)]
    return found, found[0], found[-1] + 1


def shown_levels(page, article: int) -> list:
    """For each character of a message: its level of shading, or "pin"."""
    return page.locator("article .body").nth(article).evaluate(
        """(body) => {
            const found = [], walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) {
                const { data, parentElement: span } = walker.currentNode;
                const level = span.tagName !== "SPAN" ? 0 : span.className === "pin" ? "pin" : Number(span.className[1]);
                for (const c of data) found.push([c, level]);
            }
            return found;
        }"""
    )


def test_the_page_shows_what_the_cache_holds(serve, talk):
    server = serve(*BUDGET)
    page = talk(server)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt", exact=True).fill("Be brief.")
    page.get_by_role("button", name="Save").click()
    page_driving.send(page, LONG)
    kept = server.get("/slots/0/kept")
    kv = server.get("/slots")["list"][0]["kv"]
    assert kv["evicted"] > 100
    expect(page.locator("#said")).to_contain_text(f"holds {kv['held']} of {kept['n_past']:,} tokens · budget 128 · {kv['pinned']} pinned")
    expect(page.get_by_role("note")).to_contain_text(f"{kv['evicted']} tokens were evicted")
    expect(page.locator("#pins q")).to_have_text("Be brief.")
    assert {level for _, level in shown_levels(page, 0)} == {"pin"}
    shares = [kept["share"][token] for token in tokens_of(kept, LONG.strip())[0]]
    expected = [next(i for i, least in enumerate(LEVELS) if share >= least) for share in shares]
    shown = shown_levels(page, 1)
    assert [level for c, level in shown[: len(shares)] if c != " "] == [level for c, level in zip(LONG, expected) if c != " "]
    assert {0, 4} < set(expected)


def test_pins_of_the_page_are_the_servers(serve, talk):
    server = serve(*BUDGET)
    page = talk(server)
    page_driving.send(page, "Remember the word castle, please.")
    page_driving.select(page, "castle")
    page.locator("#pick").get_by_role("button", name="Pin").click()
    expect(page.locator("#pins q")).to_have_text("castle")
    kept = server.get("/slots/0/kept")
    _, start, stop = tokens_of(kept, "castle")
    assert kept["pins"] == [[start, stop]] and stop - start == 6
    page_driving.send(page, LONG)
    kept = server.get("/slots/0/kept")
    assert kept["share"][start:stop] == [1.0] * 6 and min(kept["share"]) == 0
    page_driving.select(page, "quick brown")
    page.locator("#pick").get_by_role("button", name="Pin").click()
    expect(page.locator("#banner")).to_contain_text("This cannot be pinned:")
    page.get_by_role("button", name="Unpin: castle").click()
    expect(page.locator("#pins li")).to_have_count(0)
    assert server.get("/slots/0/kept")["pins"] == []


def test_a_smaller_budget_and_an_edited_history(serve, talk):
    server = serve(*BUDGET)
    page = talk(server)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Budget, tokens").fill("64")
    page.get_by_role("button", name="Save").click()
    page_driving.send(page, LONG)
    expect(page.locator("#said")).to_contain_text("budget 64")
    page.get_by_role("button", name="Edit: You").click()
    page.get_by_label("Message", exact=True).fill("So " + LONG)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("note").first).to_contain_text("The history was read anew")


def test_the_page_is_open_and_the_rest_needs_the_key(serve, talk):
    server = serve(*BUDGET, "--api-key", "secret")
    page = talk(server)
    page.get_by_role("button", name="Enter the key").click()
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Save").click()
    page_driving.send(page, "Hello")
    expect(page.locator("#said")).to_contain_text("The model holds all")
