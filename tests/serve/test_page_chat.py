"""The page of the server in a real browser: a conversation and its settings, against a server that stands in for llama-server."""

import pytest
from page_driving import LONG, expect_idle, send, start_sending
from playwright.sync_api import expect


def reply(page, n: int = -1):
    articles = page.locator("article.assistant .body")
    return articles.last if n < 0 else articles.nth(n)


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def test_each_turn_sends_the_whole_conversation(page, server):
    server.replies = ["It is *Lisbon*.", "Porto."]
    send(page, "Which city?")
    expect(reply(page)).to_have_text("It is Lisbon.")
    send(page, "And the second?")
    expect(reply(page)).to_have_text("Porto.")
    roles = [(m["role"], m["content"]) for m in server.chats()[1]["messages"]]
    assert roles == [("user", "Which city?"), ("assistant", "It is *Lisbon*."), ("user", "And the second?")]
    assert server.chats()[0]["n_keep"] == 0 and "kv_budget" not in server.chats()[0]
    expect(page.locator("article.assistant .under").last).to_contain_text("50.0 tokens/s")


def test_shift_enter_is_a_new_line_and_an_empty_message_is_not_sent(page, server):
    box = page.get_by_label("Message", exact=True)
    box.press("Enter")
    box.fill("one")
    box.press("Shift+Enter")
    box.type("two")
    assert box.input_value() == "one\ntwo" and server.chats() == []


def test_text_comes_in_pieces_and_escape_stops_it(page, server):
    server.replies = ["one two three four five"]
    server.gate.clear()
    start_sending(page, "Count.")
    expect(reply(page)).to_have_text("one two")
    expect(button(page, "Stop the reply")).to_be_visible()
    expect(button(page, "New")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("article.assistant .under")).to_contain_text("Stopped.")
    server.gate.set()
    expect_idle(page)
    server.replies = ["Fine."]
    send(page, "Go on.")
    assert [m["content"] for m in server.chats()[1]["messages"]] == ["Count.", "one two", "Go on."]


def test_a_new_conversation_can_be_taken_back(page, server):
    server.replies = ["First.", "Second."]
    send(page, "Hello")
    button(page, "New").click()
    expect(page.locator("article")).to_have_count(0)
    button(page, "Undo").click()
    expect(reply(page)).to_have_text("First.")
    button(page, "New").click()
    send(page, "Hello again")
    assert [m["content"] for m in server.chats()[1]["messages"]] == ["Hello again"]


def test_a_reload_keeps_the_conversation(page, server):
    server.replies = ["First."]
    send(page, "Hello")
    page.reload()
    expect(reply(page)).to_have_text("First.")
    expect(page.locator("#said")).to_contain_text("holds all")


def test_settings_go_with_the_request(page, server):
    button(page, "Settings").click()
    page.get_by_label("System prompt", exact=True).fill("You are Ada.")
    page.get_by_label("Temperature").fill("0.35")
    page.get_by_label("Longest reply, tokens").fill("50")
    page.get_by_label("Budget, tokens").fill("48")
    button(page, "Save").click()
    server.replies = ["Yes."]
    send(page, "Ada?")
    body = server.chats()[0]
    assert body["messages"][0] == {"role": "system", "content": "You are Ada."} and body["n_keep"] == -1
    assert (body["temperature"], body["max_tokens"], body["kv_budget"]) == (0.35, 50, 48)
    expect(page.locator("article.system .body")).to_have_text("You are Ada.")
    page.reload()
    button(page, "Settings").click()
    expect(page.get_by_label("Budget, tokens")).to_have_value("48")


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("Budget, tokens", "65", "Budget: a number from 1 to 64, or nothing."),
        ("Budget, tokens", "1.5", "Budget: a number from 1 to 64, or nothing."),
        ("Temperature", "-1", "Temperature: a number from 0 to 5, or nothing."),
        ("Longest reply, tokens", "0", "Longest reply: a whole number from 1 on, or nothing."),
    ],
)
def test_a_setting_that_is_out_of_range_is_refused(page, field, value, told):
    button(page, "Settings").click()
    page.get_by_label(field).fill(value)
    button(page, "Save").click()
    expect(page.locator("dialog .wrong")).to_have_text(told)
    expect(page.get_by_label(field)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()


def test_an_edited_message_replaces_what_follows_it(page, server):
    server.replies = ["One.", "Two.", "Three."]
    send(page, "First")
    send(page, "Second")
    page.get_by_role("button", name="Edit: You").first.click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("First")
    page.get_by_label("Message", exact=True).fill("Changed")
    button(page, "Send").click()
    expect(reply(page)).to_have_text("Three.")
    expect_idle(page)
    assert [m["content"] for m in server.chats()[2]["messages"]] == ["Changed"]
    expect(page.locator("article")).to_have_count(2)


def test_the_last_reply_can_be_asked_for_again(page, server):
    server.replies = ["One.", "Two."]
    send(page, "First")
    page.get_by_role("button", name="Again: Model").click()
    expect(reply(page)).to_have_text("Two.")
    expect_idle(page)
    assert server.chats()[0]["messages"] == server.chats()[1]["messages"]
    expect(page.locator("article")).to_have_count(2)


def test_a_text_file_is_put_into_the_message(page, server):
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": "a text".encode()})
    expect(page.get_by_label("Message", exact=True)).to_have_value("a text")
    page.locator("#file").set_input_files({"name": "a.bin", "mimeType": "", "buffer": b"\0\1"})
    expect(page.get_by_role("alert").first).to_contain_text("a.bin is not a text file.")


def test_evictions_and_rereading_are_told(page, server):
    server.replies = ["Read.", "Yes.", "Again read."]
    send(page, "Short")
    expect(page.get_by_role("note")).to_have_count(0)
    send(page, LONG + " " + LONG)
    kv = server.slot.kv()
    expect(page.get_by_role("note")).to_contain_text(f"{kv['evicted']} tokens were evicted")
    expect(page.get_by_role("note")).to_contain_text(f"{kv['held']} of {kv['held'] + kv['evicted']} tokens")
    page.get_by_role("button", name="Edit: You").first.click()
    start_sending(page, LONG + " other")
    expect(page.get_by_role("note").first).to_contain_text("The history was read anew")


def test_reasoning_is_folded(open_page, server, page):
    page.evaluate("message = { role: 'assistant', content: 'Four.', thought: 'Two and <b>two</b>.' }; talk.messages = [message]; draw()")
    summary = page.get_by_text("Reasoning")
    expect(page.locator("details.thought div")).to_be_hidden()
    summary.click()
    expect(page.locator("details.thought div")).to_have_text("Two and <b>two</b>.")


def test_messages_stay_on_the_screen_when_others_come(page, server):
    server.replies = ["One.", "Two."]
    send(page, "First")
    page.locator("article").first.evaluate("node => { node.dataset.old = 'yes'; }")
    send(page, "Second")
    expect(page.locator("article")).to_have_count(4)
    expect(page.locator("article[data-old]")).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text("Two.")
