"""Make docs/pictures/page*.png: the server's page in a browser without a window, with a real conversation of the demo model.

    .venv/bin/python scripts/dev/page_pictures.py [URL]    # of a server that runs; without, it starts capkv-serve

Needs chromium (Debian: apt install chromium) and playwright.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
OPTIONS = ["--budget", "512", "-np", "1", "--", "-b", "256", "--temp", "0"]
SYSTEM = "You are Ada, the Python teacher of a school in Lisbon. The school opens at nine."
WORDS = "dangling"  # is looked for
PATIENCE_MS = 900_000

#: picture -> (width, height, colours, the panel is open)
SHOTS = {
    "page": (1280, 860, "light", True),
    "page-dark": (1280, 860, "dark", True),
    "page-narrow": (390, 780, "light", False),
    "page-narrow-dark": (390, 780, "dark", True),
}


def start_server() -> tuple[subprocess.Popen, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "capkv-serve", "demo", "--port", str(port), *OPTIONS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}health").close()
            return process, url
        except OSError:
            time.sleep(0.2)
    sys.exit(f"capkv-serve ended with status {process.returncode}")


def send(page, text: str) -> None:
    n = page.locator("article.assistant").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    page.locator("article.assistant").nth(n).wait_for()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    page.locator("[aria-busy]").first.wait_for(state="detached")


def talk(page) -> None:
    """A rule in the system prompt, a chapter of the Python language reference, a question about its end."""
    from pydoc_data.topics import topics

    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt", exact=True).fill(SYSTEM)
    page.get_by_label("Longest reply, tokens").fill("48")
    page.get_by_role("button", name="Save").click()
    chapter = topics["if"].strip() + "\n\n" + topics["compound"].strip()
    send(page, "Please read this.\n\n" + chapter[:20_000])
    send(page, "What is a suite, and when does the school open?")
    page.get_by_role("button", name="Pin: Model", exact=True).last.click()  # short enough to be in the exact tail
    page.locator("#pins li").nth(1).wait_for()
    page.get_by_label("Find words").fill(WORDS)
    page.get_by_role("button", name="All: You", exact=True).click()


def main() -> None:
    from playwright.sync_api import sync_playwright

    server, url = (None, sys.argv[1]) if sys.argv[1:] else start_server()
    PICTURES.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            talk(page)
            for name, (width, height, scheme, panel) in SHOTS.items():
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=scheme)
                page.evaluate("(open) => { openSide(open); document.activeElement.blur(); }", panel)
                page.evaluate("() => { for (const name of ['side', 'scroll']) document.getElementById(name).scrollTop = 0; }")
                page.wait_for_timeout(500)
                page.screenshot(path=PICTURES / f"{name}.png")
                print(PICTURES / f"{name}.png")
            browser.close()
    finally:
        if server:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
