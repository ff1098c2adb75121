"""What the tests of the page do with it again and again."""

from playwright.sync_api import expect

LONG = " ".join(f"word{i}" for i in range(60))


def send(page, text: str) -> None:
    """Send a message and wait until the reply is complete and what is held is shown."""
    n = page.locator("article.assistant").count()
    start_sending(page, text)
    expect(page.locator("article.assistant")).to_have_count(n + 1)
    expect_idle(page)


def start_sending(page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def expect_idle(page) -> None:
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)


def select(page, words: str, message: str = "article") -> None:
    """Select words of the conversation as a mouse would."""
    page.locator(message, has_text=words).first.locator(".body").evaluate(
        """(body, words) => {
            const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT), nodes = [];
            let text = "";
            while (walker.nextNode()) { nodes.push([walker.currentNode, text.length]); text += walker.currentNode.data; }
            const place = (at) => { const [node, start] = nodes.findLast(([, start]) => start <= at); return [node, at - start]; };
            const from = text.indexOf(words), last = place(from + words.length - 1);
            getSelection().setBaseAndExtent(...place(from), last[0], last[1] + 1);
        }""",
        words,
    )


def pin_requests(server) -> list:
    """(action, start, stop) of each request to pin or unpin."""
    return [(path.partition("=")[2], body["start"], body["stop"]) for path, body in server.requests if "action=" in path]
