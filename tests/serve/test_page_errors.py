"""The page when the server refuses, is gone, or breaks off; and text of a model that tries to be more than text."""

import page_server
from page_driving import expect_idle, send, start_sending
from playwright.sync_api import expect


def alert(page):
    return page.locator("#banner")


def box(page):
    return page.get_by_label("Message", exact=True)


def test_a_refused_message_goes_back_into_the_field(page, server):
    server.replies = [(400, "the request exceeds the available context size")]
    start_sending(page, "Too long")
    expect(alert(page)).to_contain_text("The server refused the message: the request exceeds the available context size")
    expect(box(page)).to_have_value("Too long")
    expect(page.locator("article")).to_have_count(0)
    server.replies = ["Fine."]
    box(page).press("Enter")
    expect(page.locator("article.assistant .body")).to_have_text("Fine.")
    expect(alert(page)).to_be_hidden()


def test_the_key_is_asked_for_and_sent(open_page, server):
    server.api_key = "secret"
    page = open_page(server.url)
    expect(alert(page)).to_contain_text("The server asks for an API key.")
    for key, told in (("wrong", "The server does not accept this API key."), ("secret", None)):
        page.get_by_role("button", name="Enter the key").click()
        expect(page.get_by_label("API key")).to_be_focused()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Save").click()
        expect(alert(page)).to_contain_text(told) if told else expect(alert(page)).to_be_hidden()
    server.replies = ["Open."]
    send(page, "Hello")
    expect(page.locator("article.assistant .body")).to_have_text("Open.")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_server_that_is_gone_is_waited_for(page, server):
    server.replies = ["One."]
    send(page, "Hello")
    port = server.port
    server.close()
    start_sending(page, "Are you there?")
    expect(alert(page)).to_contain_text("The server does not answer")
    expect(box(page)).to_have_value("Are you there?")
    back = page_server.PageServer(port=port)
    try:
        back.replies = ["I am."]
        expect(alert(page)).to_be_hidden()
        box(page).press("Enter")
        expect(page.locator("article.assistant .body").last).to_have_text("I am.")
        expect_idle(page)
    finally:
        back.close()


def test_a_reply_that_breaks_off_is_kept_and_said(page, server):
    server.replies, server.broken_after = ["one two three"], 2
    start_sending(page, "Count")
    expect(page.locator("article.assistant .under")).to_contain_text("The reply broke off.")
    expect(page.locator("article.assistant .body")).to_have_text("one two")


def test_a_page_that_is_left_during_a_reply_keeps_what_came(page, server):
    server.replies = ["one two three", "Yes."]
    server.gate.clear()
    start_sending(page, "Count")
    expect(page.locator("article.assistant .body")).to_have_text("one two")
    page.reload()
    expect(page.locator("article.assistant .body")).to_have_text("one two")
    expect(page.locator("article.assistant .under")).to_have_text("The reply broke off.")
    server.gate.set()
    page.evaluate("talk.messages = [{ role: 'user', content: 'Count' }, { role: 'assistant', content: '' }]")
    page.reload()
    expect(page.locator("article")).to_have_count(0)
    expect(box(page)).to_have_value("Count")


def test_a_server_without_a_budget_is_a_chat_without_the_bar(open_page):
    server = page_server.PageServer(budget=None)
    try:
        page = open_page(server.url)
        server.replies = ["Yes."]
        send(page, "Hello")
        expect(page.locator("#memory")).to_be_hidden()
        expect(page.get_by_role("button", name="Memory")).to_be_hidden()
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_label("Budget, tokens")).to_be_disabled()
    finally:
        server.close()


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1)) and [data](data:text/html,hi)",
    "![pixel](http://127.0.0.1:9/pixel.png)",
    "`<b>` **<i>bold</i>** \"><svg onload=alert(1)>",
    "| <u>a</u> | b |\n|---|---|\n| <s>1</s> | 2 |",
    "```html\n<form action=http://127.0.0.1:9><button>x</button></form>\n```",
]


def test_what_a_model_writes_stays_text(page, server):
    allowed = {"P", "A", "SPAN", "CODE", "STRONG", "DIV", "TABLE", "TR", "TH", "TD", "PRE"}
    page.on("dialog", lambda dialog: (_ for _ in ()).throw(AssertionError("a script ran")))
    for text in HOSTILE:
        server.replies = [text]
        send(page, text)
    body = page.locator("article.assistant .body")
    tags = set(body.locator("*").evaluate_all("nodes => nodes.map(node => node.tagName)"))
    assert tags <= allowed and {"TABLE", "PRE", "STRONG"} <= tags
    links = body.locator("a").evaluate_all("nodes => nodes.map(node => [node.getAttribute('href'), node.rel])")
    assert links == [["http://127.0.0.1:9/pixel.png", "noopener noreferrer"]]
    assert page.locator("article.user .body :not(span)").count() == 0
    assert "<script>alert(1)</script>" in body.all_inner_texts()


def test_the_browser_forbids_html_from_text_and_other_servers(still_page):
    page = still_page
    outcome = "() => { try { %s; return 'done'; } catch (error) { return error.name; } }"
    assert page.evaluate(outcome % "document.body.innerHTML = '<b>x</b>'") == "TypeError"
    assert page.evaluate("() => fetch('data:text/plain,x').then(() => 'sent', () => 'refused')") == "refused"
    assert page.evaluate(outcome % "document.body.setAttribute('onclick', 'x()')") == "TypeError"
