"""A browser for the tests of the page, and a server that stands in for llama-server."""

import browser
import page_server
import pytest
from playwright.sync_api import expect

PATIENCE_MS = 30_000  # a machine may be busy: no test waits for this long where all is well
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium():
    with browser.open_browser() as opened:
        yield opened


@pytest.fixture
def server():
    server = page_server.PageServer()
    yield server
    server.close()


@pytest.fixture
def open_page(chromium):
    """open_page(url, **options of a context) -> a page. Fails the test if the page logs an error, or asks another server for anything."""
    opened = []

    def start(url, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" and "Failed to load" not in line.text else None)
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None)
        page.goto(url)
        opened.append((context, faults))
        return page

    yield start
    for context, faults in opened:
        context.close()
        assert faults == []


@pytest.fixture
def page(open_page, server):
    """The page of the server, in a wide window."""
    return open_page(server.url)


@pytest.fixture(scope="module")
def still_page(chromium):
    """A page that no test changes, and whose errors no test looks at."""
    server = page_server.PageServer()
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.url)
    yield page
    context.close()
    server.close()
