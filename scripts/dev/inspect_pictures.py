"""Make docs/pictures/inspect*.png: pages of capkv-inspect in a browser without a window.

    .venv/bin/python scripts/dev/inspect_pictures.py [options of capkv-inspect; they override those here]

Needs chromium (Debian: apt install chromium) and playwright. The page itself stays in build/inspect.
"""

import shutil
import sys
from pathlib import Path

from capkv_edge.inspector import cli

ROOT = Path(__file__).resolve().parents[2]
BUILD, PICTURES = ROOT / "build" / "inspect", ROOT / "docs" / "pictures"
WIDTH = 1240
OPTIONS = ["--tokens", "1200", "--budget", "128", "--batch", "64", "--policy", "capkv,snapkv", "--title", "Compound statements"]

#: picture -> (what is chosen on the page, the first figure on it, the last one)
SHOTS = {
    "inspect": ("choose({})", "text", "time"),
    "inspect-heads": ("choose({ moment: 7, head: 40 })", "heads", "scores"),
}


def write_page(args: list) -> Path:
    """The page of a chapter of the Python language reference."""
    from pydoc_data.topics import topics

    BUILD.mkdir(parents=True, exist_ok=True)
    text, page = BUILD / "python-reference.txt", BUILD / "page.html"
    text.write_text(topics["compound"], encoding="utf-8")
    if status := cli.main(["demo", "--file", str(text), "-o", str(page), *OPTIONS, *args]):
        sys.exit(status)
    return page


def take_pictures(page_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_path.as_uri())
        page.wait_for_selector("body[data-ready]")
        page.add_style_tag(content="nav { position: static !important; }")
        for name, (code, first, last) in SHOTS.items():
            page.evaluate(code)
            page.wait_for_timeout(300)
            top = 0 if first == "text" else page.locator(f"#{first}").bounding_box()["y"] - 12
            box = page.locator(f"#{last}").bounding_box()
            clip = {"x": 0, "y": top, "width": WIDTH, "height": box["y"] + box["height"] + 12 - top}
            page.screenshot(path=PICTURES / f"{name}.png", full_page=True, clip=clip)
            print(PICTURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    take_pictures(write_page(sys.argv[1:]))
